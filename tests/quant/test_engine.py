"""Integer kernels against int64 NumPy, the worst case included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import integer
from tests.quant.reference import integer_matmul


def product(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    out = np.empty((a.shape[0], w.shape[1]), np.int32)
    integer.matmul(a.astype(np.int16), np.ascontiguousarray(w.astype(np.int8)), out)
    return out


@given(seed=st.integers(0, 2**32 - 1), m=st.integers(1, 9), k=st.integers(1, 70), n=st.integers(1, 40))
def test_accumulators_are_exact(seed: int, m: int, k: int, n: int) -> None:
    random = np.random.default_rng(seed)
    a, w = random.integers(-128, 256, (m, k)), random.integers(-128, 128, (k, n))
    assert np.array_equal(product(a, w), integer_matmul(a, w))


@pytest.mark.parametrize(("activation", "weight"), [(255, 64), (255, -64), (-128, -128), (255, -128)])
def test_the_worst_case_is_exact(activation: int, weight: int) -> None:
    a, w = np.full((3, 4096), activation), np.full((4096, 5), weight)
    assert np.array_equal(product(a, w), integer_matmul(a, w))


def test_linear_is_one_multiplication_and_one_addition_after_the_sum() -> None:
    random = np.random.default_rng(0)
    a, w = random.integers(-128, 128, (30, 96)), random.integers(-64, 65, (96, 50))
    scale, bias = random.normal(size=50).astype(np.float32), random.normal(size=50).astype(np.float32)
    out = np.empty((30, 50), np.float32)
    integer.linear(a.astype(np.int16), w.astype(np.int8), scale, bias, out)
    assert np.array_equal(out, integer_matmul(a, w).astype(np.float32) * scale + bias)


def test_attention_is_the_definition_step_by_step() -> None:
    images, tokens, heads, width = 2, 7, 3, 5
    random = np.random.default_rng(0)
    qkv = random.integers(-128, 128, (images, tokens, 3 * heads * width)).astype(np.int16)
    out = np.empty((images, tokens, heads * width), np.float32)
    integer.attention(qkv, heads, width, np.float32(1e-4), np.float32(0.01), 255, out)
    q, k, v = qkv.reshape(images, tokens, 3, heads, width).transpose(2, 0, 3, 1, 4).astype(np.int64)
    scores = (q @ k.transpose(0, 1, 3, 2)) * 1e-4
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    context = (np.rint(p * 255).astype(np.int64) @ v) * 0.01
    assert np.allclose(out, context.transpose(0, 2, 1, 3).reshape(out.shape), atol=1e-4 * np.abs(context).max())
