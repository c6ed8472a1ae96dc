"""What one set of FIFO depths that is too small says about all others.

Let a critical path be longer than allowed at depths d. Followed back at other depths d', the same waits lead to other
firings: a full FIFO e leads from token k to the firing that freed slot k - d'[e]. As long as the path arrives where it
did, or later, it is as long as it was. Over a stretch in which all other waits shift firings by constants, only the sum
of the depths on it counts: the path is as long unless that sum is larger than it was. Where a stage next to the stretch
computes several firings in a row, the path can make up for x slots more by passing x of those firings by: it is shorter
by x service times, and no more. So d' is too small as well unless either

    the sum over stretches of (service time) * (sum of d' - sum of d) makes up for what the path is too long,
    or some stretch has more slots more than there are firings to pass by (none, where no stage computes in a row).

A circular wait gives the second kind alone: there the path closes on itself. These are the cuts of a logic-based
Benders decomposition (Hooker and Ottosson 2003) whose subproblem is the simulation.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import gcd
from typing import NamedTuple

import numpy as np

from fifo_sim.critical import NEXT, PORT, ROOM, SERVICE, TOKEN, Arc
from fifo_sim.pattern import Ints
from fifo_sim.replay import Wiring

FAR = 1 << 62
ROW = 2  # firings that count as a row


class Sum(NamedTuple):
    """The requirement that factors times the depths of these FIFOs (by position, ascending) sum to at least `least`."""

    edges: tuple[int, ...]
    factors: tuple[int, ...]
    least: int

    def missing(self, depths: Ints) -> int:
        """How much the depths fall short of it; 0 or less if they do not."""
        return self.least - sum(factor * int(depths[e]) for e, factor in zip(self.edges, self.factors, strict=True))


@dataclass(frozen=True)
class Cut:
    """At least one of the sums must be reached, or the weighted one for the limit on cycles.

    Attributes:
        sums: whatever the limit, as long as it is not larger than it was.
        weighted: the sum that makes up for what the path is too long; its `least` is for a limit of 0 cycles. A smaller
            limit asks for as much more: so a cut gets stronger when the limit is lowered. None if there is none.
    """

    sums: tuple[Sum, ...]
    weighted: Sum | None = None

    def choices(self, limit: int) -> list[Sum]:
        """The sums of which one must be reached if at most `limit` cycles are allowed."""
        if self.weighted is None:
            return list(self.sums)
        edges, factors, reach = self.weighted
        common = gcd(*factors)
        return [*self.sums, Sum(edges, tuple(factor // common for factor in factors), -((limit - reach) // common))]

    def holds(self, depths: Ints, limit: int) -> bool:
        """True if the depths reach one of the sums."""
        return any(each.missing(depths) <= 0 for each in self.choices(limit))


class Step(NamedTuple):
    """A part of the way back: a full FIFO (`edge`), firings in a row (`repeats` of them, back from `firing` of
    `stage`), or else a shift of the firing. A shift is the same for indices from `down` below to `up` above the actual
    one; a row whose number of firings stays shifts like that too."""

    edge: int = -1
    stage: int = -1
    firing: int = 0
    repeats: int = 0
    down: int = FAR
    up: int = FAR


class Shifts:
    """How far each wait of a pipeline shifts the same way around a given firing. Depths do not matter here."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self._changes: dict[tuple[str, int], list[int]] = {}

    def steps(self, arcs: Sequence[Arc], depths: Ints) -> list[Step]:
        """The steps of a critical path at these depths."""
        steps, place = list[Step](), 0
        while place < len(arcs):
            arc = arcs[place]
            row = _row_at(arcs, place)
            if row >= ROW:
                steps.append(self._row(arc.which, arc.firing, row))
                place += 2 * row
                continue
            place += 1
            if arc.kind == NEXT:
                steps.append(back(arc.firing, 1))
            elif arc.kind == ROOM:
                steps += self.full(arc.which, arc.firing - int(depths[arc.which]))
            elif arc.kind == PORT:
                steps.append(Step(down=0, up=0))
            elif arc.kind == TOKEN:
                steps.append(self.token(arc.which, arc.firing))
            else:
                steps.append(self._around(arc.kind, arc.which, arc.firing))
        return steps

    def full(self, e: int, slot: int) -> list[Step]:
        """The steps of a wait for FIFO `e` to be given back the given slot."""
        return [Step(e), self._around(ROOM, e, slot)]

    def token(self, e: int, k: int) -> Step:
        """The step of a wait of firing k for a token of FIFO `e`; below it, firings that need none wait for nothing."""
        step = self._around(TOKEN, e, k)
        return step._replace(down=min(step.down, int(self.wiring.needs(e)[k]) - 1))

    def _row(self, s: int, k: int, repeats: int) -> Step:
        first, last = self._around(SERVICE, s, k), self._around(SERVICE, s, k - repeats + 1)
        return Step(stage=s, firing=k, repeats=repeats, up=first.up, down=min(last.down, k - repeats))

    def _around(self, kind: str, index: int, k: int) -> Step:
        """The step at index k of one of the sequences below."""
        changes = self._of(kind, index)
        place = bisect_right(changes, k)
        low = changes[place - 1] if place else 0
        high = changes[place] if place < len(changes) else FAR
        return Step(down=k - low, up=high - 1 - k)

    def _of(self, kind: str, index: int) -> list[int]:
        """The indices at which the shift (or service time) differs from the one before."""
        if (kind, index) not in self._changes:
            self._changes[kind, index] = (np.flatnonzero(np.diff(self._sequence(kind, index))) + 1).tolist()
        return self._changes[kind, index]

    def _sequence(self, kind: str, index: int) -> Ints:
        """How far each firing (TOKEN) or slot (ROOM) of a FIFO shifts, or the service times of a stage."""
        if kind == SERVICE:
            return self.wiring.services(index)
        sequence = self.wiring.freeing(index) if kind == ROOM else self.wiring.needs(index)
        return sequence - np.arange(len(sequence))


