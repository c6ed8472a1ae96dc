"""Fake quantisation on the CPU by the kernels of `kernels.fake_quant`: one pass forward, one backward, nothing kept but
what a float network keeps too. The backward pass rounds again, which is cheaper than keeping the rounded values.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kernels import fake_attention as attention
from kernels import fake_quant as kernel
from kernels.split import pieces, run
from quant.level_sets import activation_range, level_set

_PIECE = 1 << 17  # values a kernel call works on
_local = threading.local()


@dataclass(frozen=True, eq=False)
class Levels:
    """What the kernels need to know of a level set."""

    kind: int
    low: int
    high: int
    table: NDArray[np.float32]

    @property
    def arguments(self) -> tuple[int, np.float32, np.float32, NDArray[np.float32]]:
        """What the kernels are called with."""
        return self.kind, np.float32(self.low), np.float32(self.high), self.table


@cache
def levels_of(scheme: str, unsigned: bool = False) -> Levels:
    """The levels of a scheme; `unsigned` for activations that are never negative."""
    tables = level_set(scheme)
    none = np.zeros(0, np.float32)
    if tables.uniform:
        return Levels(kernel.UNIFORM, *activation_range(scheme, unsigned), none)
    if scheme == "pot4":
        return Levels(kernel.POT4, tables.low, tables.high, none)
    table = np.concatenate([tables.midpoints, tables.magnitudes[1:].astype(np.float32)])
    return Levels(kernel.TABLE, tables.low, tables.high, table)


def fits(*tensors: Tensor) -> bool:
    """Whether the kernels can work on these tensors: float32 on the CPU, and no autocast that wants other types."""
    plain = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
    return plain and not torch.is_autocast_enabled("cpu")


def rounded(x: Tensor, scale: Tensor, levels: Levels, out: Tensor | None = None) -> Tensor:
    """x^ = scale * nearest level of x / scale, contiguous, in `out` if given. `scale` has one value, or one a x[i]."""
    out = torch.empty(x.shape) if out is None else out
    source, target = _rows(x, scale), _rows(out, scale)
    scales = scale.detach().reshape(-1).numpy()
    kind, low, high, table = levels.arguments

    def work(part: slice) -> None:
        rows, columns = (slice(None), part) if len(source) == 1 else (part, slice(None))
        kernel.forward(source[rows, columns], scales[rows], kind, low, high, table, target[rows, columns])

    run(work, _parts(source), torch.get_num_threads())
    return out


def gradients(x: Tensor, grad: Tensor, scale: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
    """The gradient by x, in the place of `grad` by x^, and the sums of grad * dx^/ds, in the shape of `scale`."""
    grad = grad.contiguous()
    source, given = _rows(x, scale), _rows(grad, scale)
    scales = scale.detach().reshape(-1).numpy()
    kind, low, high, table = levels.arguments

    def work(part: slice) -> NDArray[np.float32]:
        rows, columns = (slice(None), part) if len(source) == 1 else (part, slice(None))
        sums = np.empty(len(source[rows]), np.float32)
        grads = given[rows, columns]
        kernel.backward(source[rows, columns], grads, scales[rows], kind, low, high, table, grads, sums)
        return sums

    found = run(work, _parts(source), torch.get_num_threads())
    sums = np.sum(found, axis=0, dtype=np.float64) if len(source) == 1 else np.concatenate(found)
    return grad, torch.from_numpy(sums.astype(np.float32)).view(scale.shape)


def scale_gradient(sums: Tensor, scale: Tensor, values: float, high: int) -> Tensor:
    """The gradient by log2 scale, from the sums of grad * dx^/ds over the `values` values of a scale."""
    return sums * scale * (math.log(2) / math.sqrt(values * high))


class FakeQuantLinear(torch.autograd.Function):
    """Linear layer on rounded input and weight; of all activations it keeps its input alone, as a float layer does."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        x_log2: Tensor,
        weight_log2: Tensor,
        scales: tuple[Tensor, Tensor],
        levels: tuple[Levels, Levels],
    ) -> Tensor:
        ctx.save_for_backward(x, weight, *scales)
        ctx.levels, ctx.has_bias = levels, bias is not None
        x = rounded(x, scales[0], levels[0], _scratch(x))
        return F.linear(x, rounded(weight, scales[1], levels[1]), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, x_scale, weight_scale = ctx.saved_tensors
        x_levels, weight_levels = ctx.levels
        rows = grad.reshape(-1, grad.shape[-1])
        by_weight = rows.T @ rounded(x, x_scale, x_levels, _scratch(x)).view(-1, x.shape[-1])
        by_weight, weight_sums = gradients(weight, by_weight, weight_scale, weight_levels)
        by_x, x_sums = gradients(
            x, (rows @ rounded(weight, weight_scale, weight_levels)).view(x.shape), x_scale, x_levels
        )
        values = weight.numel() / weight_scale.numel()
        return (
            by_x,
            by_weight,
            rows.sum(0) if ctx.has_bias else None,
            scale_gradient(x_sums, x_scale, x.numel() / x.shape[0], x_levels.high),
            scale_gradient(weight_sums, weight_scale, values, weight_levels.high),
            None,
            None,
        )


class FakeQuantAttention(torch.autograd.Function):
    """Attention on rounded queries, keys, values (each (B, heads, T, head_dim)) and probabilities; keeps q, k, v alone.

    The rounding of a probability is passed straight through.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        q_log2: Tensor,
        k_log2: Tensor,
        v_log2: Tensor,
        scales: tuple[Tensor, Tensor, Tensor],
        levels: Levels,
        top: int,
    ) -> Tensor:
        ctx.save_for_backward(q, k, v, *scales)
        ctx.levels, ctx.top = levels, top
        out = _like_heads(q)
        query, key, value, context = (x.detach().numpy() for x in (q, k, v, out))
        used, low, high, highest = _attention_arguments(scales, levels, top)

        def work(part: slice) -> None:
            attention.forward(query[part], key[part], value[part], used, low, high, highest, context[part])

        run(work, pieces(len(q), _images_a_piece(q)), torch.get_num_threads())
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *sources, q_scale, k_scale, v_scale = ctx.saved_tensors
        scales = q_scale, k_scale, v_scale
        found = [_like_heads(x) for x in sources]
        q, k, v, given = (x.detach().numpy() for x in (*sources, grad))
        by_q, by_k, by_v = (x.numpy() for x in found)
        used, low, high, top = _attention_arguments(scales, ctx.levels, ctx.top)

        def work(part: slice) -> NDArray[np.float32]:
            sums = np.empty(3, np.float32)
            results = by_q[part], by_k[part], by_v[part]
            attention.backward(
                q[part], k[part], v[part], given[part], used, low, high, top, results[0], results[1], results[2], sums
            )
            return sums

        parts = pieces(len(grad), _images_a_piece(grad))
        sums = torch.from_numpy(np.sum(run(work, parts, torch.get_num_threads()), axis=0, dtype=np.float64)).float()
        values = grad.numel() / grad.shape[0]
        by_scale = [scale_gradient(sums[i], scale, values, ctx.levels.high) for i, scale in enumerate(scales)]
        return *found, *by_scale, None, None, None


def _attention_arguments(
    scales: tuple[Tensor, Tensor, Tensor], levels: Levels, top: int
) -> tuple[NDArray[np.float32], np.float32, np.float32, np.float32]:
    stacked = np.array([scale.item() for scale in scales], np.float32)
    return stacked, np.float32(levels.low), np.float32(levels.high), np.float32(top)


def _like_heads(x: Tensor) -> Tensor:
    """Room for (B, heads, T, head_dim) laid out as (B, T, heads, head_dim), as the projection after it wants."""
    batch, heads, tokens, width = x.shape
    return torch.empty(batch, tokens, heads, width).transpose(1, 2)


def _images_a_piece(x: Tensor) -> int:
    return max(1, _PIECE * len(x) // max(1, x.numel()))


def _scratch(x: Tensor) -> Tensor:
    """Room like x for a value that is used up before the next call: fresh pages cost more than the rounding itself."""
    held: Tensor | None = getattr(_local, "scratch", None)
    if held is None or held.numel() < x.numel():
        held = _local.scratch = torch.empty(x.numel())
    return held[: x.numel()].view(x.shape)


def _rows(x: Tensor, scale: Tensor) -> NDArray[np.float32]:
    """x as (rows, n) with one scale a row."""
    plain = x.detach().contiguous()
    return plain.view(scale.numel(), -1).numpy()


def _parts(source: NDArray[np.float32]) -> list[slice]:
    """Pieces of one long row, or of many short ones."""
    rows, n = source.shape
    return pieces(n, _PIECE) if rows == 1 else pieces(rows, max(1, _PIECE // max(1, n)))
