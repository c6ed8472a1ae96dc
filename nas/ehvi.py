"""Expected hypervolume improvement where some objectives are known exactly and the others are normal variables."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from nas.pareto import non_dominated

Floats = npt.NDArray[np.float64]
Box = tuple[tuple[float, float], ...]  # (low, high) along each objective
CHUNK = 2_000_000  # numbers held at a time


def free_boxes(front: Floats, reference: Floats) -> tuple[Floats, Floats]:
    """The region below the reference that no point dominates, as boxes that do not overlap.

    It is cut into slices along the last objective; a box that goes on in the next slice is one box.

    Args:
        front: (points, objectives), to be minimised, not necessarily non-dominated.
        reference: (objectives,).

    Returns:
        Lower and upper corners, (boxes, objectives) each; lower corners may be -inf.
    """
    front = front[(front < reference).all(axis=1)]
    corners = np.array(_boxes(front, tuple(reference.tolist())), dtype=float)
    return corners[:, :, 0], corners[:, :, 1]


def expected_improvement(
    front: Floats, reference: Floats, known: Floats, is_known: npt.NDArray[np.bool_], mean: Floats, deviation: Floats
) -> Floats:
    """Expected growth of the hypervolume by each candidate, (candidates,).

    In a box the growth is the product of the lengths that the candidate dominates along each objective. For a known
    objective the length is max(0, upper - max(lower, value)); for an independent normal one its expectation is
    psi(upper) - psi(lower) with psi(b) = E[max(0, b - y)] (Emmerich et al. 2011; Yang et al. 2019).

    Args:
        front: (points, objectives) found so far, all to be minimised.
        reference: (objectives,) beyond which nothing counts.
        known: (candidates, known objectives), in the order of the objectives.
        is_known: (objectives,).
        mean, deviation: (candidates, other objectives).
    """
    lower, upper = free_boxes(front, reference)
    total = np.zeros(len(known))
    step = max(1, CHUNK // len(lower))
    for start in range(0, len(known), step):
        part = slice(start, start + step)
        lengths = np.ones((len(known[part]), len(lower)))
        for column, objective in enumerate(np.flatnonzero(is_known).tolist()):
            begin = np.maximum(lower[:, objective], known[part, column, None])
            lengths *= np.maximum(0.0, upper[:, objective] - begin)
        for column, objective in enumerate(np.flatnonzero(~is_known).tolist()):
            bounds, places = np.unique(np.append(lower[:, objective], upper[:, objective]), return_inverse=True)
            psi = _psi(bounds, mean[part, column, None], deviation[part, column, None])
            lengths *= psi[:, places[len(lower) :]] - psi[:, places[: len(lower)]]
        total[part] = lengths.sum(axis=1)
    return total


def _psi(bound: Floats, mean: Floats, deviation: Floats) -> Floats:
    """E[max(0, bound - y)] for y ~ N(mean, deviation^2); 0 at bound = -inf."""
    finite = np.where(np.isfinite(bound), bound, 0.0)
    z = (finite - mean) / deviation
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    return np.where(np.isfinite(bound), deviation * (z * ndtr(z) + density), 0.0)


def _boxes(front: Floats, reference: tuple[float, ...]) -> list[Box]:
    """The free boxes of points that are all below the reference."""
    if len(reference) == 1:
        return [((-np.inf, float(front.min()) if len(front) else reference[0]),)]
    front = front[non_dominated(front)] if len(front) else front
    done: list[Box] = []
    since: dict[Box, float] = {}  # where each box of the slice in hand began
    for low in [-np.inf, *np.unique(front[:, -1]).tolist()]:
        here = _boxes(front[front[:, -1] <= low, :-1], reference[:-1])
        for box in [box for box in since if box not in here]:
            done.append((*box, (since.pop(box), low)))
        for box in here:
            since.setdefault(box, low)
    return done + [(*box, (begin, reference[-1])) for box, begin in since.items()]
