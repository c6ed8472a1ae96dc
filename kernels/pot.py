"""Nearest level of a scaled weight, as codes: integer operations on the float's bits, or a table of midpoints."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import kept

# The largest float32 below 0.5: trunc(x + copysign(this, x)) rounds to nearest with ties away from zero for every x
# (adding 0.5 itself would carry 0.49999997 up to 1). LLVM expands llvm.round the same way.
BELOW_HALF = np.float32(0.5 - 2.0**-25)


@kept(error_model="numpy", inline="always")
def round_clip(value: np.float32, low: np.float32, high: np.float32) -> np.float32:
    """The nearest whole number, ties away from zero, within [low, high]."""
    return min(max(np.trunc(value + np.copysign(BELOW_HALF, value)), low), high)


@kept(error_model="numpy", inline="always")
def nearest_power(value: np.float32, top: np.float32) -> np.float32:
    """The nearest of 0, 1, 2, 4 ... top to a value >= 0, ties upward: the next power begins at 0.5, 1.5, 3 ..."""
    bits = (np.float32(value).view(np.int32) + np.int32(0x400000)) & np.int32(0x7F800000)
    power = min(max(np.int32(bits).view(np.float32), np.float32(1)), top)
    return power if value >= np.float32(0.5) else np.float32(0)


@kept()
def pot4_codes(scaled: NDArray[np.float32], codes: NDArray[np.uint8]) -> None:
    """pot4 codes of float32 values (flat): sign bit and exponent of the nearest of 0, 1, 2, 4 ... 64.

    Adding half a mantissa to the bits carries into the exponent exactly from 1.5 * 2^k on, the midpoint of 2^k and
    2^(k+1); only the midpoint of 0 and 1, at 0.5, needs a comparison of its own.
    """
    bits = scaled.view(np.int32)
    for i in range(bits.size):
        magnitude = bits[i] & 0x7FFFFFFF
        index = min(7, ((magnitude + 0x400000) >> 23) - 126)
        index = max(index, 1 if magnitude >= 0x3F000000 else 0)
        codes[i] = index | (8 if bits[i] < 0 and index > 0 else 0)


@kept()
def table_codes(
    scaled: NDArray[np.float32], midpoints: NDArray[np.float32], sign_bit: int, codes: NDArray[np.uint8]
) -> None:
    """Sign-and-magnitude codes of float32 values (flat): how many midpoints a magnitude has reached, by bisection."""
    for i in range(scaled.size):
        value = scaled[i]
        magnitude = abs(value)
        low, high = 0, midpoints.size
        while low < high:
            middle = (low + high) >> 1
            if magnitude >= midpoints[middle]:
                low = middle + 1
            else:
                high = middle
        codes[i] = low | (sign_bit if low > 0 and value < 0 else 0)


@kept()
def uniform_codes(scaled: NDArray[np.float32], low: int, high: int, codes: NDArray[np.uint8]) -> None:
    """Two's complement codes of float32 values (flat), rounded to nearest, ties away from zero, clipped."""
    mask = high - low
    for i in range(scaled.size):
        value = scaled[i]
        level = int(round_clip(value, np.float32(low), np.float32(high)))
        codes[i] = level & mask
