"""Plain NumPy counterparts of the pruners, written to be read against the papers."""

from __future__ import annotations

import numpy as np


def smallest(weights: list[np.ndarray], count: int) -> list[np.ndarray]:
    """Keep-masks: the `count` smallest magnitudes over all arrays are False, the first of equals first."""
    order = sorted(
        (abs(float(value)), array, index)
        for array, weight in enumerate(weights)
        for index, value in enumerate(weight.ravel())
    )
    keep = [np.ones(weight.size, dtype=bool) for weight in weights]
    for _, array, index in order[:count]:
        keep[array][index] = False
    return [mask.reshape(weight.shape) for mask, weight in zip(keep, weights, strict=True)]


def n_of_m(weight: np.ndarray, n: int, m: int) -> np.ndarray:
    """Keep-mask: the n largest magnitudes of every m consecutive weights of a row (of the rest, at the end)."""
    rows = weight.reshape(len(weight), -1)
    keep = np.zeros(rows.shape, dtype=bool)
    for r, row in enumerate(rows):
        for start in range(0, len(row), m):
            group = range(start, min(start + m, len(row)))
            for index in sorted(group, key=lambda i: (-abs(float(row[i])), i))[:n]:
                keep[r, index] = True
    return keep.reshape(weight.shape)


def erk_densities(shapes: list[tuple[int, ...]], density: float) -> list[float]:
    """Densities of Evci et al. 2020, section 3: eps * sum(sides) / prod(sides), at most 1, with the given mean."""
    sizes = np.array([np.prod(shape) for shape in shapes], dtype=float)
    raw = np.array([sum(shape) for shape in shapes]) / sizes
    low, high = 0.0, 1.0 / raw.min()
    for _ in range(200):  # bisection on eps: the kept weights grow with it
        eps = (low + high) / 2
        kept = float((np.minimum(1.0, eps * raw) * sizes).sum())
        low, high = (eps, high) if kept < density * sizes.sum() else (low, eps)
    return list(np.minimum(1.0, high * raw))
