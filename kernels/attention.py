"""Softmax attention of the packed engine on whole numbers: all tokens of an image to all its tokens, head by head.

Queries, keys and values are rounded to whole numbers, their products summed exactly in int32; the softmax is that of
kernels.nonlinear; probabilities are rounded to whole numbers again, or to powers of two. The products are those of
kernels.tiles with 16-bit values only, which are exact for every 8-bit code.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import kept
from kernels.cpu import AVX2, PATHS, PORTABLE
from kernels.nonlinear import exp_negative, wide_sum
from kernels.pot import nearest_power, round_clip
from kernels.tiles import COLUMNS, WORDS, product

F32 = NDArray[np.float32]


class Attention(NamedTuple):
    """What a block's attention rounds to, as `attention_of` gives it.

    Attributes:
        path: AVX2 or PORTABLE.
        heads, width: number of heads, values of each.
        scales: what one whole number counts in queries, keys and values, float32 (3,).
        low, high: their range.
        top: the whole number that stands for probability 1.
        log2: whether probabilities are rounded to 0 and the powers of two up to `top`.
        score_scale, context_scale: what one counts in the products of queries and keys, and in the context.
    """

    path: int
    heads: int
    width: int
    scales: F32
    low: int
    high: int
    top: int
    log2: bool
    score_scale: np.float32
    context_scale: np.float32


def attention_of(
    heads: int, width: int, scales: F32, low: int, high: int, top: int, path: str, log2: bool = False
) -> Attention:
    """Attention of `heads` heads.

    Args:
        scales: what one whole number counts in queries, keys and values.
        low, high: their range, within int8.
        top: the whole number that stands for probability 1.
        path: one of kernels.cpu.PATHS.
        log2: round probabilities to 0 and the powers of two up to `top`, itself one below 2^15.
    """
    taken = PORTABLE if path == PATHS[PORTABLE] else AVX2
    return Attention(taken, heads, width, scales, low, high, top, log2, *units(scales, width, top))


def units(scales: F32, width: int, top: int) -> tuple[np.float32, np.float32]:
    """What one counts in the products of queries and keys, and in the context, in training as in the engine."""
    wide = scales.astype(np.float64)
    return np.float32(wide[0] * wide[1] * width**-0.5), np.float32(scales[2] / np.float32(top))


class Room(NamedTuple):
    """Arrays that `attention` works in. All are zero at first, and stay so where the tiles are padded."""

    codes: NDArray[np.int16]
    key_tiles: NDArray[np.int16]
    value_tiles: NDArray[np.int16]
    products: NDArray[np.int32]
    probabilities: NDArray[np.int16]
    powers: F32
    sums: NDArray[np.int32]


def room(tokens: int, heads: int, width: int) -> Room:
    """For images of so many tokens and up to so many heads of that width."""
    pairs, token_tiles, width_tiles = -(-tokens // 2), -(-tokens // COLUMNS), -(-width // COLUMNS)
    return Room(
        np.zeros(3 * tokens * heads * width + 1, np.int16),  # one more, for the last query may be read beyond its end
        np.zeros((token_tiles, -(-width // 2), COLUMNS, 2), np.int16),
        np.zeros((width_tiles, pairs, COLUMNS, 2), np.int16),
        np.zeros((tokens, token_tiles * COLUMNS), np.int32),
        np.zeros((tokens, 2 * pairs), np.int16),
        np.zeros(tokens, np.float32),
        np.zeros((tokens, width_tiles * COLUMNS), np.int32),
    )


def attention(qkv: F32, how: Attention, out: F32 | None = None, within: Room | None = None) -> F32:
    """Context (images, tokens, heads * width) of queries, keys and values (images, tokens, 3 * heads * width).

    Args:
        out, within: what to write to and to work in, if they are there; fresh memory costs as much as some of the work.
    """
    out = np.empty((*qkv.shape[:2], how.heads * how.width), np.float32) if out is None else out
    within = within or room(qkv.shape[1], how.heads, how.width)
    _attention(qkv, tuple(how), tuple(within), out)  # numba takes half as long to tell the type of plain tuples
    return out


@kept(error_model="numpy", _nrt=False)
def _attention(qkv, how, room, out):  # type: ignore[no-untyped-def]
    path, heads, width, scales, low, high, top, log2, score_scale, context_scale = how
    held, key_tiles, value_tiles, products, probabilities, powers, sums = room
    images, tokens, _ = qkv.shape
    row, steps, pairs, highest = heads * width, key_tiles.shape[1], value_tiles.shape[1], np.float32(top)
    codes = held[: 3 * tokens * row].reshape(3, tokens, row)
    query, key, value, probability = (
        held.ctypes.data,
        key_tiles.ctypes.data,
        value_tiles.ctypes.data,
        probabilities.ctypes.data,
    )
    for image in range(images):
        _to_codes(qkv[image], scales, low, high, codes)
        for head in range(heads):
            at = head * width
            _tile_keys(codes[1], at, width, key_tiles)
            _tile_values(codes[2], at, width, value_tiles)
            product(path, WORDS, query + 2 * at, 2 * row, steps, key, 0, 0, products)
            for i in range(tokens):
                _probabilities(products[i], score_scale, highest, log2, powers, probabilities[i])
            product(path, WORDS, probability, 4 * pairs, pairs, value, 0, 0, sums)
            for i in range(tokens):
                for c in range(width):
                    out[image, i, at + c] = np.float32(sums[i, c]) * context_scale


@kept(error_model="numpy", _nrt=False)
def _to_codes(qkv, scales, low, high, codes):  # type: ignore[no-untyped-def]
    """codes (3, tokens, heads * width) = the whole numbers of one image's queries, keys and values."""
    lowest, highest = np.float32(low), np.float32(high)
    _, tokens, row = codes.shape
    for part in range(3):
        scale = scales[part]
        for i in range(tokens):
            for c in range(row):
                codes[part, i, c] = np.int32(round_clip(qkv[i, part * row + c] / scale, lowest, highest))


