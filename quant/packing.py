"""Codes in bytes: two 4-bit codes in one, four 6-bit codes in three, the first code in the lowest bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vit.errors import InputError, require_choice


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` codes take."""
    if bits == 4:
        return (count + 1) // 2
    return (count + 3) // 4 * 3 if bits == 6 else count


def pack_codes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes (any shape, each below 2^bits) as bytes; unused bits at the end are 0.

    >>> pack_codes(np.array([1, 2, 3], np.uint8), 4).tolist()
    [33, 3]

    Raises:
        InputError: bits is not 4, 6 or 8, or a code needs more.
    """
    require_choice("bits", str(bits), ("4", "6", "8"))
    flat = np.ascontiguousarray(codes, np.uint8).reshape(-1)
    if flat.size and int(flat.max()) >= 1 << bits:
        raise InputError("codes", int(flat.max()), f"0 to {(1 << bits) - 1} in {bits} bits")
    if bits == 8:
        return flat.copy()
    group = 2 if bits == 4 else 4
    grouped = np.concatenate([flat, np.zeros(-flat.size % group, np.uint8)]).reshape(-1, group)
    if bits == 4:
        packed: NDArray[np.uint8] = grouped[:, 0] | grouped[:, 1] << np.uint8(4)
        return packed
    a, b, c, d = grouped.T
    return np.stack([a | (b & 3) << 6, b >> 2 | (c & 15) << 4, c >> 4 | d << 2], axis=1).reshape(-1)


def unpack_codes(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """The `count` codes that `pack_codes` put into bytes, flat.

    Raises:
        InputError: the bytes are too few or too many, or the unused bits are not 0.
    """
    if packed.size != packed_size(count, bits):
        raise InputError("codes", packed.size, f"{packed_size(count, bits)} bytes for {count} codes of {bits} bits")
    if bits == 8:
        return packed.copy()
    if bits == 4:
        codes = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)
    else:
        a, b, c = packed.reshape(-1, 3).T
        codes = np.stack([a & 63, a >> 6 | (b & 15) << 2, b >> 4 | (c & 3) << 4, c >> 2], axis=1).reshape(-1)
    if codes[count:].any():
        raise InputError("codes", int(codes[count:].max()), "0 in the bits after the last code")
    return codes[:count]
