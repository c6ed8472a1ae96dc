"""Gradients of the LayerNorm and the GELU that kernels.nonlinear defines, in one pass each, for training on a CPU."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import kept
from kernels.nonlinear import ROOT_HALF, erf, exp_negative

F32 = NDArray[np.float32]

_FAST = {"reassoc", "nsz", "contract"}  # sums in any order, with fused multiply-add
_HALF, _ONE = np.float32(0.5), np.float32(1)
_DENSITY = np.float32(0.3989422804014327)  # 1 / sqrt(2 pi)


@kept(error_model="numpy", fastmath=_FAST)
def gelu_backward(x: F32, grad: F32, out: F32) -> None:
    """out = grad * (Phi(x) + x phi(x)), over flat arrays: Phi and phi the normal distribution and its density."""
    for i in range(x.size):
        value = x[i]
        below = _HALF * (_ONE + erf(value * ROOT_HALF))
        out[i] = grad[i] * (below + value * _DENSITY * exp_negative(-_HALF * value * value))


@kept(error_model="numpy", fastmath=_FAST)
def layer_norm_backward(
    x: F32, grad: F32, weight: F32, eps: np.float32, out: F32, to_weight: F32, to_bias: F32
) -> None:
    """out = the gradient by x (rows, dim), to_weight and to_bias (dim,) = those by the parameters.

    With y the normalised row and g = grad * weight: (g - mean(g) - y mean(g y)) / deviation.
    """
    rows, dim = x.shape
    share = np.float32(1) / np.float32(dim)
    normal, given = np.empty(dim, np.float32), np.empty(dim, np.float32)
    to_weight[:] = 0
    to_bias[:] = 0
    for i in range(rows):
        values, from_above, found = x[i], grad[i], out[i]
        mean = np.float32(0)
        for j in range(dim):
            mean += values[j]
        mean *= share
        square = np.float32(0)
        for j in range(dim):
            deviation = values[j] - mean
            normal[j] = deviation
            square += deviation * deviation
        inverse = _ONE / np.sqrt(square * share + eps)
        sum_given, sum_product = np.float32(0), np.float32(0)
        for j in range(dim):
            normal[j] *= inverse
            given[j] = from_above[j] * weight[j]
            sum_given += given[j]
            sum_product += given[j] * normal[j]
            to_weight[j] += from_above[j] * normal[j]
            to_bias[j] += from_above[j]
        sum_given *= share
        sum_product *= share
        for j in range(dim):
            found[j] = inverse * (given[j] - sum_given - normal[j] * sum_product)
