"""Simulate a pipeline, exact to the clock.

What one clock does. All state is registered. A token pushed in cycle c is visible in c + latency; a slot given back in
c is writable in c + 1. A firing starts (takes its inputs, all in one cycle) in cycle S, is ready in S + service, and
ends in the first cycle F >= S + service in which its outputs have room; it writes one token to every output. The next
firing may start in cycle F. As (max,+) equations, for firing k of stage s:

    S(s,k) = max(F(s,k-1), F(src, need(k)-1) + latency over the inputs, the ports it shares)
    F(s,k) = max(S + service, R(k) over the outputs),  R(j) = 0 for j < depth, else 1 + the start (or end) of the
                                                       consumer's first firing whose rel exceeds j - depth

A stage with mode "bbs" also waits for R(k) before S; one with fork "eager" pushes to each output as soon as that one
has room, and ends with the last. Where a stage's cycles go: with A the first cycle in which the inputs are there and
the stage is free, starved = A - F(k-1); blocked = F - S - service plus, in bbs, the wait for space from A on; resource
= the rest of S - A; busy = service; drained = cycles - F(last).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import kernels.sim_layout as at
from fifo_sim.compile import Layout, State, Words, layout_of
from fifo_sim.pipeline import Pipeline
from fifo_sim.result import SimResult, Times
from vit.errors import InputError


def simulate(pipeline: Pipeline | Mapping[str, Any], history: bool = True) -> SimResult:
    """Run a pipeline to its end or to a deadlock.

    Args:
        pipeline: a Pipeline, or a dict of the kind `Pipeline.from_dict` reads.
        history: keep the start and end of every firing (16 bytes a firing). Without it memory follows the depths of
            the FIFOs, not the number of firings.

    Raises:
        InputError: the dict is no pipeline, or a cycle count passes 2^61.
    """
    if not isinstance(pipeline, Pipeline):
        pipeline = Pipeline.from_dict(pipeline)
    layout = layout_of(pipeline)
    state = layout.state(pipeline.depths, history)
    run(layout, state)
    return result_of(pipeline, layout, state)


def run(layout: Layout, state: State) -> None:
    """Walk a state to where nothing can happen any more."""
    from kernels.sim_walk import walk

    arrays = state.stages.reshape(-1), state.edges.reshape(-1), state.ports.reshape(-1), state.slots
    if walk(*arrays, layout.links, layout.table, state.starts, state.ends, state.dirty) == at.OVERFLOW:
        raise InputError(
            "service", "a run beyond 2^61 cycles", "service times and latencies that stay below 2^61 in all"
        )


def result_of(pipeline: Pipeline, layout: Layout, state: State) -> SimResult:
    """The account of a walk that came to its end."""
    rows = state.stages[layout.row_of_stage]
    deadlock = bool((rows[:, at.FIRED] < rows[:, at.FIRINGS]).any())
    times: list[Times | None] = [None, None]
    if len(state.starts):
        times = [{}, {}]
        for stage, row in zip(pipeline.stages, rows, strict=True):
            first, fired = int(row[at.HISTORY]), int(row[at.FIRED])
            for found, all_times, count in zip(
                times, (state.starts, state.ends), (fired + int(row[at.AT_WORK]), fired), strict=True
            ):
                assert found is not None
                found[stage.name] = all_times[first : first + count].view(np.int64)
    ready = {i: _ready(pipeline, i, row) for i, row in enumerate(rows) if row[at.AT_WORK]}
    horizon = max(int(rows[:, [at.FREE, at.PUSHED_LAST]].max()), max(ready.values(), default=0))
    stalls = {}
    for i, (stage, row) in enumerate(zip(pipeline.stages, rows, strict=True)):
        stalls[stage.name] = _ledger(pipeline, layout, state, i, row, horizon)
    return SimResult(None if deadlock else horizon, deadlock, _peaks(state), stalls, horizon, *times)


def _peaks(state: State) -> list[int]:
    """Largest occupancies; the walk has not looked at tokens that nobody gave back."""
    left = state.edges[:, at.PUSHED] - state.edges[:, at.RELEASED]
    peaks = np.where(state.edges[:, at.PUSHED] == 0, 0, np.maximum(state.edges[:, at.PEAK], left))
    return peaks.astype(np.int64).tolist()  # type: ignore[no-any-return]


def _ready(pipeline: Pipeline, i: int, row: Words) -> int:
    """When the firing at work in stage `i` has computed."""
    return int(row[at.START]) + pipeline.stages[i].service_pattern.at(int(row[at.FIRED]))


def _ledger(pipeline: Pipeline, layout: Layout, state: State, i: int, row: Words, horizon: int) -> dict[str, int]:
    """Where the cycles of stage `i` up to `horizon` went."""
    free, at_work, fired = int(row[at.FREE]), int(row[at.AT_WORK]), int(row[at.FIRED])
    busy = pipeline.stages[i].service_pattern.total(fired + at_work)
    blocked, resource, drained = int(row[at.BLOCKED]), int(row[at.WAITED]), 0
    if fired == int(row[at.FIRINGS]):
        drained = horizon - free
    elif at_work:
        blocked += horizon - _ready(pipeline, i, row)
    else:
        inputs_there, space_there = _last_wait(layout, state, row, horizon)
        blocked += space_there - inputs_there
        resource += horizon - space_there
    starved = horizon - busy - blocked - resource - drained
    return {"busy": busy, "starved": starved, "blocked": blocked, "resource": resource, "drained": drained}


def _last_wait(layout: Layout, state: State, row: Words, horizon: int) -> tuple[int, int]:
    """For a stage that waits in a deadlock: when inputs were there, and space too; `horizon` at most."""

    def linked(first: np.uint64, count: np.uint64) -> Words:
        return state.edges[(layout.links[first : first + count] // at.EDGE_WORDS).astype(np.int64)]

    inputs = linked(row[at.INPUTS], row[at.INPUT_COUNT])
    if (inputs[:, at.PUSHED] < inputs[:, at.NEED]).any():
        return horizon, horizon
    fresh = inputs[inputs[:, at.NEED] > inputs[:, at.NEEDED]]
    seen = state.slots[fresh[:, at.SLOTS] + (fresh[:, at.NEED] - np.uint64(1) & fresh[:, at.MASK])]
    there = min(horizon, int(max(seen, default=0)), horizon)
    there = max(there, int(row[at.FREE]))
    if not row[at.KIND] & at.BBS:
        return there, there
    outputs = linked(row[at.OUTPUTS], row[at.OUTPUT_COUNT])
    if (row[at.FIRED] >= outputs[:, at.RELEASED] + outputs[:, at.DEPTH]).any():
        return there, horizon
    full = outputs[outputs[:, at.DEPTH] <= row[at.FIRED]]
    room = state.slots[full[:, at.SLOTS] + (row[at.FIRED] - full[:, at.DEPTH] & full[:, at.MASK])]
    return there, max(there, min(horizon, int(max(room, default=0))))
