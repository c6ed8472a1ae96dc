"""FIFO depths of smallest total bytes: against deadlock, for full speed, for so many cycles; the Pareto front."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fifo_sim.given import pipeline_of, slot_bytes, unlimited_depths, without_priority
from fifo_sim.pattern import LARGEST, Ints
from fifo_sim.pipeline import Pipeline
from fifo_sim.replay import refuse_long_runs
from fifo_sim.simulator import simulate
from fifo_sim.sizing_search import NO_LIMIT, DepthSearch, Found
from vit.errors import InputError, did_you_mean, require_float, require_int

if TYPE_CHECKING:
    from fifo_sim.given import Given

TARGETS = ("deadlock-free", "full-speed")
ROUNDS = 3  # descents without a better one, after which depths under a port with priority are left as they are
PROVING = 0.8  # share of the time of a Pareto front to prove it; the rest is for samples of what is left
SAMPLES = 16


class Depths(list[int]):
    """FIFO depths in edge order, and what is known of them.

    Attributes:
        total_bytes: what they cost.
        bound_bytes: no depths that reach the target cost less than this.
        cycles: of the pipeline with these depths.
    """

    def __init__(self, depths: Sequence[int], total_bytes: int, bound_bytes: int, cycles: int) -> None:
        super().__init__(depths)
        self.total_bytes, self.bound_bytes, self.cycles = total_bytes, bound_bytes, cycles

    @property
    def gap(self) -> int:
        """Bytes between these depths and the bound; 0 means that they are proven smallest."""
        return self.total_bytes - self.bound_bytes

    @property
    def proven(self) -> bool:
        """Whether no depths that reach the target cost less."""
        return self.gap == 0

    def __repr__(self) -> str:
        known = "proven" if self.proven else f"gap={self.gap}"
        return f"Depths({list(self)}, total_bytes={self.total_bytes}, cycles={self.cycles}, {known})"


class ParetoFront(list[tuple[int, int, Depths]]):
    """(total bytes, cycles, depths) of depths of which none is better in both, by growing bytes and falling cycles.

    Attributes:
        proven: whether this is the whole front: whatever costs as little as a point is at least as slow.
    """

    def __init__(self, points: Sequence[tuple[int, int, Depths]], proven: bool) -> None:
        super().__init__(points)
        self.proven = proven


def min_depths(
    pipeline: Given,
    target: str | int = "full-speed",
    token_bytes: int | Sequence[int] | None = None,
    seconds: float = 10.0,
) -> Depths:
    """FIFO depths of smallest total bytes that reach a target; the depths a pipeline has do not matter.

    Exact by logic-based Benders decomposition: see `fifo_sim.sizing_cuts`. Under a port with priority deeper FIFOs may
    slow a pipeline down, so that only the bound is exact (it is found without the port) and the depths are the best of
    some descents; freedom from deadlock does not depend on such ports and stays exact.

    Args:
        pipeline: a Pipeline, a dict of the kind `Pipeline.from_dict` reads, or what `lower` gives.
        target: "deadlock-free", "full-speed" (the cycles with FIFOs without limit), or most cycles allowed.
        token_bytes: bytes of a slot: one number, or one for each FIFO; by default what `lower` knows, otherwise 1.
        seconds: about how long to search; when it is over, the best depths so far and the open gap are returned.

    Raises:
        InputError: an unknown target, cycles below those at full speed, a pipeline that no depths free from deadlock,
            or one of more than 2^22 firings.
    """
    asked, weights = pipeline_of(pipeline), slot_bytes(pipeline, token_bytes)
    if isinstance(target, str):
        if target not in TARGETS:
            allowed = ", ".join(TARGETS) + " or a number of cycles"
            raise InputError("target", target, allowed, did_you_mean(target, TARGETS))
    else:
        target = require_int("target", target.item() if isinstance(target, np.integer) else target, 1, LARGEST)
    require_float("seconds", seconds, 0, 1e6, open_low=True)
    refuse_long_runs(asked, "sizing its FIFOs")
    full_speed = full_speed_cycles(asked)
    if not isinstance(target, str) and target < full_speed:
        raise InputError("target", target, f"at least {full_speed}, the cycles with FIFOs without limit")
    limit = {"deadlock-free": NO_LIMIT, "full-speed": full_speed}[target] if isinstance(target, str) else target
    found = cheapest(asked, weights, np.ones(len(weights), np.int64), limit, seconds)
    return _told(asked, found)


def pareto_depths(
    pipeline: Given, token_bytes: int | Sequence[int] | None = None, seconds: float = 10.0
) -> ParetoFront:
    """The Pareto front of total FIFO bytes against cycles, from the cheapest depths without deadlock to full speed.

    Found from its slow end: depths of smallest total bytes for one cycle less than the last point, again and again;
    what one search learns holds for the next. Where the time ends first, the rest of the front are depths for some
    cycle counts down to full speed, each with the gap that is open; `proven` of the front is then False. So it is under
    a port with priority (see `min_depths`), where all are the best of some descents.

    Args and raises as `min_depths`.
    """
    asked, weights = pipeline_of(pipeline), slot_bytes(pipeline, token_bytes)
    require_float("seconds", seconds, 0, 1e6, open_low=True)
    refuse_long_runs(asked, "sizing its FIFOs")
    full_speed, begin, lower = full_speed_cycles(asked), time.monotonic(), np.ones(len(weights), np.int64)
    search = DepthSearch(asked, weights, lower)
    bounds: list[tuple[int, int]] = []  # (cycles, bytes): at most those cycles take at least those bytes
    complete = False
    if without_priority(asked) is asked:
        complete = _walk_the_front(search, full_speed, bounds, begin + PROVING * seconds)
        if not complete:
            _sample_the_front(search, full_speed, bounds, begin + seconds)
    else:
        free = DepthSearch(without_priority(asked), weights, lower).solve(seconds / 2)
        bounds.append((NO_LIMIT, free.bound))
        _descend_to_the_front(search, full_speed, begin + seconds)
    points = []
    for total, cycles, depths in search.front:
        bound = min(total, max(bytes_ for most, bytes_ in bounds if most >= cycles))
        points.append((total, cycles, Depths(depths.tolist(), total, bound, cycles)))
    return ParetoFront(points, complete)


def _walk_the_front(search: DepthSearch, full_speed: int, bounds: list[tuple[int, int]], deadline: float) -> bool:
    """Find one point after another, each proven; True if the last one was reached."""
    while True:
        left = deadline - time.monotonic()
        found = search.solve(max(left, 0.01))
        bounds.append((search.limit, found.bound))
        cycles = simulate(search.pipeline.with_depths(found.depths), history=False).cycles
        assert cycles is not None
        if found.bound < found.total or cycles <= full_speed:
            return found.bound == found.total
        search.limit = cycles - 1


def _sample_the_front(search: DepthSearch, full_speed: int, bounds: list[tuple[int, int]], deadline: float) -> None:
    """Search for depths at some cycle counts below the present limit; what is met on the way stays in the front."""
    slowest = search.limit if search.limit != NO_LIMIT else search.front[0][1]
    for done, limit in enumerate(np.linspace(slowest, full_speed, SAMPLES, dtype=np.int64).tolist()):
        left = deadline - time.monotonic()
        search.limit = limit
        bounds.append((limit, search.solve(max(left, 0.01) / (SAMPLES - done)).bound))


def _descend_to_the_front(search: DepthSearch, full_speed: int, deadline: float) -> None:
    """Descend from roomy depths at some cycle counts, the slowest first; what is met stays in the front."""
    roomy = search.roomy()
    search.descend(roomy, deadline)
    for limit in np.linspace(search.front[0][1], full_speed, SAMPLES, dtype=np.int64).tolist():
        search.limit = limit
        search.descend(roomy, deadline)


def full_speed_cycles(pipeline: Pipeline) -> int:
    """Cycles with FIFOs without limit.

    Raises:
        InputError: it deadlocks even so.
    """
    cycles = simulate(pipeline.with_depths(unlimited_depths(pipeline)), history=False).cycles
    if cycles is None:
        raise InputError(
            "resources",
            [list(resource.order) for resource in pipeline.resources],
            "orders in which all stages can start",
            "the turns at the rotating ports and the FIFOs wait for one another whatever the depths",
        )
    return cycles


def cheapest(pipeline: Pipeline, weights: Ints, lower: Ints, limit: int, seconds: float) -> Found:
    """The cheapest depths, at least `lower`, with which a pipeline takes at most `limit` cycles (see `min_depths`)."""
    relaxed = without_priority(pipeline)
    exact = relaxed is pipeline or limit == NO_LIMIT  # a port with priority is given back by itself: it stops nothing
    found = DepthSearch(relaxed, weights, lower, limit).solve(seconds if exact else seconds / 2)
    search = DepthSearch(pipeline, weights, lower, limit)
    if exact or search.enough(found.depths[None])[0]:
        return found
    deadline, best, idle = time.monotonic() + seconds / 2, search.roomy(), 0
    while idle < ROUNDS and time.monotonic() < deadline:
        trial = search.descend(search.roomy(), deadline)
        better = int(weights @ trial) < int(weights @ best)
        best, idle = (trial, 0) if better else (best, idle + 1)
    return Found(best, int(weights @ best), min(found.bound, int(weights @ best)))


def _told(pipeline: Pipeline, found: Found) -> Depths:
    cycles = simulate(pipeline.with_depths(found.depths), history=False).cycles
    assert cycles is not None
    return Depths(found.depths.tolist(), found.total, found.bound, cycles)
