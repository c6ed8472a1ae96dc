"""Attention on fake-quantised queries, keys, values and probabilities for training on a CPU. A head's scores live in a
scratch array that stays in cache; they are never stored: the backward pass computes them again.

Queries, keys and values are those that a projection gives: (images, tokens, 3 * heads * width). All products are of
whole numbers, and the probabilities those of kernels.attention: the context has the bits of the packed engine's.
Scratch arrays are one block a head, padded to whole vectors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import kept
from kernels.fake_quant import through
from kernels.nonlinear import exp_negative, wide_sum
from kernels.pot import BELOW_HALF, nearest_power, round_clip
from kernels.small_product import product

F32 = NDArray[np.float32]

_SUMS = {"reassoc", "nsz", "contract"}  # sums in any order, with fused multiply-add


@kept(error_model="numpy")
def _levels(qkv: F32, heads: int, scales: F32, low: np.float32, high: np.float32, out: F32) -> None:
    """out (3, heads, tokens, >= width) = the whole numbers of one image's queries, keys and values."""
    tokens, width = len(qkv), qkv.shape[1] // (3 * heads)
    for i in range(tokens):
        for part in range(3):
            for head in range(heads):
                values, found = qkv[i, (part * heads + head) * width :], out[part, head, i]
                for c in range(width):
                    found[c] = round_clip(values[c] / scales[part], low, high)


@kept()
def _transpose(x: F32, columns: int, out: F32) -> None:
    for i in range(len(x)):
        for j in range(columns):
            out[j, i] = x[i, j]


@kept(error_model="numpy", fastmath={"nnan", "nsz", "reassoc"})
def _largest(x: F32) -> np.float32:
    found = np.float32(x[0])
    for i in range(1, x.size):
        found = max(found, x[i])
    return np.float32(found)


@kept(error_model="numpy")
def _softmax(scores: F32, unit: np.float32) -> None:
    """scores (tokens, >= tokens) = the softmax of unit * scores over each row, zeros behind it: as in
    kernels.attention."""
    tokens, padded = scores.shape
    for i in range(tokens):
        row = scores[i]
        for j in range(padded):
            row[j] = row[j] * unit
        largest = _largest(row[:tokens])
        for j in range(padded):
            row[j] = exp_negative(row[j] - largest)
        row[tokens:] = 0
        inverse = np.float32(1.0 / wide_sum(row))
        for j in range(padded):
            row[j] = row[j] * inverse


@kept(error_model="numpy")
def _whole_probabilities(p: F32, top: np.float32, log2: bool, whole: F32) -> None:
    """whole = the probabilities p in units of 1 / top: nearest whole numbers, or nearest of zero and powers of two."""
    flat, out = p.reshape(-1), whole.reshape(-1)
    if log2:
        for j in range(flat.size):
            out[j] = nearest_power(flat[j] * top, top)
    else:
        for j in range(flat.size):
            out[j] = np.trunc(flat[j] * top + BELOW_HALF)


@kept(error_model="numpy", fastmath=_SUMS)
def _softmax_gradient(p: F32, factor: np.float32, grad: F32) -> None:
    """grad = factor * p * (grad - sum over the row of grad * p), in place."""
    for i in range(len(p)):
        row, given = p[i], grad[i]
        total = np.float32(0)
        for j in range(row.size):
            total += given[j] * row[j]
        for j in range(row.size):
            given[j] = factor * row[j] * (given[j] - total)


@kept(error_model="numpy")
def forward(
    qkv: F32,
    heads: int,
    scales: F32,
    low: np.float32,
    high: np.float32,
    top: np.float32,
    log2: bool,
    score_unit: np.float32,
    context_unit: np.float32,
    out: F32,
) -> None:
    """out (images, tokens, heads * width) = the context.

    Args:
        scales: what a whole number counts in queries, keys and values; `low` to `high` is its range.
        top: the whole number that stands for probability 1.
        log2: whether a probability is 0 or a power of two.
        score_unit, context_unit: what products of query and key levels, and of probability and value levels, count.
    """
    images, tokens, across = qkv.shape
    width = across // (3 * heads)
    padded_tokens, padded_width = (tokens + 7) // 8 * 8, (width + 7) // 8 * 8
    levels = np.zeros((3, heads, tokens, padded_width), np.float32)
    turned = np.zeros((width, padded_tokens), np.float32)
    scores, whole = np.empty((tokens, padded_tokens), np.float32), np.empty((tokens, padded_tokens), np.float32)
    context = np.empty((heads, tokens, padded_width), np.float32)
    for image in range(images):
        _levels(qkv[image], heads, scales, low, high, levels)
        for head in range(heads):
            _transpose(levels[1, head], width, turned)
            product(levels[0, head], width, turned, scores)
            _softmax(scores, score_unit)
            _whole_probabilities(scores, top, log2, whole)
            product(whole, tokens, levels[2, head], context[head])
        for i in range(tokens):
            for head in range(heads):
                values, found = context[head, i], out[image, i, head * width :]
                for c in range(width):
                    found[c] = values[c] * context_unit


@kept(error_model="numpy")
def backward(
    qkv: F32,
    grad: F32,
    heads: int,
    scales: F32,
    low: np.float32,
    high: np.float32,
    top: np.float32,
    log2: bool,
    score_unit: np.float32,
    by_qkv: F32,
    to_scales: F32,
) -> None:
    """by_qkv = the gradient by qkv from `grad`, that by the context; to_scales (3,) = the sums of gradient times
    dx^/ds. A probability's rounding is passed straight through. Other arguments as for `forward`."""
    images, tokens, across = qkv.shape
    width = across // (3 * heads)
    padded_tokens, padded_width = (tokens + 7) // 8 * 8, (width + 7) // 8 * 8
    levels = np.zeros((3, heads, tokens, padded_width), np.float32)
    found = np.empty((3, heads, tokens, padded_width), np.float32)
    given = np.zeros((heads, tokens, padded_width), np.float32)
    turned = np.zeros((width, padded_tokens), np.float32)
    squares = np.empty((3, tokens, padded_tokens), np.float32)
    p, whole, by_score = squares[0], squares[1], squares[2]
    factor = np.float32(scales[2] / np.sqrt(width))
    units = np.array([scales[1], scales[0], np.float32(1) / top], np.float32)
    sums = np.zeros((3, width), np.float32)
    for image in range(images):
        _levels(qkv[image], heads, scales, low, high, levels)
        for i in range(tokens):
            for head in range(heads):
                values, copied = grad[image, i, head * width :], given[head, i]
                for c in range(width):
                    copied[c] = values[c]
        for head in range(heads):
            _transpose(levels[1, head], width, turned)
            product(levels[0, head], width, turned, p)
            _softmax(p, score_unit)
            _whole_probabilities(p, top, log2, whole)
            product(whole[:, :tokens].T, tokens, given[head], found[2, head])
            _transpose(levels[2, head], width, turned)
            product(given[head], width, turned, by_score)
            _softmax_gradient(p, factor, by_score)
            product(by_score, tokens, levels[1, head], found[0, head])
            product(by_score[:, :tokens].T, tokens, levels[0, head], found[1, head])
        for i in range(tokens):
            for part in range(3):
                for head in range(heads):
                    at = (part * heads + head) * width
                    values, result = qkv[image, i, at : at + width], by_qkv[image, i, at : at + width]
                    by_level, shares = found[part, head, i], sums[part]
                    for c in range(width):
                        _, result[c], share = through(values[c], scales[part], low, high, by_level[c] * units[part])
                        shares[c] += share
    for part in range(3):
        to_scales[part] = sums[part].sum()
