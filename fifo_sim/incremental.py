"""A run that is kept up to date while the depths of its FIFOs change one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import kernels.sim_layout as at
from fifo_sim.compile import Layout, State, Words, layout_of
from fifo_sim.ledger import result_of
from fifo_sim.many import LONGEST_ORDER
from fifo_sim.pattern import LARGEST, Ints
from fifo_sim.pipeline import Pipeline
from fifo_sim.program import Program, find_program, order_of
from fifo_sim.result import SimResult
from fifo_sim.simulator import run_in_order, simulate
from vit.errors import InputError, did_you_mean, require_int

NONE = np.uint64(2**64 - 1)  # no such token or firing
LOOK_WORDS, TOKEN_OF, GIVER_OF = np.uint64(4), np.uint64(0), np.uint64(2)  # as in kernels.sim_update
SHARE = 4  # computing this fraction of all firings one by one takes about as long as a run


class Incremental:
    """A pipeline's run under depths that change: after each change only the firings that it moves are computed again.

    What it tells is always what `simulate` tells of the same depths. A pipeline is run afresh at each change while it
    deadlocks, and where it has shared ports, eager forks, or FIFOs that need a start without its end.

    Args:
        pipeline: a Pipeline, or a dict of the kind `Pipeline.from_dict` reads; its depths are the first ones.

    Attributes:
        computed: firings that the last change has computed again; None if it was a run afresh.

    Raises:
        InputError: the dict is no pipeline, or a cycle count passes 2^61.
    """

    def __init__(self, pipeline: Pipeline | Mapping[str, Any]) -> None:
        self._pipeline = pipeline if isinstance(pipeline, Pipeline) else Pipeline.from_dict(pipeline)
        self.computed: int | None = None
        self._layout = layout_of(self._pipeline)
        self._depths = list(self._pipeline.depths)
        self._names = [edge.name for edge in self._pipeline.edges]
        self._program = _program_if_able(self._pipeline, self._layout)
        short = [] if self._program is None else np.flatnonzero(self._written() < self._program.least).tolist()
        self._short: set[int] = set(short)
        self._result: SimResult | None = None
        self._run: _Run | None = None
        self._start_afresh()

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline with the depths of now."""
        if list(self._pipeline.depths) != self._depths:
            self._pipeline = self._pipeline.with_depths(self._depths)
        return self._pipeline

    @property
    def cycles(self) -> int | None:
        """Cycle in which the last firing ends; None on deadlock."""
        return self._run.cycles if self._run else self.result().cycles

    def set_depth(self, edge: int | str, depth: int) -> int | None:
        """Give one FIFO, by position or name ("src->dst"), another depth; the cycles that follow, None on deadlock.

        Raises:
            InputError: no such FIFO, a depth below 1, or a cycle count beyond 2^61.
        """
        number = self._number(edge)
        self._depths[number] = require_int("depth", depth, 1, LARGEST)
        self._result = None
        if self._program is not None:
            too_small = self._written(number) < self._program.least[number]
            (self._short.add if too_small else self._short.discard)(number)
        self.computed = self._run.change(number, depth) if self._run and not self._short else None
        if self.computed is None:
            self._start_afresh()
        return self.cycles

    def result(self) -> SimResult:
        """The whole account, with all times."""
        if self._result is None:
            assert self._run is not None
            self._result = self._run.result(self.pipeline)
        return self._result

    def _written(self, edge: int | slice = slice(None)) -> Words:
        """Depth of FIFOs, or what is ever written to them if that is less."""
        writes = self._layout.stages[self._layout.edges[edge, at.SRC], at.FIRINGS]
        least: Words = np.minimum(np.array(self._depths[edge], np.uint64), writes)
        return least

    def _start_afresh(self) -> None:
        if self._program is not None and not self._short:
            run, self._run = self._run or _Run(self.pipeline, self._layout, self._program), None
            run.start(self.pipeline)
            self._run = run
        else:
            self._run, self._result = None, simulate(self.pipeline)

    def _number(self, edge: int | str) -> int:
        if isinstance(edge, str):
            if self._names.count(edge) != 1:
                if edge in self._names:
                    raise InputError("edge", edge, "the position of one FIFO", "several have this name")
                raise InputError("edge", edge, "the name of a FIFO", did_you_mean(edge, self._names))
            return self._names.index(edge)
        return require_int("edge", edge, 0, len(self._names) - 1)


