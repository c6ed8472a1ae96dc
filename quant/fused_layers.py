"""The layers of a prepared model that trains on a CPU. Forward they compute the very bits of the evaluation: whole
numbers, one scale, one bias, and the LayerNorm, softmax and GELU of kernels.nonlinear. Backward they round again, which
is cheaper than keeping the rounded values: of all activations a layer keeps its input alone, as a float layer does.

Gradients are those of `quant.fake_quant`; what is stored rounded (biases, norms) passes them straight through.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kernels import fake_attention as attention
from kernels import fake_nonlinear as nonlinear
from kernels import gemm
from kernels.attention import units
from quant import exact
from quant.fused import Levels, gradients, gradients_and_levels, rounded, scale_gradient, whole

_ROWS = 1024  # rows of a linear layer that a kernel call works on
_local = threading.local()

Scales = tuple[Tensor, Tensor]
LevelPair = tuple[Levels, Levels]


class FakeQuantLinear(torch.autograd.Function):
    """A linear layer on rounded input and weight, with its bias as it is stored."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        x_log2: Tensor,
        weight_log2: Tensor,
        scales: Scales,
        levels: LevelPair,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, *scales)
        ctx.levels, ctx.has_bias = levels, bias is not None
        return _whole_linear(x, weight, bias, scales, levels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, x_scale, weight_scale = ctx.saved_tensors
        x_levels, weight_levels = ctx.levels
        rows = grad.reshape(-1, grad.shape[-1])
        by_x = rows @ rounded(weight, weight_scale, weight_levels)
        inputs = _scratch(by_x)
        x_sum = gradients_and_levels(x, by_x, x_scale, x_levels, inputs)
        by_weight = (rows.T @ inputs).mul_(x_scale)
        by_weight, weight_sums = gradients(weight, by_weight, weight_scale, weight_levels)
        return (
            by_x.view(x.shape),
            by_weight,
            rows.sum(0) if ctx.has_bias else None,
            scale_gradient(x_sum, x_scale, x.numel() / len(x), x_levels.high),
            scale_gradient(weight_sums, weight_scale, weight.numel() / weight_scale.numel(), weight_levels.high),
            None,
            None,
        )


class FakeQuantConv2d(torch.autograd.Function):
    """A convolution (one group, no dilation) on rounded input and weight, with its bias as it is stored."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        x_log2: Tensor,
        weight_log2: Tensor,
        scales: Scales,
        levels: LevelPair,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight, *scales)
        ctx.levels, ctx.has_bias, ctx.stride, ctx.padding = levels, bias is not None, stride, padding
        inputs, weights = whole(x, scales[0], levels[0]), whole(weight, scales[1], levels[1])
        if weights[0].numel() * levels[0].largest * levels[1].largest > 2**24:
            inputs, weights = inputs.double(), weights.double()
        sums = F.conv2d(inputs, weights, None, stride, padding).float() * (scales[0] * scales[1]).view(-1, 1, 1)
        return sums if bias is None else sums + stored(bias).view(-1, 1, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, x_scale, weight_scale = ctx.saved_tensors
        x_levels, weight_levels = ctx.levels
        by_x, by_weight, by_bias = torch.ops.aten.convolution_backward(
            grad,
            rounded(x, x_scale, x_levels),
            rounded(weight, weight_scale, weight_levels),
            [len(weight)],
            ctx.stride,
            ctx.padding,
            (1, 1),
            False,
            (0, 0),
            1,
            [True, True, ctx.has_bias],
        )
        by_x, x_sum = gradients(x, by_x, x_scale, x_levels)
        by_weight, weight_sums = gradients(weight, by_weight, weight_scale, weight_levels)
        return (
            by_x,
            by_weight,
            by_bias,
            scale_gradient(x_sum, x_scale, x.numel() / len(x), x_levels.high),
            scale_gradient(weight_sums, weight_scale, weight.numel() / weight_scale.numel(), weight_levels.high),
            *[None] * 4,
        )


class FloatLinear(torch.autograd.Function):
    """A linear layer that stays float between quantised ones: its sums are rounded once, as in the evaluation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        sums = exact.product(x, weight.T, None)
        return sums if bias is None else sums + stored(bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        return grad @ weight, rows.T @ x.reshape(-1, x.shape[-1]), rows.sum(0) if ctx.has_bias else None


class FakeQuantAttention(torch.autograd.Function):
    """Attention on rounded queries, keys, values and probabilities: the context (B, T, heads * width) of what a
    projection gives, (B, T, 3 * heads * width). The rounding of a probability is passed straight through."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        q_log2: Tensor,
        k_log2: Tensor,
        v_log2: Tensor,
        scales: tuple[Tensor, Tensor, Tensor],
        levels: tuple[Levels, Levels, Levels],
        heads: int,
        top: int,
        log2: bool,
    ) -> Tensor:
        qkv = qkv.contiguous()
        ctx.save_for_backward(qkv, *scales)
        ctx.heads, ctx.levels, ctx.probabilities = heads, levels[0], (np.float32(top), log2)
        out = torch.empty(*qkv.shape[:2], qkv.shape[2] // 3)
        source, target = qkv.detach().numpy(), out.numpy()
        used, score_unit, context_unit = _units(scales, qkv, heads, top)
        _, low, high, _ = levels[0].arguments

        def work(part: slice) -> None:
            attention.forward(
                source[part], heads, used, low, high, np.float32(top), log2, score_unit, context_unit, target[part]
            )

        exact.in_pieces(work, len(source), source[0].size)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, *scales = ctx.saved_tensors
        by_qkv = torch.empty_like(qkv)
        source, given, target = qkv.numpy(), grad.contiguous().numpy(), by_qkv.numpy()
        top, log2 = ctx.probabilities
        used, score_unit, _ = _units(scales, qkv, ctx.heads, top)
        _, low, high, _ = ctx.levels.arguments

        def work(part: slice) -> NDArray[np.float32]:
            sums = np.empty(3, np.float32)
            attention.backward(
                source[part], given[part], ctx.heads, used, low, high, top, log2, score_unit, target[part], sums
            )
            return sums

        sums: Any = np.sum(exact.in_pieces(work, len(source), source[0].size), axis=0, dtype=np.float64)
        values = grad.numel() / len(grad)
        by_scale = [
            scale_gradient(torch.tensor(sums[i], dtype=torch.float32), scale, values, ctx.levels.high)
            for i, scale in enumerate(scales)
        ]
        return by_qkv, *by_scale, *[None] * 5


class ExactLayerNorm(torch.autograd.Function):
    """LayerNorm over the last axis, with the weight and bias as they are stored."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return exact.layer_norm(x, stored(weight), stored(bias), eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        width, by_x = x.shape[-1], torch.empty(x.shape)
        rows, given, found = (t.contiguous().view(-1, width).numpy() for t in (x, grad, by_x))
        gain, eps = stored(weight).numpy(), np.float32(ctx.eps)

        def work(part: slice) -> NDArray[np.float32]:
            by_parameters = np.empty((2, width), np.float32)
            nonlinear.layer_norm_backward(
                rows[part], given[part], gain, eps, found[part], by_parameters[0], by_parameters[1]
            )
            return by_parameters

        sums: Any = np.sum(exact.in_pieces(work, len(rows), width), axis=0)
        return by_x, torch.from_numpy(sums[0]), torch.from_numpy(sums[1]), None


class ExactGELU(torch.autograd.Function):
    """GELU (erf form)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return exact.gelu(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        by_x = torch.empty(x.shape)
        values, given, found = (t.contiguous().view(-1).numpy() for t in (x, grad, by_x))
        exact.in_pieces(lambda part: nonlinear.gelu_backward(values[part], given[part], found[part]), len(values))
        return by_x


class StraightThrough(torch.autograd.Function):
    """A value and, in its place in the backward pass, the input of which it is the rounded form."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def stored(x: Tensor) -> Tensor:
    """x as float16 stores it: the precision of packed biases, norms and the class token."""
    return x.detach().half().float()


def _whole_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scales: Scales, levels: LevelPair) -> Tensor:
    """Whole numbers multiplied, their exact sums scaled once, the bias added: by the engine's kernels if these can."""
    x_levels, weight_levels = levels
    scale, shift = scales[0] * scales[1], torch.zeros(len(weight)) if bias is None else stored(bias)
    bound = weight.shape[1] * x_levels.largest * weight_levels.largest
    if weight_levels.largest > 128 or bound >= 2**31:
        sums = exact.product(whole(x, scales[0], x_levels), whole(weight, scales[1], weight_levels).T, float(bound))
        return sums * scale + shift
    arranged = gemm.arrange(whole(weight, scales[1], weight_levels, torch.int16).numpy(), x_levels.low, x_levels.high)
    out = torch.empty(*x.shape[:-1], len(weight))
    rows, found = x.detach().contiguous().view(-1, x.shape[-1]).numpy(), out.view(-1, len(weight)).numpy()
    factor, step = scale.expand(len(weight)).contiguous().numpy(), np.float32(scales[0].item())
    layer = gemm.Layer(arranged, step, factor, shift.numpy())

    def work(part: slice) -> None:
        gemm.linear(rows[part], layer, found[part])

    exact.in_pieces(work, len(rows), exact.PIECE // _ROWS)
    return out


def _units(scales: Any, qkv: Tensor, heads: int, top: int) -> tuple[NDArray[np.float32], np.float32, np.float32]:
    """The scales of queries, keys and values, and what products count: see kernels.attention.units."""
    used = np.array([scale.item() for scale in scales], np.float32)
    return used, *units(used, qkv.shape[2] // (3 * heads), top)


def _scratch(x: Tensor) -> Tensor:
    """Room like x for a value that is used up before the next call: fresh pages cost more than the rounding itself."""
    held: Tensor | None = getattr(_local, "scratch", None)
    if held is None or held.numel() < x.numel():
        held = _local.scratch = torch.empty(x.numel())
    return held[: x.numel()].view(x.shape)
