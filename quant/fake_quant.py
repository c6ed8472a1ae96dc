"""Fake quantisation with learned scales: values rounded to levels forward, gradients straight through backward.

With q = x / s, s the scale and [low, high] the range of the levels (LSQ, Esser et al. 2020, equations 1 to 3 and 5,
with the nearest level in place of the nearest whole number, as APoT does, Li et al. 2020):

    forward    x^ = s level(q), level(q) the level nearest to q, ties away from zero, clipped to [low, high]
    backward   dx^/dx = 1 where low <= q <= high, else 0                          (straight-through, clipped)
               dx^/ds = level(q) - q where low <= q <= high, else level(q) = low or high
               the sum over a scale's n values is multiplied by 1 / sqrt(n high)      (LSQ's gradient scale; for
               activations n counts the values of one image)

The parameter is log2 s (TQT, Jain et al. 2020, section 3): s stays positive and an optimiser's step is a fixed fraction
of s whatever its size; dx^/d(log2 s) = dx^/ds s ln 2. The forward pass uses s rounded to bfloat16, as it is stored (or
2^round(log2 s) with power-of-two scales); that rounding, too, is passed straight through.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from quant import fused, scales
from quant.codec import nearest
from quant.exact import round_away
from quant.level_sets import activation_range, level_set

_LOG2_LIMIT = 100.0  # of |log2 scale|: inside float32, so that a diverging run fails by its loss, not by a NaN scale
_SAMPLE = 1 << 16  # values that an activation scale is first fitted to


class FakeQuantize(torch.autograd.Function):
    """x^ of the module's docstring: `scale` is the value used, log2_scale its parameter, both () or (len(x),)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, log2_scale: Tensor, scale: Tensor, scheme: str, unsigned: bool) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.scheme, ctx.unsigned = scheme, unsigned
        if fused.fits(x):
            return fused.rounded(x, scale, fused.levels_of(scheme, unsigned))
        scale = along_first_axis(scale, x)
        return (nearest_level(x.float() / scale, scheme, unsigned) * scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        low, high = _range(ctx.scheme, ctx.unsigned)
        if fused.fits(x, grad):
            by_x, sums = fused.gradients(x, grad.clone(), scale, fused.levels_of(ctx.scheme, ctx.unsigned))
        else:
            scaled = x.float() / along_first_axis(scale, x)
            inside = (scaled >= low) & (scaled <= high)
            level = nearest_level(scaled, ctx.scheme, ctx.unsigned)
            to_scale = grad.float() * torch.where(inside, level - scaled, level)
            by_x, sums = grad * inside, to_scale.sum() if scale.numel() == 1 else to_scale.flatten(1).sum(1)
        values = x.numel() / (x.shape[0] if scale.dim() == 0 else scale.numel())
        return by_x, fused.scale_gradient(sums.view(scale.shape), scale, values, high), None, None, None


class Quantizer(nn.Module):
    """Rounds a tensor to `scheme`'s levels times a learned scale.

    Attributes:
        log2_scale: the parameter: (channels,) for weights, () for activations.
        fresh: whether the scale is still to be fitted to the first values seen.
    """

    def __init__(self, scheme: str, channels: int | None, unsigned: bool = False, power_of_two: bool = False) -> None:
        super().__init__()
        self.scheme, self.unsigned, self.power_of_two = scheme, unsigned, power_of_two
        self.log2_scale = nn.Parameter(torch.zeros(() if channels is None else (channels,)))
        self.fresh = True

    @property
    def kernel_levels(self) -> fused.Levels:
        """The levels as the fused kernels take them."""
        return fused.levels_of(self.scheme, self.unsigned)

    @property
    def largest(self) -> int:
        """The largest magnitude of a level."""
        low, high = _range(self.scheme, self.unsigned)
        return max(-low, high)

    def scale(self) -> Tensor:
        """The scale in use, float32, the shape of log2_scale."""
        exponent = self.log2_scale.detach().clamp(-_LOG2_LIMIT, _LOG2_LIMIT)
        if self.power_of_two:
            return torch.exp2(torch.round(exponent).double()).float()
        return torch.exp2(exponent.double()).bfloat16().float()  # in float64, so that every device rounds it alike

    def forward(self, x: Tensor) -> Tensor:
        self.fit_if_fresh(x)
        rounded: Tensor = FakeQuantize.apply(x, self.log2_scale, self.scale(), self.scheme, self.unsigned)  # type: ignore[no-untyped-call]
        return rounded

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The level of each value, as float32 whole numbers, and the scale: their product is the rounded x. Not
        differentiable."""
        self.fit_if_fresh(x)
        scale = self.scale()
        return nearest_level(x.detach().float() / along_first_axis(scale, x), self.scheme, self.unsigned), scale

    @torch.no_grad()
    def fit_if_fresh(self, x: Tensor) -> None:
        """Fit the scale to `x` by least squares, once."""
        if not self.fresh:
            return
        values = x.detach().float()
        if self.log2_scale.dim() == 0:
            sample = values.reshape(-1)[:: max(1, values.numel() // _SAMPLE)].cpu().numpy()
            fitted = torch.tensor(scales.activation_scale(sample, *_range(self.scheme, self.unsigned)))
        else:
            rows = values.reshape(self.log2_scale.numel(), -1).cpu().numpy()
            fitted = torch.from_numpy(scales.weight_scale(rows, self.scheme, self.power_of_two))
        self.log2_scale.copy_(torch.log2(fitted))
        self.fresh = False

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """A float model's state has no scale: then it is no missing key, but fitted anew."""
        name = f"{prefix}log2_scale"
        self.fresh = name not in state
        if self.fresh:
            state = {**state, name: self.log2_scale.detach()}
        super()._load_from_state_dict(state, prefix, *rest)


def along_first_axis(scale: Tensor, x: Tensor) -> Tensor:
    """A scale, or one for each x[i], in a shape that broadcasts against x."""
    return scale if scale.numel() == 1 else scale.view(-1, *[1] * (x.dim() - 1))


def nearest_level(scaled: Tensor, scheme: str, unsigned: bool = False) -> Tensor:
    """The level nearest to each float32 value, ties away from zero, as float32."""
    tables = level_set(scheme)
    if tables.uniform:
        low, high = activation_range(scheme, unsigned)
        return round_away(scaled).clamp_(low, high)
    if scaled.device.type == "cpu":
        return torch.from_numpy(nearest(scaled.detach().numpy(), scheme))
    return nearest_level_by_torch(scaled, scheme)


def nearest_level_by_torch(scaled: Tensor, scheme: str) -> Tensor:
    """`nearest_level` of a sign-and-magnitude scheme by torch ops, for devices where there is no numba."""
    tables = level_set(scheme)
    if scheme == "pot4":
        return _nearest_pot4(scaled)
    midpoints = torch.from_numpy(tables.midpoints).to(scaled.device)
    magnitudes = torch.from_numpy(tables.magnitudes).to(scaled.device, torch.float32)
    return torch.copysign(magnitudes[torch.bucketize(scaled.abs(), midpoints, right=True)], scaled)


def _nearest_pot4(scaled: Tensor) -> Tensor:
    """As kernels.pot.pot4_codes: half a mantissa added to the bits carries into the exponent from 1.5 * 2^k on."""
    magnitude = scaled.abs().contiguous().view(torch.int32)
    index = torch.maximum(((magnitude + 0x400000) >> 23) - 126, (magnitude >= 0x3F000000).int()).clamp_(0, 7)
    power = ((index + 126) << 23).view(torch.float32)  # 2^(index - 1)
    return torch.copysign(torch.where(index > 0, power, torch.zeros_like(power)), scaled)


def _range(scheme: str, unsigned: bool) -> tuple[int, int]:
    tables = level_set(scheme)
    return activation_range(scheme, unsigned) if tables.uniform else (tables.low, tables.high)