@kept(_nrt=False)
def _tile_keys(keys, at, width, tiles):  # type: ignore[no-untyped-def]
    """The keys of the head at a column as weights of which each token is a column."""
    for j in range(len(keys)):
        tile, column = j // COLUMNS, j % COLUMNS
        for step in range(width // 2):
            tiles[tile, step, column, 0] = keys[j, at + 2 * step]
            tiles[tile, step, column, 1] = keys[j, at + 2 * step + 1]
        if width % 2:
            tiles[tile, width // 2, column, 0] = keys[j, at + width - 1]


@kept(_nrt=False)
def _tile_values(values, at, width, tiles):  # type: ignore[no-untyped-def]
    """The values of the head at a column as weights of which each token is a row."""
    tokens = len(values)
    for tile in range(len(tiles)):
        first = tile * COLUMNS
        columns = min(COLUMNS, width - first)
        for step in range(tokens // 2):
            for c in range(columns):
                tiles[tile, step, c, 0] = values[2 * step, at + first + c]
                tiles[tile, step, c, 1] = values[2 * step + 1, at + first + c]
        if tokens % 2:
            for c in range(columns):
                tiles[tile, tokens // 2, c, 0] = values[tokens - 1, at + first + c]


@kept(error_model="numpy", _nrt=False)
def _probabilities(products, factor, highest, log2, powers, out):  # type: ignore[no-untyped-def]
    """out = the whole numbers of the softmax of one row of products, float32(products) * factor."""
    count = powers.size
    largest = products[0]
    for j in range(count):
        largest = max(largest, products[j])
    top = np.float32(largest) * factor  # the largest there is, for neither rounding changes an order
    for j in range(count):
        powers[j] = exp_negative(np.float32(products[j]) * factor - top)
    inverse = np.float32(1.0 / wide_sum(powers))
    if log2:
        for j in range(count):
            out[j] = np.int32(nearest_power(powers[j] * inverse * highest, highest))
    else:
        for j in range(count):
            out[j] = np.int32(round_clip(powers[j] * inverse * highest, np.float32(0), highest))
