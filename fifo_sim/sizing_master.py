"""The cheapest depths that all cuts found so far allow: a small mixed integer program, solved by scipy's HiGHS."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from fifo_sim.pattern import Ints
from fifo_sim.sizing_cuts import Cut, Sum
from vit.solver import milp

ROUNDING = 1e-6  # HiGHS is exact to about this, relative to the bound


@dataclass
class Master:
    """Minimise the sum of weights times depths, subject to lower bounds and cuts.

    Attributes:
        weights: bytes of a slot of each FIFO, int64 of shape (edges,).
        lower: smallest depth of each FIFO; cuts with a single FIFO raise it.
        cuts: all others.
    """

    weights: Ints
    lower: Ints
    cuts: dict[Cut, None] = field(default_factory=dict)

    def add(self, cut: Cut) -> None:
        """Take one more cut into account."""
        if len(cut.sums) == 1 and cut.sums[0].factors == (1,) and cut.weighted is None:
            (e,), _, least = cut.sums[0]
            self.lower[e] = max(self.lower[e], least)
        else:
            self.cuts[cut] = None

    def solve(self, limit: int, seconds: float) -> tuple[Ints | None, int]:
        """(depths that satisfy all cuts, or None if the time did not suffice; a lower bound of what any cost).

        Args:
            limit: most cycles allowed; no larger than when the cuts were drawn.
            seconds: most time.
        """
        base = int(self.weights @ self.lower)
        kept = [cut for cut in self.cuts if cut.weighted is not None or not cut.holds(self.lower, limit)]
        self.cuts = dict.fromkeys(kept)
        open_ = (cut.choices(limit) for cut in self.cuts if not cut.holds(self.lower, limit))
        cuts = dict.fromkeys(_simplified(sums, self.lower) for sums in open_)
        if not cuts:
            return self.lower.copy(), base
        from scipy.optimize import Bounds, LinearConstraint

        program = _Program(len(self.weights), self.lower, cuts)
        scale = int(np.gcd.reduce(self.weights))
        cost = np.zeros(program.columns)
        cost[: len(self.weights)] = self.weights // scale
        found = milp(
            cost,
            constraints=LinearConstraint(program.matrix(), lb=np.array(program.least)),
            integrality=np.ones(program.columns),
            bounds=Bounds(np.zeros(program.columns), program.highest()),
            options={"time_limit": max(seconds, 0.01), "mip_rel_gap": 0.0},
        )
        bound = base
        if found.mip_dual_bound is not None and np.isfinite(found.mip_dual_bound):
            bound += scale * max(0, ceil(found.mip_dual_bound * (1 - ROUNDING) - ROUNDING))
        if found.x is None:
            return None, bound
        depths = self.lower + np.round(found.x[: len(self.weights)]).astype(np.int64)
        assert all(cut.holds(depths, limit) for cut in self.cuts)
        return depths, bound


class _Program:
    """The rows of the program. Columns: depths above the lower bounds, then one 0/1 choice for each sum that is one
    of several in a cut."""

    def __init__(self, edges: int, lower: Ints, cuts: Iterable[Sequence[Sum]]) -> None:
        self.edges, self.lower = edges, lower
        self.choices: dict[Sum, int] = {}
        self.entries: list[tuple[int, int, float]] = []
        self.least: list[float] = []
        for sums in cuts:
            if len(sums) == 1:
                self._row(_terms(sums[0]), sums[0].missing(self.lower))
            else:
                self._row([(self._choice(each), 1) for each in sums], 1)
                self._row(self._hull(sums), 1)
        self._order_thresholds()

    @property
    def columns(self) -> int:
        """Number of unknowns."""
        return self.edges + len(self.choices)

    def matrix(self) -> Any:
        """Coefficients as a sparse array of shape (rows, columns)."""
        from scipy.sparse import csr_array

        rows, columns, values = zip(*self.entries, strict=True)
        return csr_array((values, (rows, columns)), shape=(len(self.least), self.columns))

    def highest(self) -> npt.NDArray[np.float64]:
        """Upper bounds of the columns."""
        return np.concatenate([np.full(self.edges, np.inf), np.ones(len(self.choices))])

    def _row(self, terms: Sequence[tuple[int, float]], least: float) -> None:
        self.entries += [(len(self.least), column, value) for column, value in terms]
        self.least.append(least)

    def _choice(self, each: Sum) -> int:
        """The column of a choice; 1 forces its sum."""
        if each not in self.choices:
            self.choices[each] = self.columns
            self._row([*_terms(each), (self.choices[each], -each.missing(self.lower))], 0)
        return self.choices[each]

    def _hull(self, sums: Sequence[Sum]) -> list[tuple[int, float]]:
        """What all choices of a cut have in common: whichever sum is reached, these terms reach 1. Tightens bounds."""
        best: dict[int, float] = {}
        for each in sums:
            missing = each.missing(self.lower)
            for e, factor in zip(each.edges, each.factors, strict=True):
                best[e] = max(best.get(e, 0.0), factor / missing)
        return list(best.items())

    def _order_thresholds(self) -> None:
        """Tell the solver that a larger sum over the same FIFOs implies the smaller ones; it branches less for it."""
        families: dict[tuple[tuple[int, ...], tuple[int, ...]], list[Sum]] = {}
        for each in self.choices:
            families.setdefault(each[:2], []).append(each)
        for family in families.values():
            family.sort(key=lambda each: each.least)
            for low, high in pairwise(family):
                self._row([(self.choices[low], 1), (self.choices[high], -1)], 0)
            if len(family) > 1:  # the depths once, for all choices together
                needs = [each.missing(self.lower) for each in family]
                rises = [after - before for before, after in pairwise([0, *needs])]
                steps = [(self.choices[each], -rise) for each, rise in zip(family, rises, strict=True)]
                self._row([*_terms(family[0]), *steps], 0)


def _simplified(sums: Sequence[Sum], lower: Ints) -> tuple[Sum, ...]:
    """The same choice in fewer sums.

    Sums that one slot more in any of their FIFOs reaches are reached together by one slot more in any FIFO of theirs; a
    sum over no other FIFOs needs such a slot too.
    """
    near = {e for each in sums if each.missing(lower) <= min(each.factors) for e in each.edges}
    far = [each for each in sums if not near.issuperset(each.edges)]
    if near:
        edges = tuple(sorted(near))
        far.append(Sum(edges, (1,) * len(edges), int(lower[list(edges)].sum()) + 1))
    return tuple(far)


def _terms(each: Sum) -> list[tuple[int, float]]:
    return list(zip(each.edges, map(float, each.factors), strict=True))
