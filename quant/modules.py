"""The layers of a prepared model. In training they compute with fake-quantised floats and torch's own operators; in
evaluation on whole-number levels with one written rounding, so that the packed engine gives the same bits.

Evaluation is not differentiable: call `.train()` for gradients.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant import exact, fused
from quant.config import FLOAT, QuantConfig
from quant.fake_quant import Quantizer
from quant.level_sets import bits_of

FLOAT_BITS = 32


def round_half(x: Tensor) -> Tensor:
    """x as float16 stores it: the precision of packed biases, norms and the class token."""
    return x.detach().half().float()


def round_rows(x: Tensor) -> Tensor:
    """x as packed positions store it: per row (last axis) whole numbers in [-127, 127] times max|row| / 127."""
    x = x.detach()
    scale = x.abs().amax(-1, keepdim=True) / 127.0
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return exact.round_away(x / scale).clamp(-127, 127) * scale


def straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    """`rounded` in the forward pass, the gradient of x in the backward."""
    return x + (rounded - x).detach()


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
        pot = config.power_of_two_scales
        self.weight_quant = None if scheme == FLOAT else Quantizer(scheme, channels, power_of_two=pot)
        self.input_quant = None if activations == FLOAT else Quantizer(activations, None, unsigned, pot)

    def _fake_quantised(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The rounded input, weight and bias, differentiable."""
        x = x if self.input_quant is None else self.input_quant(x)
        weight = self.weight if self.weight_quant is None else self.weight_quant(self.weight)
        return x, weight, self._stored_bias()

    def _stored_bias(self) -> Tensor | None:
        """The bias as it is stored, differentiable."""
        return None if self.bias is None else straight_through(self.bias, round_half(self.bias))

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
        return sums if self.bias is None else sums + round_half(self.bias)


class QuantLinear(_QuantLayer, nn.Linear):  # type: ignore[misc]  # Linear declares bias more widely
    """nn.Linear on rounded inputs and weights; `weight` and `bias` keep their names and their float values."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self._exact(x)
        if self.input_quant is None or self.weight_quant is None or not fused.fits(x, self.weight):
            return F.linear(*self._fake_quantised(x))
        inputs, weights = self.input_quant, self.weight_quant
        inputs.fit_if_fresh(x)
        weights.fit_if_fresh(self.weight)
        product: Tensor = fused.FakeQuantLinear.apply(  # type: ignore[no-untyped-call]
            x,
            self.weight,
            self._stored_bias(),
            inputs.log2_scale,
            weights.log2_scale,
            (inputs.scale(), weights.scale()),
            (inputs.kernel_levels, weights.kernel_levels),
        )
        return product


class QuantConv2d(_QuantLayer, nn.Conv2d):
    """nn.Conv2d (one group, no dilation) on rounded inputs and weights."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return F.conv2d(*self._fake_quantised(x), self.stride, self.padding)
        size, stride, padding = _pair(self.kernel_size), _pair(self.stride), _pair(self.padding)
        height = (x.shape[2] + 2 * padding[0] - size[0]) // stride[0] + 1
        patches = F.unfold(x.detach().float(), size, padding=padding, stride=stride).transpose(1, 2)
        sums = self._exact(patches).transpose(1, 2)  # (B, out, positions)
        return sums.reshape(x.shape[0], self.out_channels, height, -1)


class QuantLayerNorm(nn.LayerNorm):
    """nn.LayerNorm over the last axis; evaluated by the one definition of kernels.nonlinear."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = round_half(self.weight), round_half(self.bias)
        if not self.training:
            return exact.layer_norm(x, weight, bias, self.eps)
        weight, bias = straight_through(self.weight, weight), straight_through(self.bias, bias)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class QuantGELU(nn.GELU):
    """nn.GELU (erf form); evaluated by the one definition of kernels.nonlinear."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x) if self.training else exact.gelu(x)


class QuantAttentionCore(nn.Module):
    """Attention on rounded queries, keys, values and probabilities: the module in the place of `attn.core`.

    Probabilities are whole multiples of 1 / (2^bits - 1). To restrict it to tiles or windows, call it with a mask, or
    call `quantise` and attend by other means to what it returns.
    """

    def __init__(self, config: QuantConfig) -> None:
        super().__init__()
        self.activation_scheme = config.activations
        self.activation_bits = FLOAT_BITS if config.activations == FLOAT else bits_of(config.activations)
        self.quantises = config.activations != FLOAT
        if self.quantises:
            pot = config.power_of_two_scales
            self.query, self.key, self.value = (Quantizer(config.activations, None, power_of_two=pot) for _ in range(3))

    @property
    def largest_probability(self) -> int:
        """The whole number that stands for probability 1."""
        return 2**self.activation_bits - 1

    def quantise(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values rounded to their levels, differentiable."""
        return (self.query(q), self.key(k), self.value(v)) if self.quantises else (q, k, v)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Context (B, heads, T, head_dim) of q, k, v of the same shape.

        Args:
            mask: bool, broadcastable to (B, heads, T, T); a query attends where it is True (at least one place a row).
        """
        return self._train(q, k, v, mask) if self.training else self._exact(q, k, v, mask)

    def _train(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if not self.quantises:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        if mask is None and fused.fits(q, k, v):
            return self._train_fused(q, k, v)
        q, k, v = self.quantise(q, k, v)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, heads, T, T)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        p = scores.softmax(-1)
        top = self.largest_probability
        return straight_through(p, torch.round(p.detach() * top) / top) @ v

    def _train_fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        quants = self.query, self.key, self.value
        for quant, x in zip(quants, (q, k, v), strict=True):
            quant.fit_if_fresh(x)
        context: Tensor = fused.FakeQuantAttention.apply(  # type: ignore[no-untyped-call]
            q,
            k,
            v,
            *(quant.log2_scale for quant in quants),
            tuple(quant.scale() for quant in quants),
            self.query.kernel_levels,
            self.largest_probability,
        )
        return context

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
        return exact.product(exact.round_away(p * top), v, tokens * top * self.value.largest) * (v_scale / top)


class QuantEmbeddings:
    """Mixed into a prepared model: `pos_embed` and `cls_token` read as the packed file stores them (gradients straight
    through to the parameters of the same names)."""

    _parameters: dict[str, Tensor | None]

    @property
    def pos_embed(self) -> Any:
        stored = self._parameters["pos_embed"]
        return None if stored is None else straight_through(stored, round_rows(stored))

    @property
    def cls_token(self) -> Any:
        stored = self._parameters.get("cls_token")
        return None if stored is None else straight_through(stored, round_half(stored))


def exact_mean(tokens: Tensor) -> Tensor:
    """Mean over the tokens, (B, T, dim) -> (B, dim), summed in float64 and rounded once."""
    return tokens.double().mean(1).float()


def exact_weighted_mean(tokens: Tensor, scores: Tensor) -> Tensor:
    """Mean of the tokens (B, T, dim) weighted by the softmax of their scores (B, T, 1)."""
    weights = exact.softmax(scores.transpose(1, 2))  # (B, 1, T)
    return exact.product(weights, tokens, None).squeeze(1)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
