"""One pipeline under many depth settings: the front door for sweeps and for searches over FIFO sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

import kernels.sim_layout as at
from fifo_sim.compile import Layout, State, layout_of
from fifo_sim.lanes import FEWEST_LANES, Settings, blocking_edges, run_lanes, threads
from fifo_sim.pattern import LARGEST
from fifo_sim.pipeline import Pipeline
from fifo_sim.program import Program, find_program
from fifo_sim.simulator import run, run_in_order
from vit.errors import InputError

Depths = npt.NDArray[np.int64] | Sequence[Sequence[int]]
LONGEST_ORDER = 1 << 22  # firings written out; beyond that each run goes its own way
MOST_FIRINGS = 1 << 23  # of one run in a lane; longer ones are left to the steady state
DEADLOCK = -1


def simulate_many(pipeline: Pipeline | Mapping[str, Any], depths: Depths) -> npt.NDArray[np.int64]:
    """Cycles of a pipeline under each of many settings of its FIFO depths, on all processors at hand.

    Args:
        pipeline: a Pipeline, or a dict of the kind `Pipeline.from_dict` reads; its own depths do not matter.
        depths: whole numbers >= 1 of shape (configs, edges), columns in edge order.

    Returns:
        int64 array of shape (configs,): what `simulate` gives as cycles, or -1 where it deadlocks.

    Raises:
        InputError: depths of another shape or kind, or a run beyond 2^61 cycles.
    """
    if not isinstance(pipeline, Pipeline):
        pipeline = Pipeline.from_dict(pipeline)
    settings = _checked(depths, len(pipeline.edges))
    layout = layout_of(pipeline)
    writes = layout.stages[layout.edges[:, at.SRC], at.FIRINGS].astype(np.int64)
    return _Sweep(pipeline, layout, np.minimum(settings, writes)).cycles()


class _Sweep:
    """Settings that are gone through in groups which share an order of firings."""

    def __init__(self, pipeline: Pipeline, layout: Layout, settings: Settings) -> None:
        self.layout, self.settings = layout, settings
        self.found = np.zeros(len(settings), np.int64)
        self.longest = min(LONGEST_ORDER, sum(pipeline.firings))
        self.in_lanes = sum(pipeline.firings) <= MOST_FIRINGS and layout.longest < LARGEST
        self.ranked = bool(layout.ports[:, at.PRIORITY].any())

    def cycles(self) -> Settings:
        """The cycles under all settings."""
        left = np.arange(len(self.settings))
        if self.ranked:
            self.one_by_one(None, left)
            return self.found
        program = find_program(self.layout, None, self.longest) if len(left) else None
        while len(left):
            if program is not None:
                fits = (self.settings[left] >= program.least.astype(np.int64)).all(axis=1)
                self.together(program, left[fits])
                left = left[~fits]
            if len(left):
                program, left = self.next_program(left)
        return self.found

    def next_program(self, left: Settings) -> tuple[Program | None, Settings]:
        """An order for some of the settings that are left: for all if the smallest depths of all allow one, else for
        the smallest setting; where that has none it is run by itself, and what deadlocks as it does goes with it."""
        settings = self.settings[left]
        for depths in (settings.min(axis=0), settings[settings.sum(axis=1).argmin()]):
            program = find_program(self.layout, depths.astype(np.uint64), self.longest)
            if program is not None:
                return program, left
        smallest = left[settings.sum(axis=1).argmin()]
        state = self.layout.state(self.settings[smallest], history=False)
        run(self.layout, state)
        self.found[smallest] = _end(state)
        same = left == smallest
        if self.found[smallest] == DEADLOCK:
            guilty = blocking_edges(self.layout, state.stages, state.edges, state.ports)
            same |= (settings[:, guilty] <= self.settings[smallest, guilty]).all(axis=1)
            self.found[left[same]] = DEADLOCK
        return None, left[~same]

    def together(self, program: Program, chosen: Settings) -> None:
        """Run settings that all allow the order of `program`."""
        slots = self.settings[chosen].max(initial=1)
        if len(chosen) < FEWEST_LANES or not self.in_lanes or slots * 256 >= 2**32:
            self.one_by_one(program, chosen)
        else:
            self.found[chosen] = run_lanes(self.layout, program, self.settings[chosen], self.bits(program, chosen))

    def bits(self, program: Program, chosen: Settings) -> int:
        """32 if the times of all these settings fit; a run with the smallest depth of each FIFO takes longest."""
        longest = self.layout.longest
        if longest >= 2**31:
            state = self.layout.state(self.settings[chosen].min(axis=0), history=False)
            run_in_order(self.layout, state, program)
            longest = _end(state) + int(self.layout.edges[:, at.LATENCY].max(initial=1))
        return 32 if longest < 2**31 - 1 else 64

    def one_by_one(self, program: Program | None, chosen: Settings) -> None:
        """Run each of these settings by itself."""

        def cycles_of(i: int) -> int:
            state = self.layout.state(self.settings[i], history=False)
            if program is None:
                run(self.layout, state)
            else:
                run_in_order(self.layout, state, program)
            return _end(state)

        with ThreadPoolExecutor(threads()) as pool:
            self.found[chosen] = np.fromiter(pool.map(cycles_of, chosen.tolist()), np.int64, len(chosen))


def _end(state: State) -> int:
    """Cycles of a run that came to its end, or -1."""
    finished = (state.stages[:, at.FIRED] == state.stages[:, at.FIRINGS]).all()
    return int(state.stages[:, at.FREE].max()) if finished else DEADLOCK


def _checked(depths: Depths, edges: int) -> Settings:
    try:
        array = np.asarray(depths)
    except ValueError as error:
        raise InputError("depths", "rows of different lengths", f"{edges} whole numbers in each") from error
    if array.ndim != 2 or array.shape[1] != edges or (array.size and array.dtype.kind not in "iu"):
        shown = f"array of {array.dtype} with shape {array.shape}"
        raise InputError("depths", shown, f"whole numbers of shape (configs, {edges}), one column an edge")
    if array.size and (array.min() < 1 or array.max() > LARGEST):
        wrong = array.min() if array.min() < 1 else array.max()
        raise InputError("depths", int(wrong), "whole numbers from 1 to 2^61")
    return array.astype(np.int64)
