"""kernels.nonlinear and exact matrix products for torch tensors: what a prepared model evaluates with.

On the CPU the numba kernels themselves run on views of the tensors; on other devices the same sequences of operations
run as torch ops. Nothing here is differentiable: quant.fused_layers has the gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels import nonlinear as kernel
from kernels import team
from kernels.split import pieces

PIECE = 1 << 17  # values that a call of a kernel works on
BELOW_HALF = 0.5 - 2.0**-25  # as in kernels.pot: rounds ties away from zero, for every float32


def round_away(x: Tensor) -> Tensor:
    """The nearest whole number, ties away from zero."""
    return torch.trunc(x + torch.copysign(x.new_full((), BELOW_HALF), x))


def nearest_power(x: Tensor, top: int) -> Tensor:
    """The nearest of 0, 1, 2, 4 ... top to values >= 0, float32: as kernels.pot.nearest_power."""
    bits = (x.contiguous().view(torch.int32) + 0x400000) & 0x7F800000
    return torch.where(x >= 0.5, bits.view(torch.float32).clamp(1, top), torch.zeros_like(x))


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm over the last axis, float32."""
    if x.device.type == "cpu":
        plain = x.detach().contiguous().float()
        out = torch.empty_like(plain)
        width, gain, shift = plain.shape[-1], weight.detach().numpy(), bias.detach().numpy()
        rows, found = plain.view(-1, width).numpy(), out.view(-1, width).numpy()
        in_pieces(lambda part: kernel.layer_norm(rows[part], gain, shift, eps, found[part]), len(rows), width)
        return out
    wide = x.double()
    mean = wide.mean(-1, keepdim=True)
    inverse = 1.0 / torch.sqrt(((wide - mean) ** 2).mean(-1, keepdim=True) + eps)
    return ((wide - mean) * inverse * weight.double() + bias.double()).float()


def gelu(x: Tensor) -> Tensor:
    """The exact (erf) GELU, float32."""
    if x.device.type == "cpu":
        plain = x.detach().contiguous().float()
        out = torch.empty_like(plain)
        values, found = plain.view(-1).numpy(), out.view(-1).numpy()
        in_pieces(lambda part: kernel.gelu(values[part], found[part]), len(values))
        return out
    plain = x.float()
    return (0.5 * plain) * (1.0 + _erf(plain * float(kernel.ROOT_HALF)))


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last axis, float32."""
    if x.device.type == "cpu":
        plain = x.detach().contiguous().float()
        out = torch.empty_like(plain)
        kernel.softmax(plain.view(-1, plain.shape[-1]).numpy(), out.view(-1, plain.shape[-1]).numpy())
        return out
    plain = x.float()
    powers = _exp_negative(plain - plain.amax(-1, keepdim=True))
    return powers * (1.0 / powers.double().sum(-1, keepdim=True)).float()


def product(a: Tensor, b: Tensor, largest: float | None) -> Tensor:
    """a @ b, rounded to float32 once.

    `largest` bounds the magnitude of every partial sum of whole numbers: up to 2^24 float32 carries them exactly. None
    means that a or b are not whole numbers; then, and above the bound, the sums run in float64.
    """
    with torch.autocast(a.device.type, enabled=False):
        if largest is not None and largest <= 2**24:
            return a.float() @ b.float()
        return (a.double() @ b.double()).float()


def in_pieces(work: Callable[[slice], Any], count: int, each: int = 1) -> list[Any]:
    """`work` on slices of `count` items of `each` values, on torch's threads; what it gives, in their order."""
    return team.run(work, pieces(count, max(1, PIECE // max(1, each))), torch.get_num_threads())


def _exp_negative(x: Tensor) -> Tensor:
    bounded = x.clamp(min=float(kernel.EXP_LOWEST))
    n = torch.floor(bounded * float(kernel.LOG2E) + 0.5)
    r = bounded - n * float(kernel.LN2_HIGH)
    r = r - n * float(kernel.LN2_LOW)
    p = _horner(kernel.EXP_POLYNOMIAL, r)
    p = p * (r * r) + r + 1.0
    power = ((n.to(torch.int32) + 127) << 23).view(torch.float32)
    return torch.where(x >= float(kernel.EXP_LOWEST), p * power, torch.zeros_like(p))


def _erf(x: Tensor) -> Tensor:
    limit = float(kernel.ERF_LIMIT)
    t = x.clamp(-limit, limit)
    return t * _horner(kernel.ERF_ABOVE, t * t) / _horner(kernel.ERF_BELOW, t * t)


def _horner(coefficients: tuple[object, ...], x: Tensor) -> Tensor:
    result = torch.full_like(x, float(coefficients[0]))  # type: ignore[arg-type]
    for coefficient in coefficients[1:]:
        result = result * x + float(coefficient)  # type: ignore[arg-type]
    return result
