"""Expected hypervolume improvement where some objectives are known exactly and the others are normal variables."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from nas.pareto import non_dominated

Floats = npt.NDArray[np.float64]
CHUNK = 4_000_000  # numbers held at a time


def free_boxes(front: Floats, reference: Floats) -> tuple[Floats, Floats]:
    """The region that no point of the front dominates, below the reference, as boxes that do not overlap.

    Cut into slices along the last objective; a box that goes on in the next slice is one box.

    Args:
        front: (points, objectives), to be minimised, not necessarily non-dominated.
        reference: (objectives,).

    Returns:
        Lower and upper corners, (boxes, objectives) each; lower corners may be -inf.
    """
    front = front[(front < reference).all(axis=1)]
    boxes = _boxes(front[non_dominated(front)] if len(front) else front, tuple(float(r) for r in reference))
    corners = np.array(boxes, dtype=float).reshape(len(boxes), len(reference), 2)
    return corners[:, :, 0], corners[:, :, 1]


def expected_improvement(
    lower: Floats, upper: Floats, known: Floats, is_known: npt.NDArray[np.bool_], mean: Floats, deviation: Floats
) -> Floats:
    """Expected growth of the hypervolume by each candidate, (candidates,).

    In a box the growth is the product of the lengths that the candidate dominates along each objective. For a known
    objective the length is max(0, upper - max(lower, value)); for an independent normal one its expectation is
    psi(upper) - psi(lower), psi(b) = E[max(0, b - y)] (Emmerich et al. 2011; Yang et al. 2019).

    Args:
        lower, upper: corners of the free boxes, (boxes, objectives).
        known: (candidates, known objectives), in the order of the objectives.
        is_known: (objectives,).
        mean, deviation: (candidates, other objectives).
    """
    total = np.zeros(len(known))
    step = max(1, CHUNK // max(1, len(lower)))
    for start in range(0, len(known), step):
        part = slice(start, start + step)
        lengths = np.ones((len(known[part]), len(lower)))
        for column, objective in enumerate(np.flatnonzero(is_known)):
            begin = np.maximum(lower[:, objective], known[part, column, None])
            lengths *= np.maximum(0.0, upper[:, objective] - begin)
        for column, objective in enumerate(np.flatnonzero(~is_known)):
            centre, width = mean[part, column, None], deviation[part, column, None]
            lengths *= _psi(upper[:, objective], centre, width) - _psi(lower[:, objective], centre, width)
        total[part] = lengths.sum(axis=1)
    return total


def _psi(bound: Floats, mean: Floats, deviation: Floats) -> Floats:
    """E[max(0, bound - y)] for y ~ N(mean, deviation^2); 0 at bound = -inf."""
    finite = np.where(np.isfinite(bound), bound, 0.0)
    z = (finite - mean) / deviation
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    return np.where(np.isfinite(bound), (finite - mean) * ndtr(z) + deviation * density, 0.0)


def _boxes(front: Floats, reference: tuple[float, ...]) -> list[tuple[tuple[float, float], ...]]:
    """Free boxes as one (low, high) an objective."""
    if len(reference) == 1:
        return [((-np.inf, float(front.min()) if len(front) else reference[0]),)]
    done: list[tuple[tuple[float, float], ...]] = []
    open_since: dict[tuple[tuple[float, float], ...], float] = {}
    for low in [-np.inf, *np.unique(front[:, -1]).tolist()]:
        active = front[front[:, -1] <= low, :-1]
        here = _boxes(active[non_dominated(active)] if len(active) else active, reference[:-1])
        for box in [box for box in open_since if box not in here]:
            done.append((*box, (open_since.pop(box), low)))
        for box in here:
            open_since.setdefault(box, low)
    return done + [(*box, (since, reference[-1])) for box, since in open_since.items()]
