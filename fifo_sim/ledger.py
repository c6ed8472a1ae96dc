"""From the words a run leaves behind to its account: times, occupancies, and where every cycle went."""

from __future__ import annotations

import numpy as np

import kernels.sim_layout as at
from fifo_sim.compile import Layout, State, Words
from fifo_sim.pipeline import Pipeline
from fifo_sim.result import SimResult, Times

_COLUMNS = (at.FIRED, at.FIRINGS, at.AT_WORK, at.START, at.FREE, at.PUSHED_LAST, at.BLOCKED, at.WAITED)


def result_of(pipeline: Pipeline, layout: Layout, state: State) -> SimResult:
    """The account of a run in which nothing can happen any more."""
    rows = state.stages[layout.row_of_stage]
    finished = bool((rows[:, at.FIRED] == rows[:, at.FIRINGS]).all())
    if finished:
        horizon = int(rows[:, at.FREE].max())
        stalls = _finished_stalls(pipeline, layout, rows, horizon)
    else:
        horizon, stalls = _halted_stalls(pipeline, layout, state, rows)
    times = _times(pipeline, rows, state) if len(state.starts) else (None, None)
    return SimResult(horizon if finished else None, not finished, _peaks(state), stalls, horizon, *times)


def _finished_stalls(pipeline: Pipeline, layout: Layout, rows: Words, horizon: int) -> dict[str, dict[str, int]]:
    free, blocked, waited = rows[:, (at.FREE, at.BLOCKED, at.WAITED)].T.tolist()
    return {
        stage.name: {
            "busy": busy,
            "starved": end - busy - block - wait,
            "blocked": block,
            "resource": wait,
            "drained": horizon - end,
        }
        for stage, busy, end, block, wait in zip(pipeline.stages, layout.busy, free, blocked, waited, strict=True)
    }


def _halted_stalls(
    pipeline: Pipeline, layout: Layout, state: State, rows: Words
) -> tuple[int, dict[str, dict[str, int]]]:
    """The last cycle in which something happened, and where the cycles up to then went; for a deadlock."""
    columns, horizon = rows[:, _COLUMNS].tolist(), 0
    for stage, (fired, _, at_work, start, free, pushed_last, _, _) in zip(pipeline.stages, columns, strict=True):
        horizon = max(horizon, free, pushed_last)
        if at_work:
            horizon = max(horizon, start + stage.service_pattern.at(fired))
    stalls = {}
    for i, (stage, busy) in enumerate(zip(pipeline.stages, layout.busy, strict=True)):
        fired, firings, at_work, start, free, _, blocked, resource = columns[i]
        drained = 0
        if fired == firings:
            drained = horizon - free
        else:
            busy = stage.service_pattern.total(fired + at_work)
            if at_work:
                blocked += horizon - start - stage.service_pattern.at(fired)
            else:
                inputs_there, space_there = _last_wait(layout, state, rows[i], horizon)
                blocked += space_there - inputs_there
                resource += horizon - space_there
        starved = horizon - busy - blocked - resource - drained
        stalls[stage.name] = {
            "busy": busy,
            "starved": starved,
            "blocked": blocked,
            "resource": resource,
            "drained": drained,
        }
    return horizon, stalls


def _times(pipeline: Pipeline, rows: Words, state: State) -> tuple[Times, Times]:
    """Starts and ends of the firings that have started, or ended."""
    starts: Times = {}
    ends: Times = {}
    all_starts, all_ends = state.starts.view(np.int64), state.ends.view(np.int64)
    columns = rows[:, (at.FIRED, at.AT_WORK, at.HISTORY, at.HISTORY_STRIDE)].tolist()
    for stage, (fired, at_work, first, stride) in zip(pipeline.stages, columns, strict=True):
        begun = fired + at_work
        starts[stage.name] = all_starts[first : first + begun * stride : stride]
        ends[stage.name] = all_ends[first : first + fired * stride : stride]
    return starts, ends


def _peaks(state: State) -> list[int]:
    """Largest occupancies; the run has not looked at tokens that nobody gave back."""
    pushed = state.edges[:, at.PUSHED]
    peaks = np.maximum(state.edges[:, at.PEAK], pushed - state.edges[:, at.RELEASED])
    return np.where(pushed == 0, 0, peaks).tolist()  # type: ignore[no-any-return]


def _last_wait(layout: Layout, state: State, row: Words, horizon: int) -> tuple[int, int]:
    """For a stage that waits in a deadlock: when inputs were there, and space too; `horizon` at most."""

    def linked(first: np.uint64, count: np.uint64) -> Words:
        chosen: Words = state.edges[layout.links[first : first + count] // at.EDGE_WORDS]
        return chosen

    inputs = linked(row[at.INPUTS], row[at.INPUT_COUNT])
    if (inputs[:, at.PUSHED] < inputs[:, at.NEED]).any():
        return horizon, horizon
    fresh = inputs[inputs[:, at.NEED] > inputs[:, at.NEEDED]]
    seen = state.slots[fresh[:, at.SLOTS] + ((fresh[:, at.NEED] - np.uint64(1)) & fresh[:, at.MASK])]
    there = max(min(horizon, int(max(seen, default=0))), int(row[at.FREE]))
    if not row[at.KIND] & at.BBS:
        return there, there
    outputs = linked(row[at.OUTPUTS], row[at.OUTPUT_COUNT])
    if (row[at.FIRED] >= outputs[:, at.RELEASED] + outputs[:, at.DEPTH]).any():
        return there, horizon
    full = outputs[outputs[:, at.DEPTH] <= row[at.FIRED]]
    room = state.slots[full[:, at.SLOTS] + ((row[at.FIRED] - full[:, at.DEPTH]) & full[:, at.MASK])]
    return there, max(there, min(horizon, int(max(room, default=0))))
