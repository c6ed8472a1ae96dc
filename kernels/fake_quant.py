"""Fake quantisation for training on a CPU: rounding and its gradients in one pass over the data each.

All arrays are (rows, n) with one scale a row; a tensor with one scale is one row. The arithmetic is that of
`quant.fake_quant`, which says where it comes from.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kernels.pot import BELOW_HALF

F32 = NDArray[np.float32]

UNIFORM, POT4, TABLE = 0, 1, 2
# Sums may be reordered, which lets them run in vector registers; nothing else is relaxed.
_SUMS = {"reassoc", "nsz"}


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
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


@njit(cache=True, nogil=True, error_model="numpy")
def forward(x: F32, scale: F32, kind: int, low: np.float32, high: np.float32, table: F32, out: F32) -> None:
    """out = scale * nearest(x / scale)."""
    rows, n = x.shape
    for i in range(rows):
        s = scale[i]
        for j in range(n):
            out[i, j] = nearest(x[i, j] / s, kind, low, high, table) * s


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_SUMS)
def backward(
    x: F32, grad: F32, scale: F32, kind: int, low: np.float32, high: np.float32, table: F32, out: F32, to_scale: F32
) -> None:
    """out = the gradient by x, to_scale (rows,) = the sum of grad * d x^/ds. `out` may be `grad`."""
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
            out[i, j] = given if inside else np.float32(0)
        to_scale[i] = total
