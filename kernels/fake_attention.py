"""Attention on fake-quantised queries, keys, values and probabilities for training on a CPU. A head's scores live in a
scratch array that stays in cache; they are never stored: the backward pass computes them again.

Arrays are (images, heads, tokens, width), of any strides; scratch arrays are padded to whole vectors. Scales and ranges
of whole numbers are those of kernels.fake_quant.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kernels.fake_quant import UNIFORM, nearest
from kernels.nonlinear import exp_negative
from kernels.pot import BELOW_HALF
from kernels.small_product import product

F32 = NDArray[np.float32]

_SUMS = {"reassoc", "nsz", "contract"}  # sums in any order, with fused multiply-add


@njit(cache=True, nogil=True, error_model="numpy")
def _round_head(x: F32, scale: np.float32, low: np.float32, high: np.float32, table: F32, out: F32) -> None:
    """out = the rounded x (tokens, width), contiguous."""
    tokens, width = x.shape
    for i in range(tokens):
        for c in range(width):
            out[i, c] = x[i, c]
        for c in range(width):
            out[i, c] = nearest(out[i, c] / scale, UNIFORM, low, high, table) * scale


@njit(cache=True, nogil=True)
def _transpose(x: F32, rows: int, columns: int, out: F32) -> None:
    for i in range(rows):
        for j in range(columns):
            out[j, i] = x[i, j]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_SUMS)
def _softmax(scores: F32, factor: np.float32, top: np.float32, stepped: F32) -> None:
    """scores = softmax of factor * scores over each row, stepped = its nearest whole multiples of 1 / top."""
    count = len(scores)
    for i in range(count):
        largest = scores[i, 0]
        for j in range(1, count):
            largest = max(largest, scores[i, j])
        for j in range(count):
            scores[i, j] = exp_negative((scores[i, j] - largest) * factor)
        total = np.float32(0)
        for j in range(count):
            total += scores[i, j]
        inverse = np.float32(1) / total
        for j in range(count):
            p = scores[i, j] * inverse
            scores[i, j] = p
            stepped[i, j] = np.trunc(p * top + BELOW_HALF) / top


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_SUMS)
def _softmax_gradient(p: F32, factor: np.float32, grad: F32) -> None:
    """grad = factor * p * (grad - sum over the row of grad * p), in place: the gradient by the products."""
    count = len(p)
    for i in range(count):
        total = np.float32(0)
        for j in range(count):
            total += grad[i, j] * p[i, j]
        for j in range(count):
            grad[i, j] = factor * p[i, j] * (grad[i, j] - total)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_SUMS)
def _through_rounding(
    x: F32, grad: F32, scale: np.float32, low: np.float32, high: np.float32, table: F32, out: F32
) -> np.float32:
    """out = the gradient by x from `grad` by the rounded x; the sum of grad * dx^/ds."""
    tokens, width = x.shape
    total = np.float32(0)
    row = np.empty(width, np.float32)
    for i in range(tokens):
        for c in range(width):
            row[c] = x[i, c] / scale
        for c in range(width):
            level = nearest(row[c], UNIFORM, low, high, table)
            inside = low <= row[c] <= high
            given = grad[i, c]
            total += given * (level - row[c] if inside else level)
            grad[i, c] = given if inside else np.float32(0)
        for c in range(width):
            out[i, c] = grad[i, c]
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def forward(q: F32, k: F32, v: F32, scales: F32, low: np.float32, high: np.float32, top: np.float32, out: F32) -> None:
    """out = the context. scales: of queries, keys and values; top: the whole number that stands for probability 1."""
    images, heads, tokens, width = q.shape
    padded_tokens, padded_width = (tokens + 7) // 8 * 8, (width + 7) // 8 * 8
    table = np.empty(0, np.float32)
    rounded, context = np.zeros((3, tokens, padded_width), np.float32), np.empty((tokens, padded_width), np.float32)
    query, key, value = rounded[0], rounded[1], rounded[2]
    turned = np.zeros((width, padded_tokens), np.float32)
    scores, stepped = np.zeros((tokens, padded_tokens), np.float32), np.zeros((tokens, padded_tokens), np.float32)
    factor = np.float32(1.0 / np.sqrt(width))
    for image in range(images):
        for head in range(heads):
            _round_head(q[image, head], scales[0], low, high, table, query)
            _round_head(k[image, head], scales[1], low, high, table, key)
            _round_head(v[image, head], scales[2], low, high, table, value)
            _transpose(key, tokens, width, turned)
            product(query, width, turned, scores)
            _softmax(scores, factor, top, stepped)
            product(stepped, tokens, value, context)
            for i in range(tokens):
                for c in range(width):
                    out[image, head, i, c] = context[i, c]


@njit(cache=True, nogil=True, error_model="numpy")
def backward(
    q: F32,
    k: F32,
    v: F32,
    grad: F32,
    scales: F32,
    low: np.float32,
    high: np.float32,
    top: np.float32,
    by_q: F32,
    by_k: F32,
    by_v: F32,
    to_scales: F32,
) -> None:
    """The gradients by q, k and v, and to_scales (3,), the sums of gradient times dx^/ds. A probability's rounding is
    passed straight through."""
    images, heads, tokens, width = q.shape
    padded_tokens, padded_width = (tokens + 7) // 8 * 8, (width + 7) // 8 * 8
    table = np.empty(0, np.float32)
    rounded, result = np.zeros((4, tokens, padded_width), np.float32), np.empty((tokens, padded_width), np.float32)
    query, key, value, given = rounded[0], rounded[1], rounded[2], rounded[3]
    turned = np.zeros((width, padded_tokens), np.float32)
    squares = np.zeros((4, tokens, padded_tokens), np.float32)
    scores, stepped, by_score, flipped = squares[0], squares[1], squares[2], squares[3]
    factor = np.float32(1.0 / np.sqrt(width))
    to_scales[:] = 0
    for image in range(images):
        for head in range(heads):
            _round_head(q[image, head], scales[0], low, high, table, query)
            _round_head(k[image, head], scales[1], low, high, table, key)
            _round_head(v[image, head], scales[2], low, high, table, value)
            for i in range(tokens):
                for c in range(width):
                    given[i, c] = grad[image, head, i, c]
            _transpose(key, tokens, width, turned)
            product(query, width, turned, scores)
            _softmax(scores, factor, top, stepped)
            _transpose(stepped, tokens, tokens, flipped)
            product(flipped, tokens, given, result)
            to_scales[2] += _through_rounding(v[image, head], result, scales[2], low, high, table, by_v[image, head])
            _transpose(value, tokens, width, turned)
            product(given, width, turned, by_score)
            _softmax_gradient(scores, factor, by_score)
            product(by_score, tokens, key, result)
            to_scales[0] += _through_rounding(q[image, head], result, scales[0], low, high, table, by_q[image, head])
            _transpose(by_score, tokens, tokens, flipped)
            product(flipped, tokens, query, result)
            to_scales[1] += _through_rounding(k[image, head], result, scales[1], low, high, table, by_k[image, head])
