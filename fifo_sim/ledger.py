"""From the words a run leaves behind to its account: times, occupancies, and where every cycle went."""

from __future__ import annotations

import numpy as np

import kernels.sim_layout as at
from fifo_sim.compile import Layout, State, Words
from fifo_sim.pipeline import Pipeline
from fifo_sim.result import Ints, Kept, SimResult

_COLUMNS = (at.FIRED, at.FIRINGS, at.AT_WORK, at.START, at.FREE, at.PUSHED_LAST, at.BLOCKED, at.WAITED)


def result_of(pipeline: Pipeline, layout: Layout, state: State) -> SimResult:
    """The account of a run in which nothing can happen any more."""
    rows = state.stages[layout.row_of_stage]
    finished = bool((rows[:, at.FIRED] == rows[:, at.FIRINGS]).all())
    if finished:
        horizon = int(rows[:, at.FREE].max())
        ledger = _finished_ledger(layout, rows, horizon)
    else:
        horizon, ledger = _halted_ledger(pipeline, layout, state, rows)
    kept = _kept(rows, state) if len(state.starts) else (None, None)
    cycles = horizon if finished else None
    return SimResult(cycles, not finished, _peaks(state), horizon, tuple(pipeline.index), ledger, *kept)


def _finished_ledger(layout: Layout, rows: Words, horizon: int) -> Ints:
    ledger, counts = np.empty((5, len(rows)), np.int64), rows.view(np.int64)
    busy, starved, blocked, resource, drained = ledger
    busy[:], blocked[:], resource[:] = layout.busy, counts[:, at.BLOCKED], counts[:, at.WAITED]
    drained[:] = horizon - counts[:, at.FREE]
    starved[:] = horizon - busy - blocked - resource - drained
    return ledger.T


def _halted_ledger(pipeline: Pipeline, layout: Layout, state: State, rows: Words) -> tuple[int, Ints]:
    """The last cycle in which something happened, and where the cycles up to then went; for a deadlock."""
    columns, horizon = rows[:, _COLUMNS].tolist(), 0
    for stage, (fired, _, at_work, start, free, pushed_last, _, _) in zip(pipeline.stages, columns, strict=True):
        horizon = max(horizon, free, pushed_last)
        if at_work:
            horizon = max(horizon, start + stage.service_pattern.at(fired))
    ledger = []
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
        ledger.append((busy, horizon - busy - blocked - resource - drained, blocked, resource, drained))
    return horizon, np.array(ledger, np.int64)


def _kept(rows: Words, state: State) -> tuple[Kept, Kept]:
    """Starts and ends of the firings that have started, or ended."""
    starts, ends = [], []
    columns = rows[:, (at.FIRED, at.AT_WORK, at.HISTORY, at.HISTORY_STRIDE)].tolist()
    for fired, at_work, first, stride in columns:
        starts.append((first, first + (fired + at_work) * stride, stride))
        ends.append((first, first + fired * stride, stride))
    return Kept(state.starts.view(np.int64), starts), Kept(state.ends.view(np.int64), ends)


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
