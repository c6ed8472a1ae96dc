"""The layers of a prepared model. In evaluation they compute on whole-number levels with one written rounding, so that
the packed engine gives the same bits. In training on a CPU they compute the same, with gradients (quant.fused_layers);
on a GPU and under autocast with fake-quantised floats and torch's own operators.

Evaluation is not differentiable: call `.train()` for gradients.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant import exact
from quant.config import FLOAT, LOG2, QuantConfig
from quant.fake_quant import Quantizer
from quant.fused import fits
from quant.fused_layers import (
    ExactGELU,
    ExactLayerNorm,
    FakeQuantAttention,
    FakeQuantConv2d,
    FakeQuantLinear,
    FloatLinear,
    StraightThrough,
    stored,
)
from quant.level_sets import bits_of, probability_top

FLOAT_BITS = 32


def round_rows(x: Tensor) -> Tensor:
    """x as packed positions store it: per row (last axis) whole numbers in [-127, 127] times max|row| / 127."""
    x = x.detach()
    scale = x.abs().amax(-1, keepdim=True) / 127.0
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return exact.round_away(x / scale).clamp(-127, 127) * scale


def straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    """`rounded` in the forward pass, the gradient of x in the backward."""
    value: Tensor = StraightThrough.apply(x, rounded)  # type: ignore[no-untyped-call]
    return value


class _QuantLayer(nn.Module):
    """What QuantLinear and QuantConv2d share: the quantisers of weight and input, and the bits other floors read."""

    weight: Tensor
    bias: Tensor | None

    def _quantise_as(self, name: str, config: QuantConfig, unsigned: bool) -> None:
        scheme = config.scheme_of(name)
        activations = FLOAT if scheme == FLOAT else config.activations
        channels = self.weight.shape[0] if config.per_channel else 1
        self.weight_scheme, self.activation_scheme = scheme, activations
        self.weight_bits = FLOAT_BITS if scheme == FLOAT else bits_of(scheme)
        self.activation_bits = FLOAT_BITS if activations == FLOAT else bits_of(activations)
        self.rounds_activations = config.activations != FLOAT
        pot = config.power_of_two_scales
        self.weight_quant = None if scheme == FLOAT else Quantizer(scheme, channels, power_of_two=pot)
        self.input_quant = None if activations == FLOAT else Quantizer(activations, None, unsigned, pot)

    def _fake_quantised(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The rounded input, weight and bias, differentiable."""
        x = x if self.input_quant is None else self.input_quant(x)
        weight = self.weight if self.weight_quant is None else self.weight_quant(self.weight)
        return x, weight, None if self.bias is None else straight_through(self.bias, stored(self.bias))

    def _trains_exactly(self, x: Tensor) -> bool:
        """Whether training computes the bits of the evaluation: on the CPU, and not where weights alone are rounded."""
        return self.rounds_activations and fits(x)

    def _train(self, rows: Tensor) -> Tensor:
        """`_exact`, with gradients."""
        weight, inputs, weights = self.weight.flatten(1), self.input_quant, self.weight_quant
        result: Tensor
        if inputs is None or weights is None:
            result = FloatLinear.apply(rows, weight, self.bias)  # type: ignore[no-untyped-call]
        else:
            learned = learned_scales((inputs, rows), (weights, weight))
            result = FakeQuantLinear.apply(rows, weight, self.bias, *learned)  # type: ignore[no-untyped-call]
        return result

    def _exact(self, rows: Tensor) -> Tensor:
        """rows (..., inner) times the weight (out, inner): whole numbers first, then one scale and one bias."""
        weight = self.weight.detach().flatten(1)
        bound: float | None = None
        scale: Tensor | None = None
        if self.weight_quant is not None:
            weight, scale = self.weight_quant.split(weight)
            if self.input_quant is not None:
                rows, input_scale = self.input_quant.split(rows)
                scale = input_scale * scale
                bound = float(weight.shape[1]) * self.input_quant.largest * self.weight_quant.largest
        sums = exact.product(rows, weight.T, bound)
        if scale is not None:
            sums = sums * scale
        return sums if self.bias is None else sums + stored(self.bias)


