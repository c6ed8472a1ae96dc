"""Attention on fake-quantised queries, keys, values and probabilities for training on a CPU. A head's scores live in a
scratch array that stays in cache; they are never stored: the backward pass computes them again.

Arrays are (images, heads, tokens, width), of any strides. Scales and whole-number ranges as in kernels.fake_quant.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kernels.fake_quant import UNIFORM, nearest
from kernels.nonlinear import exp_negative
from kernels.pot import BELOW_HALF

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


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_SUMS)
def _product(a: F32, b: F32, out: F32) -> None:
    """out (m, n) = a (m, k) @ b (k, n): two rows and four terms at a time, so that loads are shared."""
    m, k = a.shape
    n = b.shape[1]
    out[:] = 0
    for i in range(0, m - 1, 2):
        c = 0
        while c + 4 <= k:
            a0, a1, a2, a3 = a[i, c], a[i, c + 1], a[i, c + 2], a[i, c + 3]
            d0, d1, d2, d3 = a[i + 1, c], a[i + 1, c + 1], a[i + 1, c + 2], a[i + 1, c + 3]
            for j in range(n):
                b0, b1, b2, b3 = b[c, j], b[c + 1, j], b[c + 2, j], b[c + 3, j]
                out[i, j] += a0 * b0 + a1 * b1 + a2 * b2 + a3 * b3
                out[i + 1, j] += d0 * b0 + d1 * b1 + d2 * b2 + d3 * b3
            c += 4
        while c < k:
            for j in range(n):
                out[i, j] += a[i, c] * b[c, j]
                out[i + 1, j] += a[i + 1, c] * b[c, j]
            c += 1
    if m % 2:
        for c in range(k):
            for j in range(n):
                out[m - 1, j] += a[m - 1, c] * b[c, j]


@njit(cache=True, nogil=True)
def _transpose(x: F32, out: F32) -> None:
    rows, columns = x.shape
    for i in range(rows):
        for j in range(columns):
            out[j, i] = x[i, j]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_SUMS)
def _softmax(scores: F32, factor: np.float32, top: np.float32, stepped: F32) -> None:
    """scores = softmax of factor * scores over each row, stepped = its nearest whole multiples of 1 / top."""
    rows, n = scores.shape
    for i in range(rows):
        largest = scores[i, 0]
        for j in range(1, n):
            largest = max(largest, scores[i, j])
        for j in range(n):
            scores[i, j] = exp_negative((scores[i, j] - largest) * factor)
        total = np.float32(0)
        for j in range(n):
            total += scores[i, j]
        inverse = np.float32(1) / total
        for j in range(n):
            p = scores[i, j] * inverse
            scores[i, j] = p
            stepped[i, j] = np.trunc(p * top + BELOW_HALF) / top


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_SUMS)
def _softmax_gradient(p: F32, factor: np.float32, grad: F32) -> None:
    """grad = factor * p * (grad - sum over the row of grad * p), in place: the gradient by the products."""
    rows, n = p.shape
    for i in range(rows):
        total = np.float32(0)
        for j in range(n):
            total += grad[i, j] * p[i, j]
        for j in range(n):
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
    table = np.empty(0, np.float32)
    heads_rounded = np.empty((3, tokens, width), np.float32)
    query, key, value = heads_rounded[0], heads_rounded[1], heads_rounded[2]
    turned = np.empty((width, tokens), np.float32)
    scores, stepped = np.empty((tokens, tokens), np.float32), np.empty((tokens, tokens), np.float32)
    context = np.empty((tokens, width), np.float32)
    factor = np.float32(1.0 / np.sqrt(width))
    for image in range(images):
        for head in range(heads):
            _round_head(q[image, head], scales[0], low, high, table, query)
            _round_head(k[image, head], scales[1], low, high, table, key)
            _round_head(v[image, head], scales[2], low, high, table, value)
            _transpose(key, turned)
            _product(query, turned, scores)
            _softmax(scores, factor, top, stepped)
            _product(stepped, value, context)
            out[image, head] = context


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
    table = np.empty(0, np.float32)
    heads_rounded = np.empty((3, tokens, width), np.float32)
    query, key, value = heads_rounded[0], heads_rounded[1], heads_rounded[2]
    given, result = np.empty((tokens, width), np.float32), np.empty((tokens, width), np.float32)
    turned = np.empty((width, tokens), np.float32)
    scores, stepped = np.empty((tokens, tokens), np.float32), np.empty((tokens, tokens), np.float32)
    by_score, flipped = np.empty((tokens, tokens), np.float32), np.empty((tokens, tokens), np.float32)
    factor = np.float32(1.0 / np.sqrt(width))
    to_scales[:] = 0
    for image in range(images):
        for head in range(heads):
            _round_head(q[image, head], scales[0], low, high, table, query)
            _round_head(k[image, head], scales[1], low, high, table, key)
            _round_head(v[image, head], scales[2], low, high, table, value)
            given[:] = grad[image, head]
            _transpose(key, turned)
            _product(query, turned, scores)
            _softmax(scores, factor, top, stepped)
            _transpose(stepped, flipped)
            _product(flipped, given, result)
            to_scales[2] += _through_rounding(v[image, head], result, scales[2], low, high, table, by_v[image, head])
            _transpose(value, turned)
            _product(given, turned, by_score)
            _softmax_gradient(scores, factor, by_score)
            _product(by_score, key, result)
            to_scales[0] += _through_rounding(q[image, head], result, scales[0], low, high, table, by_q[image, head])
            _transpose(by_score, flipped)
            _product(flipped, query, result)
            to_scales[1] += _through_rounding(k[image, head], result, scales[1], low, high, table, by_k[image, head])
