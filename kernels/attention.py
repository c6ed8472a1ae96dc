"""Softmax attention of the packed engine on whole numbers: all tokens of an image to all its tokens, head by head.

Queries, keys and values are rounded to whole numbers, their products summed exactly in int32; the softmax is that of
kernels.nonlinear; probabilities are rounded to whole numbers again, or to powers of two. The paths are those of
kernels.gemm, here with 16-bit products only, which are exact for every 8-bit code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import x86
from kernels.compiled import kept
from kernels.nonlinear import exp_negative, wide_sum
from kernels.pot import nearest_power, round_clip

F32 = NDArray[np.float32]


def attention(
    qkv: F32, heads: int, width: int, scales: F32, low: int, high: int, top: int, path: str, log2: bool = False
) -> NDArray[np.float32]:
    """Context (images, tokens, heads * width) of queries, keys and values (images, tokens, 3 * heads * width).

    Args:
        scales: what one whole number counts in queries, keys and values.
        low, high: their range, within int8.
        top: the whole number that stands for probability 1.
        path: one of kernels.gemm.PATHS.
        log2: round probabilities to 0 and the powers of two up to `top`, itself one below 2^15.
    """
    wide = scales.astype(np.float64)
    score_scale = np.float32(wide[0] * wide[1] * width**-0.5)
    out = np.empty((*qkv.shape[:2], heads * width), np.float32)
    kernel: Any = _portable if path == "portable" else _tiled
    kernel(qkv, heads, width, scales, low, high, top, log2, score_scale, scales[2] / np.float32(top), out)
    return out


@kept(error_model="numpy")
def _codes(qkv, scales, low, high, codes):  # type: ignore[no-untyped-def]
    """codes (3, tokens, heads * width) = the whole numbers of one image's queries, keys and values."""
    lowest, highest = np.float32(low), np.float32(high)
    _, tokens, inside = codes.shape
    for part in range(3):
        for i in range(tokens):
            for c in range(inside):
                value = qkv[i, part * inside + c] / scales[part]
                codes[part, i, c] = np.int32(round_clip(value, lowest, highest))


@kept(error_model="numpy")
def _probabilities(products, factor, top, log2, powers, out):  # type: ignore[no-untyped-def]
    """out = the whole numbers of the softmax of one row of products, float32(products) * factor."""
    highest = np.float32(top)
    count = powers.size
    for j in range(count):
        powers[j] = np.float32(products[j]) * factor
    largest = powers[0]
    for j in range(count):
        largest = max(largest, powers[j])
    for j in range(count):
        powers[j] = exp_negative(powers[j] - largest)
    inverse = np.float32(1.0 / wide_sum(powers))
    if log2:
        for j in range(count):
            out[j] = np.int32(nearest_power(powers[j] * inverse * highest, highest))
    else:
        for j in range(count):
            out[j] = np.int32(round_clip(powers[j] * inverse * highest, np.float32(0), highest))


@kept()
def _portable(qkv, heads, width, scales, low, high, top, log2, score_scale, context_scale, out):  # type: ignore[no-untyped-def]
    images, tokens, _ = qkv.shape
    codes = np.empty((3, tokens, heads * width), np.int16)
    products, probabilities = np.empty(tokens, np.int32), np.empty(tokens, np.int16)
    powers, sums = np.empty(tokens, np.float32), np.empty(width, np.int32)
    for image in range(images):
        _codes(qkv[image], scales, low, high, codes)
        for head in range(heads):
            at = slice(head * width, (head + 1) * width)
            for i in range(tokens):
                query = codes[0, i, at]
                for j in range(tokens):
                    key, product = codes[1, j, at], np.int32(0)
                    for c in range(width):
                        product += np.int32(query[c]) * np.int32(key[c])
                    products[j] = product
                _probabilities(products, score_scale, top, log2, powers, probabilities)
                sums[:] = 0
                for j in range(tokens):
                    value, probability = codes[2, j, at], np.int32(probabilities[j])
                    for c in range(width):
                        sums[c] += probability * np.int32(value[c])
                for c in range(width):
                    out[image, i, head * width + c] = np.float32(sums[c]) * context_scale


@kept()
def _product(a, tiles, out):  # type: ignore[no-untyped-def]
    """out (rows, columns) = a (rows, inner) times tiles (columns / 16, inner / 2, 16, 2), all padded."""
    stride, width, steps = a.shape[1] * 2, out.shape[1] * 4, a.shape[1] // 2
    for column in range(len(tiles)):
        weights = tiles[column].ctypes.data
        at, to = a.ctypes.data, out.ctypes.data + column * 64
        for _ in range(len(a) // 4):
            x86.words_tile(at, stride, weights, weights, steps, to, width)
            at, to = at + 4 * stride, to + 4 * width
        for _ in range(len(a) % 4):
            x86.words_row(at, stride, weights, weights, steps, to, width)
            at, to = at + stride, to + width


@kept()
def _tiled(qkv, heads, width, scales, low, high, top, log2, score_scale, context_scale, out):  # type: ignore[no-untyped-def]
    images, tokens, _ = qkv.shape
    codes = np.empty((3, tokens, heads * width), np.int16)
    token_pairs, width_pairs = (tokens + 1) // 2, (width + 1) // 2
    token_tiles, width_tiles = (tokens + 15) // 16, (width + 15) // 16
    queries = np.zeros((tokens, 2 * width_pairs), np.int16)
    keys = np.zeros((token_tiles, width_pairs, 16, 2), np.int16)
    values = np.zeros((width_tiles, token_pairs, 16, 2), np.int16)
    products = np.empty((tokens, token_tiles * 16), np.int32)
    probabilities = np.zeros((tokens, 2 * token_pairs), np.int16)
    powers, sums = np.empty(tokens, np.float32), np.empty((tokens, width_tiles * 16), np.int32)
    for image in range(images):
        _codes(qkv[image], scales, low, high, codes)
        for head in range(heads):
            at = head * width
            for j in range(tokens):
                tile, column, pair, half = j // 16, j % 16, j // 2, j % 2
                for c in range(width):
                    queries[j, c] = codes[0, j, at + c]
                for c in range(width // 2):
                    keys[tile, c, column, 0] = codes[1, j, at + 2 * c]
                    keys[tile, c, column, 1] = codes[1, j, at + 2 * c + 1]
                if width % 2:
                    keys[tile, width // 2, column, 0] = codes[1, j, at + width - 1]
                for first in range(0, width, 16):
                    for c in range(min(16, width - first)):
                        values[first // 16, pair, c, half] = codes[2, j, at + first + c]
            _product(queries, keys, products)
            for i in range(tokens):
                _probabilities(products[i], score_scale, top, log2, powers, probabilities[i])
            _product(probabilities, values, sums)
            for i in range(tokens):
                for c in range(width):
                    out[image, i, at + c] = np.float32(sums[i, c]) * context_scale
