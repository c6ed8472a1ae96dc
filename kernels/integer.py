"""Integer linear algebra of the packed engine: activation codes, matrix products and attention on whole numbers.

Sums are int32 and exact: the caller keeps inner * max|a| * max|w| below 2^31.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kernels.nonlinear import exp_negative
from kernels.pot import BELOW_HALF

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I16 = NDArray[np.int16]
I8 = NDArray[np.int8]


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def round_clip(value: np.float32, low: np.float32, high: np.float32) -> np.float32:
    """The nearest whole number, ties away from zero, within [low, high]."""
    return min(max(np.trunc(value + np.copysign(BELOW_HALF, value)), low), high)


@njit(cache=True, nogil=True, error_model="numpy")
def activation_codes(x: F32, scale: np.float32, low: int, high: int, out: I16) -> None:
    """out = x / scale rounded to whole numbers in [low, high]; flat arrays."""
    lowest, highest = np.float32(low), np.float32(high)
    for i in range(x.size):
        out[i] = np.int16(round_clip(x[i] / scale, lowest, highest))


@njit(cache=True, nogil=True, error_model="numpy")
def matmul(a: I16, w: I8, out: I32) -> None:
    """out (m, n) = a (m, k) @ w (k, n) in int32."""
    rows, inner = a.shape
    cols = w.shape[1]
    for i in range(rows):
        for j in range(cols):
            out[i, j] = 0
        for k in range(inner):
            value = np.int32(a[i, k])
            if value != 0:
                for j in range(cols):
                    out[i, j] += value * np.int32(w[k, j])


@njit(cache=True, nogil=True, error_model="numpy")
def linear(a: I16, w: I8, scale: F32, bias: F32, out: F32) -> None:
    """out (m, n) = float32(a @ w) * scale + bias, one multiplication and one addition after the exact sum."""
    rows, inner = a.shape
    cols = w.shape[1]
    sums = np.empty(cols, np.int32)
    for i in range(rows):
        for j in range(cols):
            sums[j] = 0
        for k in range(inner):
            value = np.int32(a[i, k])
            if value != 0:
                for j in range(cols):
                    sums[j] += value * np.int32(w[k, j])
        for j in range(cols):
            out[i, j] = np.float32(sums[j]) * scale[j] + bias[j]


@njit(cache=True, nogil=True, error_model="numpy")
def attention(
    qkv: I16, heads: int, width: int, score_scale: np.float32, context_scale: np.float32, top: int, out: F32
) -> None:
    """Softmax attention on whole numbers, all tokens to all tokens, image by image.

    Args:
        qkv: codes of queries, keys and values, (images, tokens, 3 * heads * width).
        score_scale: what a product of query and key codes counts, 1 / sqrt(width) included.
        context_scale: what a product of probability and value codes counts.
        top: the whole number that stands for probability 1.
        out: context, (images, tokens, heads * width).
    """
    images, tokens, _ = qkv.shape
    inside = heads * width
    highest = np.float32(top)
    powers = np.empty(tokens, np.float32)
    sums = np.empty(width, np.int32)
    for image in range(images):
        for head in range(heads):
            at = head * width
            for i in range(tokens):
                query = qkv[image, i, at : at + width]
                largest = np.float32(-np.inf)
                for j in range(tokens):
                    key = qkv[image, j, inside + at : inside + at + width]
                    product = np.int32(0)
                    for c in range(width):
                        product += np.int32(query[c]) * np.int32(key[c])
                    powers[j] = np.float32(product) * score_scale
                    largest = max(largest, powers[j])
                total = 0.0
                for j in range(tokens):
                    powers[j] = exp_negative(powers[j] - largest)
                    total += powers[j]
                inverse = np.float32(1.0 / total)
                for c in range(width):
                    sums[c] = 0
                for j in range(tokens):
                    probability = np.int32(round_clip(powers[j] * inverse * highest, np.float32(0), highest))
                    if probability != 0:
                        value = qkv[image, j, 2 * inside + at : 2 * inside + at + width]
                        for c in range(width):
                            sums[c] += probability * np.int32(value[c])
                for c in range(width):
                    out[image, i, at + c] = np.float32(sums[c]) * context_scale
