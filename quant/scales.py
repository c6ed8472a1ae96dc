"""The first value of a scale, by least squares rather than by the largest value, and how scales are stored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.codec import nearest
from quant.level_sets import level_set

_WEIGHT_STEPS = np.arange(-3.0, 0.51, 0.125)  # log2 of the candidates over max|w| / high
_ACTIVATION_STEPS = np.arange(-4.0, 0.01, 0.125)


def weight_scale(w: NDArray[np.float32], scheme: str, power_of_two: bool = False) -> NDArray[np.float32]:
    """The scale of each row that minimises the squared error of its nearest levels.

    A search over scales from 1/8 to 1.4 times max|w| / high, then two rounds of alternating projection: the best scale
    for fixed levels l is <w, l> / <l, l>. With `power_of_two` the best of the powers of two in that range.

    Args:
        w: weights, (rows, n); one scale a row.

    Returns:
        float32 (rows,), positive; 1 for a row of zeros.
    """
    high = level_set(scheme).high
    largest = np.abs(w).max(axis=1, initial=0.0).astype(np.float64) / high
    empty = largest < 2.0**-100
    base = np.where(empty, 1.0, largest)
    if power_of_two:
        exponents = np.arange(-3, 2)
        return _best(w, [2.0 ** (np.floor(np.log2(base)) + e) for e in exponents], scheme)
    best = _best(w, [base * 2.0**step for step in _WEIGHT_STEPS], scheme)
    for _ in range(2):
        chosen = nearest(w / best[:, None], scheme).astype(np.float64)
        norm = (chosen * chosen).sum(1)
        projected = (chosen * w).sum(1) / np.where(norm > 0, norm, 1.0)
        best = _best(w, [best, np.where(projected > 2.0**-100, projected, best)], scheme)
    return np.where(empty, np.float32(1.0), best).astype(np.float32)


def activation_scale(x: NDArray[np.float32], low: int, high: int) -> float:
    """The scale that minimises the squared error of rounding `x` (flat) to whole numbers from low to high."""
    largest = max(float(x.max(initial=0.0)) / high, float(x.min(initial=0.0)) / low if low else 0.0)
    if not np.isfinite(largest) or largest < 2.0**-100:
        return 1.0
    candidates = [np.float32(largest * 2.0**step) for step in _ACTIVATION_STEPS]
    errors = [float(np.square(np.clip(np.rint(x / s), low, high) * s - x).sum(dtype=np.float64)) for s in candidates]
    return float(candidates[int(np.argmin(errors))])


def to_bfloat16(scale: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The nearest bfloat16 of positive finite float32 values, ties to even, as the upper half of their bits."""
    bits = scale.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)).astype(np.uint16)


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """float32 values from their upper 16 bits."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _best(w: NDArray[np.float32], candidates: list[NDArray[Any]], scheme: str) -> NDArray[np.float32]:
    best = candidates[0].astype(np.float32)
    lowest = np.full(w.shape[0], np.inf)
    for candidate in candidates:
        scale = candidate.astype(np.float32)
        error = np.square(nearest(w / scale[:, None], scheme) * scale[:, None] - w).sum(1, dtype=np.float64)
        best = np.where(error < lowest, scale, best)
        lowest = np.minimum(error, lowest)
    return best
