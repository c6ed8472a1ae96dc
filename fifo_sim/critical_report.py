"""The critical path and the critical cycle by name: which stages and FIFOs, how long, how many slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fifo_sim.critical import NEXT, PORT, ROOM, SERVICE, TOKEN, Arc
from fifo_sim.given import fifo_names, port_names
from fifo_sim.pipeline import Pipeline

MOST_PERIODS = 64  # lengths of the repetition that are tried at each anchor
ANCHORS = 8  # places on the path from which a repetition is looked for


@dataclass(frozen=True)
class CriticalPart:
    """One stage, FIFO or port on a critical path or cycle.

    Attributes:
        kind: "service" (a stage computes), "token" (a token travels through a FIFO), "room" (a FIFO is full) or "port"
            (another stage holds a port).
        name: of the stage, FIFO or port.
        index: its position.
        cycles: all that it adds.
        times: how often it is on the path; on a cycle, in one round.
        slots: depth of a FIFO that is full; otherwise 0.
    """

    kind: str
    name: str
    index: int
    cycles: float
    times: float
    slots: int = 0


@dataclass(frozen=True)
class CriticalPath:
    """The chain of waits that makes the run as long as it is.

    Attributes:
        cycles: the makespan; the cycles of the parts sum to it.
        parts: in the order of time of their first appearance.
    """

    cycles: int
    parts: tuple[CriticalPart, ...]

    def fifos(self) -> list[int]:
        """Positions of the FIFOs that are full on it: no other depth can make the run shorter."""
        return [part.index for part in self.parts if part.kind == ROOM]


@dataclass(frozen=True)
class CriticalCycle:
    """The round that the critical path repeats: it sets the throughput.

    Attributes:
        cycles: time of one round.
        stage: a stage on it.
        tokens: firings of that stage in one round: the tokens and free slots that go round.
        rounds: how often the path goes round.
        parts: along one round.
    """

    cycles: float
    stage: str
    tokens: float
    rounds: int
    parts: tuple[CriticalPart, ...]

    @property
    def cycles_per_token(self) -> float:
        """The pace: cycles between two firings of the stage."""
        return self.cycles / self.tokens

    def fifos(self) -> list[int]:
        """Positions of the FIFOs that are full on it."""
        return [part.index for part in self.parts if part.kind == ROOM]

    def __str__(self) -> str:
        along = " -> ".join(_told(part) for part in self.parts)
        return (
            f"one firing of {self.stage} every {self.cycles_per_token:g} cycles "
            f"({self.tokens:g} in a round of {self.cycles:g} cycles): {along}"
        )


def critical_path(pipeline: Pipeline, arcs: Sequence[Arc]) -> CriticalPath:
    """The path that `critical_arcs` found, by name."""
    return CriticalPath(sum(arc.cycles for arc in arcs), _parts(pipeline, arcs, 1))


def critical_cycle(pipeline: Pipeline, arcs: Sequence[Arc]) -> CriticalCycle | None:
    """The part of a critical path that repeats itself for the longest time; None if no part follows itself."""
    if len(arcs) < 4:
        return None
    numbers: dict[tuple[str, int, int], int] = {}
    codes = np.array([numbers.setdefault(arc[:3], len(numbers)) for arc in arcs])
    begin, period, rounds = _longest_repetition(codes, np.array([arc.cycles for arc in arcs]))
    if rounds < 2:
        return None
    whole = arcs[begin : begin + period * rounds]
    stage, last = whole[0].stage, whole[period * (rounds - 1)]
    tokens, cycles = (whole[0].firing - last.firing) / (rounds - 1), sum(arc.cycles for arc in whole) / rounds
    if tokens <= 0:
        return None
    return CriticalCycle(cycles, pipeline.stages[stage].name, tokens, rounds, _parts(pipeline, whole, rounds))


def _longest_repetition(codes: npt.NDArray[np.int64], cycles: npt.NDArray[np.int64]) -> tuple[int, int, int]:
    """(begin, period, rounds) of the repetition that takes most time, by its shortest period; rounds 0 if none."""
    passed = np.concatenate([[0], np.cumsum(cycles)])
    best, longest = (0, 1, 0), -1
    for anchor in np.unique(np.linspace(0, len(codes) - 1, ANCHORS + 2).astype(int)):
        again = np.flatnonzero(codes[anchor + 1 :] == codes[anchor])[:MOST_PERIODS] + 1
        for period in again.tolist():
            begin, end = _longest_run(codes[period:] == codes[:-period])
            if end - begin < period:
                continue
            time = int(passed[end + period] - passed[begin])
            if time > longest or (time == longest and period < best[1]):
                best, longest = (begin, period, (end - begin) // period + 1), time
    return best


def _longest_run(same: npt.NDArray[np.bool_]) -> tuple[int, int]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    begins, ends = edges[::2], edges[1::2]
    if not len(begins):
        return 0, 0
    longest = int(np.argmax(ends - begins))
    return int(begins[longest]), int(ends[longest])


def _parts(pipeline: Pipeline, arcs: Sequence[Arc], rounds: int) -> tuple[CriticalPart, ...]:
    names = {
        SERVICE: [stage.name for stage in pipeline.stages],
        TOKEN: fifo_names(pipeline),
        ROOM: fifo_names(pipeline),
        PORT: port_names(pipeline),
    }
    found: dict[tuple[str, int], list[int]] = {}
    for arc in reversed(arcs):
        if arc.kind != NEXT:
            sums = found.setdefault((arc.kind, arc.which), [0, 0])
            sums[0] += arc.cycles
            sums[1] += 1
    return tuple(
        CriticalPart(
            kind,
            names[kind][index],
            index,
            cycles / rounds if rounds > 1 else cycles,
            times / rounds if rounds > 1 else times,
            pipeline.edges[index].depth if kind == ROOM else 0,
        )
        for (kind, index), (cycles, times) in found.items()
    )


def _told(part: CriticalPart) -> str:
    if part.kind == SERVICE:
        return f"{part.name} computes ({part.cycles:g})"
    if part.kind == ROOM:
        return f"FIFO {part.name} is full ({part.slots} slots)"
    if part.kind == PORT:
        return f"{part.name} is held ({part.cycles:g})"
    return f"FIFO {part.name} passes on ({part.cycles:g})"
