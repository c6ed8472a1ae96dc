"""The one written definition of LayerNorm, softmax and GELU in a quantised network: the evaluation of a prepared model
and the packed engine both follow it.

exp and erf are fixed sequences of IEEE float32 operations (no fused multiply-add: numba contracts nothing unless asked
to), so that they have one result everywhere; `quant.exact` writes the same sequences in torch. Sums run in float64 and
are rounded to float32 once at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import kept

F32 = NDArray[np.float32]

# exp: Cephes expf (Moshier 1989): x = n ln2 + r with ln2 in two parts, a polynomial of degree 5 in r; error < 2 ulp.
LOG2E = np.float32(1.44269504088896341)
LN2_HIGH = np.float32(0.693359375)
LN2_LOW = np.float32(-2.12194440e-4)
EXP_POLYNOMIAL = tuple(
    np.float32(c)
    for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)
EXP_LOWEST = np.float32(-87.0)  # below it exp is 0: a softmax term under 1e-37 of the largest

# erf: the rational x P(x^2) / Q(x^2) on [-4, 4] of XLA's and Eigen's float32 erf; absolute error < 5e-7.
ERF_LIMIT = np.float32(4.0)
ERF_ABOVE = tuple(
    np.float32(c)
    for c in (
        -2.72614225801306e-10,
        2.77068142495902e-08,
        -2.10102402082508e-06,
        -5.69250639462346e-05,
        -7.34990630326855e-04,
        -2.95459980854025e-03,
        -1.60960333262415e-02,
    )
)
ERF_BELOW = tuple(
    np.float32(c)
    for c in (
        -1.45660718464996e-05,
        -2.13374055278905e-04,
        -1.68282697438203e-03,
        -7.37332916720468e-03,
        -1.42647390514189e-02,
    )
)
ROOT_HALF = np.float32(0.70710678118654752)

_E0, _E1, _E2, _E3, _E4, _E5 = EXP_POLYNOMIAL
_A0, _A1, _A2, _A3, _A4, _A5, _A6 = ERF_ABOVE
_B0, _B1, _B2, _B3, _B4 = ERF_BELOW
_ONE, _HALF, _ZERO = np.float32(1.0), np.float32(0.5), np.float32(0.0)


@kept(error_model="numpy", inline="always")
def exp_negative(x: np.float32) -> np.float32:
    """exp(x) for x <= 0, float32."""
    bounded = max(x, EXP_LOWEST)
    n = np.floor(bounded * LOG2E + _HALF)
    r = bounded - n * LN2_HIGH
    r = r - n * LN2_LOW
    p = ((((_E0 * r + _E1) * r + _E2) * r + _E3) * r + _E4) * r + _E5
    p = p * (r * r) + r + _ONE
    power = np.int32((np.int32(n) + 127) << 23).view(np.float32)
    return p * power if x >= EXP_LOWEST else _ZERO


@kept(error_model="numpy", inline="always")
def erf(x: np.float32) -> np.float32:
    """erf(x), float32."""
    t = min(max(x, -ERF_LIMIT), ERF_LIMIT)
    s = t * t
    above = (((((_A0 * s + _A1) * s + _A2) * s + _A3) * s + _A4) * s + _A5) * s + _A6
    below = (((_B0 * s + _B1) * s + _B2) * s + _B3) * s + _B4
    return t * above / below


@kept(fastmath={"reassoc", "nsz"})
def wide_sum(x: NDArray[np.floating[Any]]) -> float:
    """The sum of x in float64, in whatever order suits the vector registers: rounded to float32 it is the same."""
    total = 0.0
    for i in range(x.size):
        total += x[i]
    return total


@kept(error_model="numpy")
def gelu(x: F32, out: F32) -> None:
    """out = x/2 (1 + erf(x / sqrt 2)), elementwise over flat arrays (Hendrycks and Gimpel 2016, exact form)."""
    for i in range(x.size):
        out[i] = (_HALF * x[i]) * (_ONE + erf(x[i] * ROOT_HALF))


@kept(error_model="numpy")
def layer_norm(x: F32, weight: F32, bias: F32, eps: float, out: F32) -> None:
    """out = (x - mean) / sqrt(variance + eps) * weight + bias over the rows of x (rows, dim), in float64 up to the end
    (Ba et al. 2016; the variance is the mean square deviation)."""
    rows, dim = x.shape
    squares = np.empty(dim, np.float64)
    for i in range(rows):
        mean = wide_sum(x[i]) / dim
        for j in range(dim):
            deviation = x[i, j] - mean
            squares[j] = deviation * deviation
        inverse = 1.0 / np.sqrt(wide_sum(squares) / dim + eps)
        for j in range(dim):
            out[i, j] = np.float32((x[i, j] - mean) * inverse * weight[j] + bias[j])


@kept(error_model="numpy")
def softmax(x: F32, out: F32) -> None:
    """Softmax over the rows of x (rows, n): exp(x - max) times the float32 reciprocal of their float64 sum."""
    rows, n = x.shape
    for i in range(rows):
        largest = x[i, 0]
        for j in range(1, n):
            largest = max(largest, x[i, j])
        for j in range(n):
            out[i, j] = exp_negative(x[i, j] - largest)
        inverse = np.float32(1.0 / wide_sum(out[i]))
        for j in range(n):
            out[i, j] = out[i, j] * inverse
