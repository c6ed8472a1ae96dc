"""Fake quantisation for training on a CPU: rounding and its gradients in one pass over the data each.

All arrays are (rows, n) with one scale a row; a tensor with one scale is one row. The arithmetic is that of
`quant.fake_quant`, which says where it comes from.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import kept
from kernels.pot import BELOW_HALF

F32 = NDArray[np.float32]

UNIFORM, POT4, TABLE = 0, 1, 2
LANES = 64  # sums that run side by side: the order of additions is fixed, and it suits vector registers
_ZERO = np.float32(0)
# Sums may be reordered, which lets them run in vector registers; nothing else is relaxed.
_SUMS = {"reassoc", "nsz"}


@kept(error_model="numpy", inline="always")
def nearest(scaled: np.float32, kind: int, low: np.float32, high: np.float32, table: F32) -> np.float32:
    """The level nearest to a scaled value, ties away from zero.

    Args:
        table: for TABLE the midpoints, then the magnitudes above zero; unused otherwise.
    """
    if kind == UNIFORM:
        return min(max(np.trunc(scaled + np.copysign(BELOW_HALF, scaled)), low), high)
    magnitude = abs(scaled)
    if kind == POT4:
        bits = np.float32(magnitude).view(np.int32)
        index = np.int32(
            min(np.int32(7), max(((bits + 0x400000) >> 23) - 126, np.int32(1)))
        )  # 1 to 7: the level 2^(index - 1)
        level = np.int32((index + 126) << 23).view(np.float32)
        return np.float32(np.copysign(level if magnitude >= np.float32(0.5) else np.float32(0), scaled))
    count = table.size // 2
    first, last = 0, count
    while first < last:
        middle = (first + last) >> 1
        if magnitude >= table[middle]:
            first = middle + 1
        else:
            last = middle
    return np.float32(np.copysign(table[count + first - 1] if first > 0 else np.float32(0), scaled))


@kept(error_model="numpy")
def forward(x: F32, scale: F32, kind: int, low: np.float32, high: np.float32, table: F32, out: F32) -> None:
    """out = scale * nearest(x / scale)."""
    rows, n = x.shape
    for i in range(rows):
        s = scale[i]
        for j in range(n):
            out[i, j] = nearest(x[i, j] / s, kind, low, high, table) * s


@kept(error_model="numpy")
def to_levels(
    x: F32, scale: F32, kind: int, low: np.float32, high: np.float32, table: F32, out: NDArray[np.generic]
) -> None:
    """out = nearest(x / scale), in a type that holds it."""
    rows, n = x.shape
    for i in range(rows):
        s = scale[i]
        for j in range(n):
            out[i, j] = nearest(x[i, j] / s, kind, low, high, table)


@kept(error_model="numpy", fastmath=_SUMS)
def backward(
    x: F32, grad: F32, scale: F32, kind: int, low: np.float32, high: np.float32, table: F32, to_scale: F32
) -> None:
    """grad = the gradient by x, from that by the rounded x; to_scale (rows,) = the sums of grad * dx^/ds."""
    rows, n = x.shape
    for i in range(rows):
        s = scale[i]
        total = np.float32(0)
        for j in range(n):
            scaled = x[i, j] / s
            level = nearest(scaled, kind, low, high, table)
            inside = low <= scaled <= high
            given = grad[i, j]
            total += given * (level - scaled if inside else level)
            grad[i, j] = given if inside else np.float32(0)
        to_scale[i] = total


@kept(error_model="numpy", inline="always")
def through(value: np.float32, scale: np.float32, low: np.float32, high: np.float32, given: np.float32):  # type: ignore[no-untyped-def]
    """Of a value rounded to whole numbers: its level, the gradient by it, and `given` times dx^/ds."""
    scaled = value / scale
    level = min(max(np.trunc(scaled + np.copysign(BELOW_HALF, scaled)), low), high)
    inside = (low <= scaled) & (scaled <= high)
    return level, given if inside else _ZERO, given * (level - (scaled if inside else _ZERO))


@kept(error_model="numpy")
def backward_with_levels(
    x: F32, grad: F32, scale: np.float32, low: np.float32, high: np.float32, levels: F32
) -> np.float32:
    """`backward` of whole-number levels with one scale, over flat arrays, which leaves the levels of x as well."""
    sums, whole = np.zeros(LANES, np.float32), x.size - x.size % LANES
    for start in range(0, whole, LANES):
        values, given, out = x[start : start + LANES], grad[start : start + LANES], levels[start : start + LANES]
        for j in range(LANES):
            out[j], given[j], share = through(values[j], scale, low, high, given[j])
            sums[j] += share
    for j in range(whole, x.size):
        levels[j], grad[j], share = through(x[j], scale, low, high, grad[j])
        sums[0] += share
    return np.float32(sums.sum())