def back(k: int, steps: int) -> Step:
    """The step from firing k of a stage to one so many before it."""
    return Step(down=k - steps)


def _row_at(arcs: Sequence[Arc], place: int) -> int:
    """How many times from `place` on the path computes a firing of a stage and turns to the one before."""
    row, end = 0, len(arcs) - 1
    while place < end and arcs[place].kind == SERVICE and arcs[place + 1].kind == NEXT:
        row, place = row + 1, place + 2
    return row


@dataclass
class _Stretch:
    """Full FIFOs whose depths count by their sum alone, for all depths that are at least the lower bounds.

    Attributes:
        edges: the FIFOs.
        spare: by how much their sum could be smaller.
        room, head: by how much the indices on it could all lie lower, or higher, without another shift.
    """

    edges: list[int] = field(default_factory=list)
    spare: int = 0
    room: int = FAR
    head: int = FAR

    def take(self, edge: int, spare: int, gap: Sequence[Step]) -> bool:
        """Extend it by a FIFO that follows the steps in `gap`; False if their shifts reach too little far."""
        down, up = _margins(gap)
        if edge in self.edges or up < self.spare or min(self.room, down) < spare:
            return False
        self.room = min(self.room, down) - spare
        self.head = min(self.head, up - self.spare)
        self.edges.append(edge)
        self.spare += spare
        return True

    def passes_before(self, row: Step, gap: Sequence[Step]) -> int:
        """Firings that can be passed by in a row before it, with the steps in `gap` between."""
        down, up = _margins(gap)
        return max(0, min(row.repeats, self.head, up)) if down >= self.spare else 0

    def passes_after(self, row: Step, gap: Sequence[Step]) -> int:
        """The same in a row after it."""
        down, up = _margins(gap)
        return max(0, min(row.repeats, self.room, down)) if up >= self.spare else 0


class Lean(NamedTuple):
    """A row of firings that a stretch leans on: the path is shorter by at most `service` cycles for each of `passes`
    firings passed by, and longer by at least as much, less `loss` in all, for each one more."""

    service: int
    loss: int
    passes: int
    row: tuple[int, int]


def _margins(gap: Sequence[Step]) -> tuple[int, int]:
    return min((step.down for step in gap), default=FAR), min((step.up for step in gap), default=FAR)