class QuantLinear(_QuantLayer, nn.Linear):  # type: ignore[misc]  # Linear declares bias more widely
    """nn.Linear on rounded inputs and weights; `weight` and `bias` keep their names and their float values."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self._exact(x)
        return self._train(x) if self._trains_exactly(x) else F.linear(*self._fake_quantised(x))


class QuantConv2d(_QuantLayer, nn.Conv2d):
    """nn.Conv2d (one group, no dilation) on rounded inputs and weights."""

    def forward(self, x: Tensor) -> Tensor:
        size, stride, padding = _pair(self.kernel_size), _pair(self.stride), _pair(self.padding)
        if self.training and not self._trains_exactly(x):
            return F.conv2d(*self._fake_quantised(x), self.stride, self.padding)
        inputs, weights = self.input_quant, self.weight_quant
        overlapping = size != stride or padding != (0, 0)  # patches would copy values several times
        if self.training and overlapping and inputs is not None and weights is not None:
            learned = learned_scales((inputs, x), (weights, self.weight))
            result: Tensor = FakeQuantConv2d.apply(x, self.weight, self.bias, *learned, stride, padding)  # type: ignore[no-untyped-call]
            return result
        height = (x.shape[2] + 2 * padding[0] - size[0]) // stride[0] + 1
        patches = F.unfold(x if self.training else x.detach().float(), size, padding=padding, stride=stride)
        rows = patches.transpose(1, 2)  # (B, positions, in * kh * kw)
        sums = self._train(rows) if self.training else self._exact(rows)
        return sums.transpose(1, 2).reshape(x.shape[0], self.out_channels, height, -1)


class QuantLayerNorm(nn.LayerNorm):
    """nn.LayerNorm over the last axis, by the one definition of kernels.nonlinear."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = stored(self.weight), stored(self.bias)
        if not self.training:
            return exact.layer_norm(x, weight, bias, self.eps)
        if fits(x, weight):
            result: Tensor = ExactLayerNorm.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
            return result
        weight, bias = straight_through(self.weight, weight), straight_through(self.bias, bias)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class QuantGELU(nn.GELU):
    """nn.GELU (erf form), by the one definition of kernels.nonlinear."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return exact.gelu(x)
        if fits(x):
            result: Tensor = ExactGELU.apply(x)  # type: ignore[no-untyped-call]
            return result
        return F.gelu(x)


class QuantAttentionCore(nn.Module):
    """Attention on rounded queries, keys, values and probabilities: the module in the place of `attn.core`.

    Probabilities are whole multiples of 1 / (2^bits - 1), or with "log2" 0 and 2^0 to 2^-14. To restrict it to tiles or
    windows, call it with a mask, or call `quantise` and attend by other means to what it returns.
    """

    def __init__(self, config: QuantConfig) -> None:
        super().__init__()
        self.activation_scheme = config.activations
        self.activation_bits = FLOAT_BITS if config.activations == FLOAT else bits_of(config.activations)
        self.quantises = config.activations != FLOAT
        if self.quantises:
            pot = config.power_of_two_scales
            self.query, self.key, self.value = (Quantizer(config.activations, None, power_of_two=pot) for _ in range(3))
        self.log2 = config.probabilities == LOG2

    @property
    def largest_probability(self) -> int:
        """The whole number that stands for probability 1."""
        return probability_top(self.activation_scheme, self.log2)

    def quantise(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values rounded to their levels, differentiable."""
        return (self.query(q), self.key(k), self.value(v)) if self.quantises else (q, k, v)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Context (B, heads, T, head_dim) of q, k, v of the same shape.

        Args:
            mask: bool, broadcastable to (B, heads, T, T); a query attends where it is True (at least one place a row).
        """
        return self._train(q, k, v, mask) if self.training else self._exact(q, k, v, mask)

    def train_projection(self, qkv: Tensor, heads: int) -> Tensor:
        """The evaluation's context (B, T, heads * head_dim) of a projection (B, T, 3 * heads * head_dim) of float32 on
        the CPU, with gradients."""
        quantizers = self.query, self.key, self.value
        learned = learned_scales(*zip(quantizers, qkv.chunk(3, dim=2), strict=True))
        probabilities = self.largest_probability, self.log2
        context: Tensor = FakeQuantAttention.apply(qkv, *learned, heads, *probabilities)  # type: ignore[no-untyped-call]
        return context

    def takes_projection(self, x: Tensor) -> bool:
        """Whether to call `train_projection`, an attention layer's input being `x`."""
        return self.training and self.quantises and fits(x)

    def _train(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if not self.quantises:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        if mask is None and fits(q, k, v):
            batch, heads, tokens, width = q.shape
            qkv = torch.stack((q, k, v)).permute(1, 3, 0, 2, 4).reshape(batch, tokens, -1)
            return self.train_projection(qkv, heads).view(batch, tokens, heads, width).transpose(1, 2)
        q, k, v = self.quantise(q, k, v)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, heads, T, T)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        p = scores.softmax(-1)
        return straight_through(p, self._whole_probabilities(p.detach()) / self.largest_probability) @ v

    def _exact(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        width, tokens = q.shape[-1], k.shape[-2]
        if not self.quantises:
            scale = torch.tensor(width**-0.5, dtype=torch.float32, device=q.device)
            scores = exact.product(q, k.transpose(-2, -1), None) * scale
        else:
            (q, q_scale), (k, k_scale) = self.query.split(q), self.key.split(k)
            scale = (q_scale.double() * k_scale.double() * width**-0.5).float()
            scores = exact.product(q, k.transpose(-2, -1), width * self.query.largest * self.key.largest) * scale
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        p = exact.softmax(scores)
        if not self.quantises:
            return exact.product(p, v, None)
        top = self.largest_probability
        v, v_scale = self.value.split(v)
        return exact.product(self._whole_probabilities(p), v, tokens * top * self.value.largest) * (v_scale / top)

    def _whole_probabilities(self, p: Tensor) -> Tensor:
        """Probabilities as whole numbers, in units of 1 / largest_probability."""
        whole = p.float() * self.largest_probability
        return exact.nearest_power(whole, self.largest_probability) if self.log2 else exact.round_away(whole)


class AttentionOnProjection:
    """Mixed into an attention layer: while it trains on a CPU, its core takes the projection as it comes, in one piece.

    A core of another kind that was put in the place of ours is called as ever.
    """

    def forward(self: Any, x: Tensor, *args: Any, **options: Any) -> Tensor:
        core = self.core
        masked = any(option is not None and option is not False for option in (*args, *options.values()))
        if masked or not isinstance(core, QuantAttentionCore) or not core.takes_projection(x):
            return super().forward(x, *args, **options)  # type: ignore[misc]
        context = self.proj(core.train_projection(self.qkv(x), self.qkv.out_features // (3 * self.head_dim)))
        return self.proj_drop(context) if hasattr(self, "proj_drop") else context


class QuantEmbeddings:
    """Mixed into a prepared model: `pos_embed` and `cls_token` read as the packed file stores them (gradients straight
    through to the parameters of the same names)."""

    _parameters: dict[str, Tensor | None]

    @property
    def pos_embed(self) -> Any:
        held = self._parameters["pos_embed"]
        return None if held is None else straight_through(held, round_rows(held))

    @property
    def cls_token(self) -> Any:
        held = self._parameters.get("cls_token")
        return None if held is None else straight_through(held, stored(held))


def learned_scales(*pairs: tuple[Quantizer, Tensor]) -> tuple[Any, ...]:
    """What an operator of quant.fused_layers takes of quantisers, each fitted to its tensor first if it is fresh: the
    parameters one by one, then the scales, then the levels."""
    for quantizer, x in pairs:
        quantizer.fit_if_fresh(x)
    quantizers = [quantizer for quantizer, _ in pairs]
    parameters = (quantizer.log2_scale for quantizer in quantizers)
    return *parameters, tuple(q.scale() for q in quantizers), tuple(q.kernel_levels for q in quantizers)


def exact_mean(tokens: Tensor) -> Tensor:
    """Mean over the tokens, (B, T, dim) -> (B, dim), summed in float64 and rounded once."""
    return tokens.double().mean(1).to(tokens.dtype)


def exact_weighted_mean(tokens: Tensor, scores: Tensor) -> Tensor:
    """Mean of the tokens (B, T, dim) weighted by the softmax of their scores (B, T, 1)."""
    weights = scores.softmax(dim=1)
    with torch.no_grad():
        value = exact.product(exact.softmax(scores.transpose(1, 2)), tokens, None).squeeze(1)
    return straight_through((weights.transpose(1, 2) @ tokens).squeeze(1), value.to(tokens.dtype))


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
