"""The level sets: which integers a weight may take, times one scale, and the code each is stored as. Needs no torch.

Codes. The power-of-two schemes are sign and magnitude: the top bit is the sign, the rest counts the magnitudes from 0,
so a pot4 code is a sign and a 3-bit exponent. The uniform schemes are two's complement. Zero is always code 0, which is
how a pruned weight is stored; the code "minus zero" of sign and magnitude is never written and is refused on reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from vit.errors import InputError, require_choice

# Magnitudes of the signed schemes. apot4 and apot6 are additive powers of two (Li et al. 2020, "Additive Powers-of-Two
# Quantization"): sums of two terms, each zero or a power of two, chosen so that the sums stay distinct.
_MAGNITUDES: dict[str, tuple[int, ...]] = {
    "pot4": (0, *(2**k for k in range(7))),
    "pot6": (0, *(2**k for k in range(31))),
    "apot4": (0, 1, 2, 3, 4, 6, 8, 10),
    "apot6": (*range(9), 10, 12, 14, 16, 17, 20, 21, 24, 28, 32, 34, 36, 38, 48, 52, 64, 65, 68, 69, 72, 76, 96, 100),
}
_UNIFORM_BITS = {"int4": 4, "int6": 6, "int8": 8}
LOG2_EXPONENTS = 14  # of a log2 probability: 2^-14 to 2^0, and 0, are what 4 bits can tell apart

SCHEMES = (*_MAGNITUDES, *_UNIFORM_BITS)


@dataclass(frozen=True)
class LevelSet:
    """A scheme's tables, built once.

    Attributes:
        scheme: its name.
        bits: bits of a code.
        low, high: smallest and largest level.
        magnitudes: the magnitudes of a sign-and-magnitude scheme, ascending from 0; empty for a uniform one.
        midpoints: float32, halfway between neighbouring magnitudes; empty for a uniform scheme.
        by_code: int64, level of each of the 2^bits codes; an unused code holds 0.
        valid: bool, whether each of the 2^bits codes is used.
    """

    scheme: str
    bits: int
    low: int
    high: int
    magnitudes: NDArray[np.int64]
    midpoints: NDArray[np.float32]
    by_code: NDArray[np.int64]
    valid: NDArray[np.bool_]

    @property
    def uniform(self) -> bool:
        """Whether the levels are all the integers from low to high."""
        return len(self.magnitudes) == 0


@cache
def level_set(scheme: str) -> LevelSet:
    """The tables of a scheme.

    Raises:
        InputError: no such scheme.
    """
    require_choice("scheme", scheme, SCHEMES)
    if scheme in _UNIFORM_BITS:
        bits = _UNIFORM_BITS[scheme]
        half = 2 ** (bits - 1)
        codes = np.arange(2**bits, dtype=np.int64)
        by_code = np.where(codes < half, codes, codes - 2 * half)
        empty = np.zeros(0, np.int64)
        return LevelSet(scheme, bits, -half, half - 1, empty, empty.astype(np.float32), by_code, np.ones(2**bits, bool))
    bits = int(scheme[-1])
    magnitudes = np.array(_MAGNITUDES[scheme], np.int64)
    half = 2 ** (bits - 1)
    by_code, valid = np.zeros(2 * half, np.int64), np.zeros(2 * half, bool)
    by_code[: len(magnitudes)], valid[: len(magnitudes)] = magnitudes, True
    by_code[half + 1 : half + len(magnitudes)], valid[half + 1 : half + len(magnitudes)] = -magnitudes[1:], True
    midpoints = ((magnitudes[1:] + magnitudes[:-1]) / 2).astype(np.float32)  # exact: half-integers and 1.5 * 2^k
    high = int(magnitudes[-1])
    return LevelSet(scheme, bits, -high, high, magnitudes, midpoints, by_code, valid)


def levels(scheme: str) -> NDArray[np.int64]:
    """The scheme's levels, ascending, int64: a weight is one of these times its scale.

    >>> levels("pot4").tolist()
    [-64, -32, -16, -8, -4, -2, -1, 0, 1, 2, 4, 8, 16, 32, 64]

    Raises:
        InputError: no such scheme.
    """
    tables = level_set(scheme)
    return np.sort(tables.by_code[tables.valid])


def bits_of(scheme: str) -> int:
    """Bits of a stored code."""
    return level_set(scheme).bits


def probability_top(activations: str, log2: bool) -> int:
    """The whole number that stands for an attention probability of 1.

    A probability is a whole number times its reciprocal: 0 to 2^b - 1 at the b bits of the activations, or with `log2`
    0 and the 15 powers of two from 2^0 to 2^14, which makes 16 codes whatever the activations.
    """
    return 2**LOG2_EXPONENTS if log2 else 2 ** bits_of(activations) - 1


def activation_range(scheme: str, unsigned: bool) -> tuple[int, int]:
    """Smallest and largest code of an activation: 0 to 2^b - 1 where it cannot be negative, else two's complement.

    Raises:
        InputError: the scheme is not a uniform one.
    """
    if scheme not in _UNIFORM_BITS:
        raise InputError("activations", scheme, "one of " + ", ".join(_UNIFORM_BITS))
    bits = _UNIFORM_BITS[scheme]
    return (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
