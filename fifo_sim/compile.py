"""A pipeline laid out in words for the kernels: its structure once, state afresh for every run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import numpy.typing as npt

import kernels.sim_layout as at
from fifo_sim.parts import EACH_ITS_OWN
from fifo_sim.pattern import Pattern
from fifo_sim.pipeline import Pipeline

Words = npt.NDArray[np.uint64]


@dataclass
class State:
    """What a run reads and changes; see `kernels.sim_layout` for the rows."""

    stages: Words
    edges: Words
    ports: Words
    slots: Words
    starts: Words
    ends: Words
    dirty: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Layout:
    """The structure of a pipeline, whatever its depths.

    Attributes:
        stages, edges, ports: rows in their first state; edges without depth and slots.
        links, table: as the kernels want them.
        row_of_stage: position among the rows of each stage of the pipeline; the rows follow the FIFOs.
    """

    stages: Words
    edges: Words
    ports: Words
    links: Words
    table: Words
    row_of_stage: npt.NDArray[np.int64]

    def state(self, depths: Sequence[int] | npt.NDArray[np.int64], history: bool) -> State:
        """State for a run with these depths, in edge order; with room for the times of all firings if `history`."""
        stages, edges = self.stages.copy(), self.edges.copy()
        writes = stages[edges[:, at.SRC].astype(np.int64), at.FIRINGS]
        depth = np.minimum(np.asarray(depths, dtype=np.uint64), writes)
        sizes = _power_of_two(depth)
        edges[:, at.DEPTH], edges[:, at.MASK] = depth, sizes - np.uint64(1)
        edges[:, at.SLOTS] = np.cumsum(sizes) - sizes
        slots = np.zeros(int(sizes.sum()), np.uint64)
        firings = int(stages[:, at.FIRINGS].sum()) if history else 0
        starts, ends = np.empty(firings, np.uint64), np.empty(firings, np.uint64)
        return State(stages, edges, self.ports.copy(), slots, starts, ends, np.ones(len(stages), np.uint8))


def layout_of(pipeline: Pipeline) -> Layout:
    """The layout of a pipeline; made once for it and all that differ from it in depths alone."""
    found = pipeline.__dict__.get("_layout")
    if found is None:
        found = pipeline.__dict__["_layout"] = _lay_out(pipeline)
    return cast(Layout, found)


def _lay_out(pipeline: Pipeline) -> Layout:
    order = pipeline.topological_order
    row_of_stage = np.empty(len(order), np.int64)
    row_of_stage[list(order)] = np.arange(len(order))
    table, links = _Table(), _Links()
    stages = np.zeros((len(order), int(at.STAGE_WORDS)), np.uint64)
    edges = np.zeros((len(pipeline.edges), int(at.EDGE_WORDS)), np.uint64)
    ports = np.zeros((len(pipeline.resources), int(at.PORT_WORDS)), np.uint64)
    inputs: list[list[int]] = [[] for _ in order]
    outputs: list[list[int]] = [[] for _ in order]
    rotating: list[list[int]] = [[] for _ in order]
    for i, edge in enumerate(pipeline.edges):
        src, dst = pipeline.index[edge.src], pipeline.index[edge.dst]
        outputs[src].append(i * int(at.EDGE_WORDS))
        inputs[dst].append(i * int(at.EDGE_WORDS))
        need, rel, row = edge.need_pattern, edge.rel_pattern, edges[i]
        row[at.LATENCY], row[at.PEAK], row[at.AT_END] = edge.latency, 1, edge.release == "end"
        row[at.SRC], row[at.DST] = row_of_stage[src], row_of_stage[dst]
        row[at.NEED], row[at.NEED_AT], row[at.REL_AT] = need.at(0), table.place(need), table.place(rel)
        row[at.NEED_PERIOD], row[at.NEED_STEP] = need.period, need.step
        row[at.REL_PERIOD], row[at.REL_STEP] = rel.period, rel.step
        row[at.ONE_EACH] = need == rel == EACH_ITS_OWN and edge.release == "start"
    for i, resource in enumerate(pipeline.resources):
        members = [pipeline.index[name] for name in resource.order]
        ports[i, at.MEMBERS] = links.place([int(row_of_stage[m]) for m in members])
        ports[i, at.MEMBER_COUNT], ports[i, at.PRIORITY] = len(members), resource.policy == "priority"
        for m in members:
            row = stages[row_of_stage[m]]
            row[at.KIND] |= at.PORT
            if resource.policy == "priority":
                row[at.PRIORITY_PORT] = 1 + i * int(at.PORT_WORDS)
            else:
                rotating[m].append(i * int(at.PORT_WORDS))
    history = 0
    for t, s in enumerate(order):
        stage, row = pipeline.stages[s], stages[t]
        row[at.FIRINGS], row[at.HISTORY] = pipeline.firings[s], history
        history += pipeline.firings[s]
        row[at.KIND] |= (at.BBS if stage.mode == "bbs" else 0) | (at.EAGER if stage.fork == "eager" else 0)
        row[at.SERVICE], row[at.SERVICE_PERIOD] = table.place(stage.service_pattern), stage.service_pattern.period
        row[at.INPUTS], row[at.INPUT_COUNT] = links.place(inputs[s]), len(inputs[s])
        row[at.OUTPUTS], row[at.OUTPUT_COUNT] = links.place(outputs[s]), len(outputs[s])
        row[at.PORTS], row[at.PORT_COUNT] = links.place(rotating[s]), len(rotating[s])
    return Layout(stages, edges, ports, links.words(), table.words(), row_of_stage)


@dataclass
class _Table:
    """Periods of patterns, one after another, equal ones once."""

    parts: list[npt.NDArray[np.int64]] = field(default_factory=list)
    places: dict[Pattern, int] = field(default_factory=dict)
    size: int = 0

    def place(self, pattern: Pattern) -> int:
        if pattern not in self.places:
            self.places[pattern] = self.size
            self.parts.append(pattern.values)
            self.size += pattern.period
        return self.places[pattern]

    def words(self) -> Words:
        return np.concatenate(self.parts).astype(np.uint64)


@dataclass
class _Links:
    """Lists of numbers, one after another."""

    numbers: list[int] = field(default_factory=list)

    def place(self, more: list[int]) -> int:
        self.numbers += more
        return len(self.numbers) - len(more)

    def words(self) -> Words:
        return np.array(self.numbers, np.uint64)


def _power_of_two(sizes: Words) -> Words:
    """The next power of two of each, sizes >= 1."""
    return np.array([1 << (int(size) - 1).bit_length() for size in sizes], np.uint64)
