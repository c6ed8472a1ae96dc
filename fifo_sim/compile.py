"""A pipeline laid out in words for the kernels: its structure once, state afresh for every run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
import numpy.typing as npt

import kernels.sim_layout as at
from fifo_sim.parts import EACH_ITS_OWN
from fifo_sim.pattern import LARGEST, Pattern
from fifo_sim.pipeline import Pipeline
from vit.errors import InputError

PAGE, LINE = 512, 8  # words; long sequences begin a cache line apart, lest all meet in one set of the cache
ENDLESS = 2**61  # more than any run does or holds
HUGE = 1 << 19  # words from which on numpy asks for large pages, which cost less to touch for the first time
MOST_SLOTS = 1 << 28  # of all FIFOs together: 2 GiB
MOST_TIMES = 1 << 28  # firings whose start and end are kept: 4 GiB
Words = npt.NDArray[np.uint64]


@dataclass
class State:
    """What a run reads and changes; see `kernels.sim_layout` for the rows.

    Attributes:
        words: stages, edges, ports, links and slots one behind the other; the others are views of it.
        starts, ends: room for the times of all firings; of length 0 without history.
        dirty: a flag a stage, for the walk.
    """

    words: Words
    stages: Words
    edges: Words
    ports: Words
    slots: Words
    starts: Words
    ends: Words
    dirty: npt.NDArray[np.uint8]

    def rows(self) -> tuple[Any, ...]:
        """Stages, edges, ports and slots, flat."""
        return self.stages.reshape(-1), self.edges.reshape(-1), self.ports.reshape(-1), self.slots


@dataclass(frozen=True)
class Layout:
    """The structure of a pipeline, whatever its depths.

    Attributes:
        stages, edges, ports: rows in their first state; edges without depth and slots.
        links, table: as the kernels want them.
        row_of_stage: position among the rows of each stage of the pipeline; the rows follow the FIFOs.
        busy: cycles each stage of the pipeline computes in all.
        longest: no cycle of any run is later; may be far too much.
    """

    stages: Words
    edges: Words
    ports: Words
    links: Words
    table: Words
    row_of_stage: npt.NDArray[np.int64]
    busy: list[int]
    longest: int

    def state(
        self, depths: Sequence[int] | npt.NDArray[np.int64], history: bool, together: bool = True, skewed: int = 0
    ) -> State:
        """State for a run with these depths, in edge order; with room for the times of all firings if `history`.

        The times lie stage by stage, or with `together`, where the stages fire about equally often, tile by tile: a
        run then writes to few places at a time. With `skewed`, in rows of so many: tile t - s of stage s in row t.

        Raises:
            InputError: too many slots or firings to be kept in memory.
        """
        bounds = self.bounds
        depth = np.minimum(np.asarray(depths, np.int64).view(np.uint64), self._writes)
        sizes = _power_of_two(depth)
        slots = sum(sizes.tolist())
        if slots > MOST_SLOTS:
            raise InputError("depth", f"{slots} slots in all", f"at most {MOST_SLOTS}, each FIFO's a power of two")
        words = np.zeros(bounds[-1] + slots, np.uint64)
        words[: bounds[-1]] = self._words
        stages = words[: bounds[0]].reshape(self.stages.shape)
        edges = words[bounds[0] : bounds[1]].reshape(self.edges.shape)
        ports = words[bounds[1] : bounds[2]].reshape(self.ports.shape)
        edges[:, at.DEPTH], edges[:, at.MASK] = depth, sizes - np.uint64(1)
        edges[:, at.SLOTS] = np.cumsum(sizes) - sizes
        firings = self._place_history(stages, together, skewed) if history else 0
        if firings > MOST_TIMES:
            allowed = f"at most {MOST_TIMES} with the times of all"
            raise InputError("tiles", f"{firings} firings in all", allowed, "simulate without history")
        times = np.empty(max(2 * firings, HUGE if firings > PAGE else 0), np.uint64)
        starts, ends = times[:firings], times[firings : 2 * firings]
        flags = np.ones(len(stages), np.uint8)
        return State(words, stages, edges, ports, words[bounds[-1] :], starts, ends, flags)

    def _place_history(self, stages: Words, together: bool, skewed: int) -> int:
        """Tell the stages where their times go; the words that these take."""
        firings = self.stages[:, at.FIRINGS]
        if skewed:
            stages[:, at.HISTORY], stages[:, at.HISTORY_STRIDE] = np.arange(len(stages)) * (skewed + 1), skewed
            return (int(firings[0]) + len(stages) - 1) * skewed
        if together and int(firings.max()) * len(stages) <= 2 * int(firings.sum()):
            stages[:, at.HISTORY], stages[:, at.HISTORY_STRIDE] = np.arange(len(stages)), len(stages)
            return int(firings.max()) * len(stages)
        apart = firings + np.uint64(LINE) * (firings >= PAGE)
        stages[:, at.HISTORY], stages[:, at.HISTORY_STRIDE] = np.cumsum(apart) - apart, 1
        return int(apart.sum())

    @cached_property
    def bounds(self) -> list[int]:
        """Where edges, ports, links and slots begin in the words of a state."""
        sizes = [part.size for part in (self.stages, self.edges, self.ports, self.links)]
        return np.cumsum(sizes).tolist()  # type: ignore[no-any-return]

    @cached_property
    def _writes(self) -> Words:
        """Tokens ever written to each FIFO."""
        writes: Words = self.stages[self.edges[:, at.SRC].astype(np.int64), at.FIRINGS]
        return writes

    @cached_property
    def _words(self) -> Words:
        """The words of a state before its slots."""
        return np.concatenate([part.reshape(-1) for part in (self.stages, self.edges, self.ports, self.links)])

    @cached_property
    def offsets(self) -> Words:
        """What is added to the words of a state before its slots so that all that they point to is in these words."""
        stages, edges, ports, links = (
            np.zeros_like(part) for part in (self.stages, self.edges, self.ports, self.links)
        )
        at_edges, at_ports, at_links, at_slots = self.bounds
        stages[:, at.IN_1 : at.OUT_3 + at.U(1)] = at_edges
        stages[:, at.INPUTS] = stages[:, at.OUTPUTS] = stages[:, at.PORTS] = at_links
        ports[:, at.MEMBERS] = at_links
        edges[:, at.SLOTS] = at_slots
        for row in self.stages:
            for first, count, begin in (
                (at.INPUTS, at.INPUT_COUNT, at_edges),
                (at.OUTPUTS, at.OUTPUT_COUNT, at_edges),
                (at.PORTS, at.PORT_COUNT, at_ports),
            ):
                links[row[first] : row[first] + row[count]] = begin
        return np.concatenate([part.reshape(-1) for part in (stages, edges, ports, links)])


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
    inputs: list[list[int]] = [[] for _ in order]
    outputs: list[list[int]] = [[] for _ in order]
    for i, edge in enumerate(pipeline.edges):
        outputs[pipeline.index[edge.src]].append(i * int(at.EDGE_WORDS))
        inputs[pipeline.index[edge.dst]].append(i * int(at.EDGE_WORDS))
    stages = _stage_rows(pipeline, table, links, inputs, outputs)
    edges = _edge_rows(pipeline, table, row_of_stage.tolist())
    ports = _port_rows(pipeline, links, stages, row_of_stage.tolist())
    longest = _longest_time(pipeline)
    if longest < LARGEST:
        single = (stages[:, at.KIND] & at.EAGER == 0) | (stages[:, at.OUTPUT_COUNT] < 2)
        stages[single & (stages[:, at.KIND] & (at.BBS | at.PORT) == 0), at.KIND] |= at.PLAIN
    busy = [stage.service_pattern.total(n) for stage, n in zip(pipeline.stages, pipeline.firings, strict=True)]
    return Layout(stages, edges, ports, links.words(), table.words(), row_of_stage, busy, longest)


def _stage_rows(
    pipeline: Pipeline, table: _Table, links: _Links, inputs: list[list[int]], outputs: list[list[int]]
) -> Words:
    order, rows = pipeline.topological_order, []
    services = table.place_services([pipeline.stages[s].service_pattern for s in order])
    for s, (service, stride) in zip(order, services, strict=True):
        stage, firings = pipeline.stages[s], pipeline.firings[s]
        kind = int(at.BBS) * (stage.mode == "bbs") | int(at.EAGER) * (stage.fork == "eager")
        words = {at.FIRINGS: firings, at.KIND: kind}
        period = len(stage.service_pattern.values)
        words |= {at.SERVICE_AT: service, at.SERVICE: service}
        words |= {at.SERVICE_STRIDE: stride * (period > 1), at.SERVICE_END: service + period * stride}
        words |= {at.INPUTS: links.place(inputs[s]), at.INPUT_COUNT: len(inputs[s])}
        words |= {at.OUTPUTS: links.place(outputs[s]), at.OUTPUT_COUNT: len(outputs[s])}
        words |= dict(zip((at.IN_1, at.IN_2), (*inputs[s], 0, 0), strict=False))
        words |= dict(zip((at.OUT_1, at.OUT_2, at.OUT_3), (*outputs[s], 0, 0, 0), strict=False))
        rows.append(words)
    return _matrix(rows, at.STAGE_WORDS)


def _edge_rows(pipeline: Pipeline, table: _Table, row_of_stage: list[int]) -> Words:
    rows = []
    for edge in pipeline.edges:
        need, rel = edge.need_pattern, edge.rel_pattern
        words = {at.LATENCY: edge.latency, at.PEAK: 1, at.AT_END: int(edge.release == "end")}
        words |= {at.SRC: row_of_stage[pipeline.index[edge.src]], at.DST: row_of_stage[pipeline.index[edge.dst]]}
        words |= {at.NEED: need.at(0), at.NEED_AT: table.place(need), at.REL_AT: table.place(rel)}
        words |= {at.NEED_FIRST: need.loop.first, at.NEED_LAST: need.loop.last, at.NEED_STEP: need.loop.step}
        words |= {at.REL_FIRST: rel.loop.first, at.REL_LAST: rel.loop.last, at.REL_STEP: rel.loop.step}
        words |= {at.NEED_LEFT: (need.loop.times or ENDLESS) - 1, at.REL_LEFT: (rel.loop.times or ENDLESS) - 1}
        words |= {at.TAKES_ONE: int(need == EACH_ITS_OWN), at.GIVES_ONE: int(rel == EACH_ITS_OWN)}
        rows.append(words)
    return _matrix(rows, at.EDGE_WORDS)


def _port_rows(pipeline: Pipeline, links: _Links, stages: Words, row_of_stage: list[int]) -> Words:
    """Rows of ports; the stages that use them are told so in theirs."""
    rows = []
    rotating: list[list[int]] = [[] for _ in pipeline.stages]
    for i, resource in enumerate(pipeline.resources):
        members = [row_of_stage[pipeline.index[name]] for name in resource.order]
        stages[members, at.KIND] |= at.PORT
        if resource.policy == "priority":
            stages[members, at.PRIORITY_PORT] = 1 + i * int(at.PORT_WORDS)
        else:
            for member in members:
                rotating[member].append(i * int(at.PORT_WORDS))
        words = {at.MEMBERS: links.place(members), at.MEMBER_COUNT: len(members)}
        rows.append(words | {at.PRIORITY: int(resource.policy == "priority")})
    for row, ports in enumerate(rotating if rows else []):
        stages[row, at.PORTS], stages[row, at.PORT_COUNT] = links.place(ports), len(ports)
    return _matrix(rows, at.PORT_WORDS)


def _matrix(rows: list[dict[np.uint64, int]], width: np.uint64) -> Words:
    """Rows of words from what is not 0 in them."""
    matrix = np.zeros((len(rows), int(width)), np.uint64)
    for word in rows[0] if rows else ():
        matrix[:, word] = [row[word] for row in rows]
    return matrix


def _longest_time(pipeline: Pipeline) -> int:
    """No cycle of a run is later: all service times, latencies and waits for a slot one after another."""
    services = sum(n * stage.service_pattern.most for stage, n in zip(pipeline.stages, pipeline.firings, strict=True))
    latencies = sum(pipeline.firings[pipeline.index[edge.src]] * (edge.latency + 1) for edge in pipeline.edges)
    return services + latencies


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
            self.size += len(pattern.values)
            if len(pattern.values) >= PAGE:
                self.parts.append(np.zeros(LINE, np.int64))
                self.size += LINE
        return self.places[pattern]

    def place_services(self, patterns: list[Pattern]) -> list[tuple[int, int]]:
        """Offset and stride of each; long ones of equal length side by side, as they are read in step."""
        together: dict[int, list[Pattern]] = {}
        for pattern in patterns:
            if len(pattern.values) >= PAGE and pattern not in together.setdefault(len(pattern.values), []):
                together[len(pattern.values)].append(pattern)
        beside = {}
        for period, columns in together.items():
            for i, pattern in enumerate(columns):
                beside[pattern] = (self.size + i, len(columns))
            self.parts.append(np.stack([pattern.values for pattern in columns], axis=1).reshape(-1))
            self.size += period * len(columns)
        return [beside[pattern] if pattern in beside else (self.place(pattern), 1) for pattern in patterns]

    def words(self) -> Words:
        after = np.zeros(1, np.int64)  # the last pattern is looked at once after its last firing
        return np.concatenate([*self.parts, after]).astype(np.uint64)


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
    """The next power of two of each, sizes >= 1; above 2^53 perhaps the one after."""
    exponents = np.frexp((sizes - np.uint64(1)).astype(np.float64))[1]
    return np.uint64(1) << exponents.astype(np.uint64)
