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
from fifo_sim.compile import Layout, State, layout_of
from fifo_sim.ledger import result_of
from fifo_sim.pipeline import Pipeline
from fifo_sim.program import LONGEST, MOST_PARTS, Program, find_program
from fifo_sim.result import SimResult
from fifo_sim.wavefront import run_wavefront, wavefront_for
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
    wave = wavefront_for(pipeline, layout, history)
    if wave is not None:
        state = layout.state(pipeline.depths, history, skewed=wave.width)
        run_wavefront(wave, state)
        return result_of(pipeline, layout, state)
    state = layout.state(pipeline.depths, history)
    program = program_for(pipeline, state)
    if program is None:
        run(layout, state)
    else:
        run_in_order(layout, state, program)
    return result_of(pipeline, layout, state)


def run(layout: Layout, state: State) -> None:
    """Walk a state to where nothing can happen any more."""
    from kernels.sim_walk import walk

    _refuse_overflow(walk(*state.rows(), layout.links, layout.table, state.starts, state.ends, state.dirty))


def run_in_order(layout: Layout, state: State, program: Program) -> None:
    """Take a state to its end in a known order of firings; without history, skip what repeats itself."""
    from kernels.sim_replay import replay

    program.prepare(state)
    words, rows = state.words, len(layout.offsets)
    words[:rows] += layout.offsets
    then = np.empty(0 if len(state.starts) else len(words), np.uint64)
    times = layout.table, state.starts, state.ends, state.dirty
    order: tuple[Any, ...] = program.rows, program.lengths, program.parts
    outcome = replay(words, np.array(layout.bounds, np.uint64), *times, *order, then)
    words[:rows] -= layout.offsets
    _refuse_overflow(outcome)


def program_for(pipeline: Pipeline, state: State) -> Program | None:
    """The pipeline's order of firings if it is short, a quarter of its firings at most, and its FIFOs allow one."""
    layout, known = layout_of(pipeline), pipeline.__dict__
    longest = max(MOST_PARTS, min(LONGEST, sum(pipeline.firings) // 4))
    if "_program" not in known:
        known["_program"] = find_program(layout, None, longest)
    program: Program | None = known["_program"]
    if program is None or program.fits(state):
        return program
    return find_program(layout, state.edges[:, at.DEPTH], longest)


def _refuse_overflow(outcome: int) -> None:
    if outcome == at.OVERFLOW:
        allowed = "service times and latencies that stay below 2^61 in all"
        raise InputError("service", "a run beyond 2^61 cycles", allowed)
