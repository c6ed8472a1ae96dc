"""The cheapest FIFO depths with which a pipeline finishes in time: cuts from runs, depths from cuts, in turn.

Depths that the cuts allow and that are enough cost the least of all; until then each simulation adds cuts (logic-based
Benders decomposition). A cut is drawn from depths made as large as they can be while still too small: it then excludes
as much as it can.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from fifo_sim.critical import critical_arcs
from fifo_sim.deadlock_waits import blocking_waits, steps_of_waits
from fifo_sim.given import unlimited_depths
from fifo_sim.many import simulate_many
from fifo_sim.pattern import Ints
from fifo_sim.pipeline import Pipeline
from fifo_sim.replay import Replay, Wiring
from fifo_sim.simulator import simulate
from fifo_sim.sizing_cuts import Cut, CutMaker, Shifts
from fifo_sim.sizing_master import Master

LANES = 8  # configurations simulated side by side
SEARCHING = 0.7  # share of the time for proving; the rest makes the best depths smaller where no proof was found
NO_LIMIT = 1 << 62

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Found:
    """Depths that are enough, what they cost, and a lower bound of what any that are enough cost."""

    depths: Ints
    total: int
    bound: int


class DepthSearch:
    """Searches one pipeline, whose cycles must not grow with its depths (no port with priority).

    Args:
        pipeline: its own depths do not matter.
        weights: bytes of a slot of each FIFO, int64 of shape (edges,).
        lower: smallest depths allowed.
        limit: most cycles allowed. It may be lowered between calls of `solve`; what was learnt stays.

    Attributes:
        front: the best of all that was simulated: (bytes, cycles, depths), by falling cycles and growing bytes.
    """

    def __init__(self, pipeline: Pipeline, weights: Ints, lower: Ints, limit: int = NO_LIMIT, seed: int = 0) -> None:
        self.pipeline, self.limit, self.shifts = pipeline, limit, Shifts(Wiring(pipeline))
        self.master = Master(weights, lower.copy())
        self.unlimited = np.maximum(unlimited_depths(pipeline), lower)
        self.random = np.random.default_rng(seed)
        self.front: list[tuple[int, int, Ints]] = []
        self._alone: Ints = np.full(len(weights), NO_LIMIT, np.int64)  # cycles at the lower bound, others unlimited

    def enough(self, depths: Ints) -> Bools:
        """Which of the depths, of shape (configurations, edges), finish within the limit."""
        return self._cycles(depths) <= self.limit

    def _cycles(self, depths: Ints) -> Ints:
        """Cycles of each setting; beyond any limit where it deadlocks."""
        cycles = simulate_many(self.pipeline, depths)
        cycles[cycles < 0] = NO_LIMIT + 1
        self._note(depths, cycles)
        return cycles

    def solve(self, seconds: float) -> Found:
        """The cheapest depths that are enough, proven if the bound equals the total; takes about so many seconds.

        Depths without limit must be enough.
        """
        begin, weights, lower = time.monotonic(), self.master.weights, self.master.lower
        if self.enough(lower[None])[0]:
            return Found(lower.copy(), int(weights @ lower), int(weights @ lower))
        best = self._capped(self.roomy())
        self._raise_lower_bounds(best, begin + seconds * SEARCHING)
        bound = int(weights @ lower)
        while bound < weights @ best:
            left = begin + seconds * SEARCHING - time.monotonic()
            depths, least = self.master.solve(self.limit, left) if left > 0 else (None, bound)
            if depths is None:
                best = self.descend(best, begin + seconds)
                break
            if self.enough(depths[None])[0]:
                best = min(best, depths, key=lambda row: int(weights @ row))
            else:
                self._learn(depths, widely=least <= bound)
            bound = max(bound, least)
        return Found(best, int(weights @ best), min(bound, int(weights @ best)))

    def roomy(self) -> Ints:
        """Depths that never fill, so that they are as good as unlimited: one more than each FIFO ever holds then."""
        pipeline = self.pipeline.with_depths(self.unlimited)
        peaks = np.array(simulate(pipeline, history=False).max_occupancy, dtype=np.int64)
        asked_before = np.array([pipeline.stages[pipeline.index[edge.src]].mode == "bbs" for edge in pipeline.edges])
        roomy = np.where(asked_before, self.unlimited, np.minimum(peaks + 1, self.unlimited))
        roomy = np.maximum(roomy, self.master.lower)
        self._cycles(roomy[None])
        return roomy

    def _capped(self, depths: Ints) -> Ints:
        """Depths that are enough, each cut down to the same power of two above its lower bound, by bisection."""
        low, high = 0, int(depths.max()).bit_length()  # the power; the largest cuts nothing down
        best = depths
        while low < high:
            middle = (low + high) // 2
            trial = np.minimum(depths, self.master.lower + (1 << middle))
            if self.enough(trial[None])[0]:
                best, high = trial, middle
            else:
                low = middle + 1
        return best

    def _raise_lower_bounds(self, enough: Ints, deadline: float) -> None:
        """Each FIFO's smallest depth when all others are without limit, by bisection side by side."""
        low, high = self.master.lower, enough.copy()
        open_ = np.flatnonzero(self._alone >= min(self.limit + 1, NO_LIMIT))
        middle = low.copy()  # most bounds stay where they are
        while len(open_) and time.monotonic() < deadline:
            trial = np.repeat(self.unlimited[None], len(open_), axis=0)
            trial[np.arange(len(open_)), open_] = middle[open_]
            cycles = self._cycles(trial)
            good = cycles <= self.limit
            self._alone[open_[good]] = cycles[good]
            high[open_[good]] = middle[open_[good]]
            low[open_[~good]] = middle[open_[~good]] + 1
            open_ = open_[low[open_] < high[open_]]
            middle = (low + high) // 2

    def descend(self, depths: Ints, deadline: float) -> Ints:
        """Depths that are enough and none of which can be lowered alone; the cheapest of some random orders."""
        lanes = np.repeat(depths[None], LANES, axis=0)
        orders = self.random.permuted(np.repeat(np.arange(len(depths))[None], LANES, axis=0), axis=1)
        rows = np.arange(LANES)
        for place in orders.T:
            low, high = self.master.lower[place], lanes[rows, place]
            middle = low.copy()
            while (low < high).any() and time.monotonic() < deadline:
                trial = lanes.copy()
                trial[rows, place] = middle
                enough = self.enough(trial)
                high, low = np.where(enough, middle, high), np.where(enough, low, np.minimum(middle + 1, high))
                middle = (low + high) // 2
            lanes[rows, place] = high
        best: Ints = lanes[np.argmin(lanes @ self.master.weights)]
        return best

    def _learn(self, depths: Ints, widely: bool) -> None:
        """Add the cut that follows from depths that are too small; `widely`, also from larger ones that still are."""
        cut = self.cut(depths)
        self.master.add(cut)
        if widely:
            blamed = np.unique([e for each in cut.sums for e in each.edges])
            for row in np.unique(self._grow(depths, blamed), axis=0):
                self.master.add(self.cut(row))

    def _note(self, depths: Ints, cycles: Ints) -> None:
        """Keep what is better than all that is kept so far in bytes or cycles."""
        totals = depths @ self.master.weights
        for i in np.flatnonzero(cycles <= NO_LIMIT):
            total, taken = int(totals[i]), int(cycles[i])
            place = bisect_right(self.front, total, key=itemgetter(0))
            if place and self.front[place - 1][1] <= taken:
                continue
            end = place
            while end < len(self.front) and self.front[end][1] >= taken:
                end += 1
            begin = place - 1 if place and self.front[place - 1][0] == total else place
            self.front[begin:end] = [(total, taken, depths[i].copy())]

    def _grow(self, depths: Ints, blamed: Ints) -> Ints:
        """Depths at least as large and still too small, but not if any is made larger; one a lane."""
        lanes = np.repeat(self.unlimited[None], LANES, axis=0)
        lanes[:, blamed] = depths[blamed]
        orders = self.random.permuted(np.repeat(blamed[None], LANES, axis=0), axis=1)
        rows = np.arange(LANES)
        for place in orders.T:
            low, high = lanes[rows, place], self.unlimited[place] + 1  # too small, and beyond all that matters
            step = self.unlimited[place] - low  # the first trial takes the FIFO out of the question
            while (low + 1 < high).any():
                middle = np.minimum(np.minimum(low + np.maximum(step, 1), high - 1), self.unlimited[place])
                middle = np.maximum(middle, low)
                trial = lanes.copy()
                trial[rows, place] = middle
                enough = self.enough(trial)
                step = np.where(enough, 1, 2 * step)
                high, low = np.where(enough, middle, high), np.where(enough, low, middle)
            lanes[rows, place] = low
        return lanes

    def cut(self, depths: Ints) -> Cut:
        """What depths that are too small say of all others."""
        replay = self._replay(depths)
        maker = CutMaker(self.shifts, depths, self.master.lower)
        if replay.deadlock:
            return maker.from_waits(steps_of_waits(replay, self.shifts, blocking_waits(replay)))
        return maker.from_path(critical_arcs(replay), self.limit)

    def _replay(self, depths: Ints) -> Replay:
        pipeline = self.pipeline.with_depths(depths)
        return Replay(pipeline, simulate(pipeline), self.shifts.wiring)
