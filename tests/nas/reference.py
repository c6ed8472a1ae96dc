"""Plain counterparts of the Pareto arithmetic, by definition and by counting unit cells."""

from __future__ import annotations

import itertools

import numpy as np


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether `a` is nowhere worse than `b` and somewhere better."""
    return all(a <= b) and any(a < b)


def non_dominated(points: np.ndarray) -> list[bool]:
    return [not any(dominates(other, point) for other in points) for point in points]


def dominated_cells(points: np.ndarray, reference: np.ndarray) -> int:
    """Unit cells between whole-numbered points >= 0 and the reference: their hypervolume."""
    cells = itertools.product(*(range(int(r)) for r in reference))
    return sum(any((np.array(cell) >= point).all() for point in points) for cell in cells)


def expected_improvement(points: np.ndarray, reference: np.ndarray, samples: np.ndarray, volume: object) -> float:
    """Mean growth of the hypervolume over samples (n, objectives) of one candidate."""
    before = volume(points, reference)
    return float(np.mean([volume(np.vstack([points, sample]), reference) - before for sample in samples]))