class CutMaker:
    """Draws cuts from the run of one pipeline at depths that are too small.

    Args:
        shifts: of the pipeline, whatever its depths.
        depths: the depths of the run.
        lower: smallest depths allowed; the cuts hold for depths at least as large.
    """

    def __init__(self, shifts: Shifts, depths: Ints, lower: Ints) -> None:
        self.shifts, self.depths, self.lower = shifts, depths, lower

    def from_path(self, arcs: Sequence[Arc], limit: int) -> Cut:
        """The cut that follows from a critical path that is longer than `limit` cycles."""
        length = sum(arc.cycles for arc in arcs)
        stretches, gaps = self._stretches(self.shifts.steps(arcs, self.depths), split_at_rows=True)
        leans: dict[int, Lean] = {}
        for i, stretch in enumerate(stretches):
            used = {lean.row for lean in leans.values()}
            offers = [lean for lean in self._offers(stretch, i, gaps) if lean.row not in used and lean.passes]
            if offers:
                leans[i] = min(offers)
        lost = 0
        for i in sorted(leans, key=lambda i: leans[i].loss):  # what is lost in all must leave the path too long
            lost += leans[i].loss
            if lost >= length - limit:
                del leans[i]
        return self._cut(stretches, leans, length)

    def from_waits(self, steps: Sequence[Step]) -> Cut:
        """The cut that follows from a circular wait."""
        stretches, _ = self._stretches(steps, split_at_rows=False)
        return self._cut(stretches, {}, 0)

    def _stretches(self, steps: Sequence[Step], split_at_rows: bool) -> tuple[list[_Stretch], list[list[Step]]]:
        """The stretches of the way back, and the steps before, between and after them."""
        stretches: list[_Stretch] = []
        gaps: list[list[Step]] = [[]]
        for step in steps:
            if step.edge < 0:
                gaps[-1].append(step)
                continue
            spare = int(self.depths[step.edge] - self.lower[step.edge])
            apart = not stretches or (split_at_rows and any(other.repeats for other in gaps[-1]))
            if not apart and stretches[-1].take(step.edge, spare, gaps[-1]):
                gaps[-1] = []
            else:
                stretches.append(_Stretch([step.edge], spare))
                gaps.append([])
        return stretches, gaps

    def _offers(self, stretch: _Stretch, i: int, gaps: Sequence[Sequence[Step]]) -> Iterator[Lean]:
        """The nearest rows before and after a stretch."""
        before, after = gaps[i], gaps[i + 1]
        for place in reversed(range(len(before))):
            if before[place].repeats:
                passes = stretch.passes_before(before[place], before[place + 1 :])
                yield self._lean(before[place], passes, stretch.spare, -1, (i, place))
                break
        for place, row in enumerate(after):
            if row.repeats:
                passes = stretch.passes_after(row, after[:place])
                yield self._lean(row, passes, stretch.spare, 1, (i + 1, place))
                break

    def _lean(self, row: Step, passes: int, spare: int, side: int, place: tuple[int, int]) -> Lean:
        """Lean on a row that grows at its earlier end (side -1, for a row before the stretch) or its later one (1)."""
        services, last = self.shifts.wiring.services(row.stage), row.firing - row.repeats + 1
        service = int(services[last : row.firing + 1].max())
        more = services[max(0, last - spare) : last][::-1] if side < 0 else services[row.firing + 1 :][:spare]
        gained = np.append(np.cumsum(more), [more.sum()] * (spare - len(more)))
        return Lean(service, int(max(0, (service * np.arange(1, spare + 1) - gained).max(initial=0))), passes, place)

    def _cut(self, stretches: Sequence[_Stretch], leans: Mapping[int, Lean], length: int) -> Cut:
        sums: dict[tuple[int, ...], int] = {}
        factors: dict[int, int] = {}
        reach = length
        for i, stretch in enumerate(stretches):
            edges, total, passes = tuple(sorted(stretch.edges)), int(self.depths[stretch.edges].sum()), 0
            if i in leans:
                lean = leans[i]
                passes = lean.passes
                reach += lean.service * total - lean.loss
                for e in edges:
                    factors[e] = factors.get(e, 0) + lean.service
            sums[edges] = min(total + passes + 1, sums.get(edges, FAR))
        found = [Sum(edges, (1,) * len(edges), least) for edges, least in sums.items()]
        if not factors:
            return Cut(tuple(found))
        all_edges, services = zip(*sorted(factors.items()), strict=True)
        return Cut(tuple(found), Sum(all_edges, services, reach))