class _Run:
    """Times of all firings under the depths of now, and what follows from what."""

    def __init__(self, pipeline: Pipeline, layout: Layout, program: Program) -> None:
        self.layout, self.program = layout, program
        self.state: State = layout.state(pipeline.depths, history=True, together=False)
        first, firings = (self.state.stages[:, word].astype(np.int64) for word in (at.HISTORY, at.FIRINGS))
        self.last = first + firings - 1
        order = order_of(program)
        by_stage = np.argsort(order, kind="stable")
        numbers = np.empty(len(order), np.uint32)
        numbers[by_stage] = np.concatenate([np.arange(n, dtype=np.uint32) for n in firings])
        places = np.zeros(self.last[-1] + 1, np.uint32)
        places[np.concatenate([np.arange(f, f + n) for f, n in zip(first, firings, strict=True)])] = by_stage
        self.rows, self.numbers, self.places = order, numbers, places
        self.marks = np.zeros((len(order) >> 6) + 1, np.uint64)
        self.tokens, self.looks = _lookups(pipeline)
        self.most = np.uint64(len(order) // SHARE)
        by_row = np.argsort(layout.row_of_stage)
        self.busy: list[int] = [layout.busy[i] for i in by_row]

    def start(self, pipeline: Pipeline) -> None:
        """Go through all firings."""
        self.state = self.layout.state(pipeline.depths, history=True, together=False)
        run_in_order(self.layout, self.state, self.program)

    @property
    def cycles(self) -> int:
        return int(self.state.ends[self.last].max())

    def change(self, edge: int, depth: int) -> int | None:
        """Bring the times up to date; how many firings were computed, or None if a run afresh is called for."""
        from kernels.sim_update import UPDATED, update

        state, layout = self.state, self.layout
        writes = state.stages[int(state.edges[edge, at.SRC]), at.FIRINGS]
        state.edges[edge, at.DEPTH] = min(depth, int(writes))
        rows = state.stages.reshape(-1), state.edges.reshape(-1), layout.links, layout.table
        times: tuple[Any, ...] = self.tokens, self.looks, state.starts, state.ends
        order: tuple[Any, ...] = self.places, self.rows, self.numbers, self.marks
        outcome, computed = update(*rows, *times, *order, np.uint64(edge) * at.EDGE_WORDS, self.most)
        return int(computed) if outcome == UPDATED else None

    def result(self, pipeline: Pipeline) -> SimResult:
        """The account that goes with the times."""
        stages, edges = self.state.stages, self.state.edges
        stages[:, at.FREE] = self.state.ends[self.last]
        for e in range(len(edges)):
            edges[e, at.PEAK] = self._peak(e)
        for s in range(len(stages)):
            stages[s, at.BLOCKED] = self._blocked(s)
        return result_of(pipeline, self.layout, self.state)

    def _times(self, stage: int) -> tuple[Ints, Ints]:
        """Starts and ends of a stage, by row."""
        firings = slice(int(self.state.stages[stage, at.HISTORY]), int(self.last[stage]) + 1)
        return self.state.starts[firings].view(np.int64), self.state.ends[firings].view(np.int64)

    def _look(self, e: int, what: np.uint64, count: int) -> Words:
        begin = int(self.looks[e * int(LOOK_WORDS) + int(what)])
        return self.tokens[begin : begin + count]

    def _peak(self, e: int) -> int:
        """Largest occupancy of a FIFO: tokens pushed up to each push, less those given back by then."""
        edge = self.state.edges[e]
        pushes = self._times(int(edge[at.SRC]))[1]
        givers = self._look(e, GIVER_OF, len(pushes))
        given = self._times(int(edge[at.DST]))[int(edge[at.AT_END])][givers[givers != NONE].astype(np.int64)]
        return int((np.arange(1, len(pushes) + 1) - np.searchsorted(given, pushes, side="right")).max())

    def _blocked(self, s: int) -> int:
        """Cycles a stage was kept from ending, or with blocking before service from starting, for lack of room."""
        row, links = self.layout.stages[s], self.layout.links
        starts, ends = self._times(s)
        if not row[at.KIND] & at.BBS:
            return int((ends - starts).sum()) - self.busy[s]
        there = np.concatenate([[0], ends[:-1]])
        for e in links[int(row[at.INPUTS]) : int(row[at.INPUTS] + row[at.INPUT_COUNT])] // at.EDGE_WORDS:
            token = self._look(int(e), TOKEN_OF, len(starts))
            fresh = token != NONE
            pushes = self._times(int(self.layout.edges[e, at.SRC]))[1]
            seen = pushes[token[fresh].astype(np.int64)] + int(self.layout.edges[e, at.LATENCY])
            there[fresh] = np.maximum(there[fresh], seen)
        return int((starts - there).sum())


def _program_if_able(pipeline: Pipeline, layout: Layout) -> Program | None:
    """The order of firings that changes are followed up in; None for pipelines that are always run afresh."""
    eager = (layout.stages[:, at.KIND] & at.EAGER != 0) & (layout.stages[:, at.OUTPUT_COUNT] > 1)
    if pipeline.resources or eager.any():
        return None
    return find_program(layout, None, min(LONGEST_ORDER, sum(pipeline.firings)))


def _lookups(pipeline: Pipeline) -> tuple[Words, Words]:
    """`tokens` and `looks` of `kernels.sim_update`."""
    parts, looks, size = [], [], 0
    for edge in pipeline.edges:
        writes, reads = (pipeline.firings[pipeline.index[name]] for name in (edge.src, edge.dst))
        need, given = edge.need_pattern.expand(reads), np.concatenate([[0], edge.rel_pattern.expand(reads)])
        fresh = np.diff(need, prepend=0) > 0
        token_of, user_of, giver_of = np.full(reads, NONE), np.full(writes, NONE), np.full(writes, NONE)
        token_of[fresh] = need[fresh] - 1
        user_of[need[fresh] - 1] = np.flatnonzero(fresh)
        giver_of[: given[-1]] = np.repeat(np.arange(reads), np.diff(given))
        for part in (token_of, user_of, giver_of, given.astype(np.uint64)):
            parts.append(part)
            looks.append(size)
            size += len(part)
    return np.concatenate([*parts, np.zeros(0, np.uint64)]), np.array(looks, np.uint64)
