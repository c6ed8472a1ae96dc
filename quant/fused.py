"""Rounding tensors and its gradients on the CPU by the kernels of `kernels.fake_quant`: one pass over the data each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels import fake_quant as kernel
from quant.exact import in_pieces
from quant.level_sets import activation_range, level_set


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

    @property
    def largest(self) -> int:
        """The largest magnitude of a level."""
        return max(-self.low, self.high)


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


def rounded(x: Tensor, scale: Tensor, levels: Levels) -> Tensor:
    """x^ = scale * nearest level of x / scale, contiguous. `scale` has one value, or one for each x[i]."""
    return _each(kernel.forward, x, scale, levels, torch.empty(x.shape))


def whole(x: Tensor, scale: Tensor, levels: Levels, dtype: torch.dtype = torch.float32) -> Tensor:
    """The nearest levels of x / scale themselves, contiguous."""
    return _each(kernel.to_levels, x, scale, levels, torch.empty(x.shape, dtype=dtype))


def gradients(x: Tensor, grad: Tensor, scale: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
    """The gradient by x, in the place of `grad` by x^, and the sums of grad * dx^/ds, in the shape of `scale`."""
    grad = grad.contiguous()
    source, given = _rows(x, scale), _rows(grad, scale)
    scales = scale.detach().reshape(-1).numpy()

    def work(part: slice) -> NDArray[np.float32]:
        rows, columns = (slice(None), part) if len(source) == 1 else (part, slice(None))
        sums = np.empty(len(source[rows]), np.float32)
        kernel.backward(source[rows, columns], given[rows, columns], scales[rows], *levels.arguments, sums)
        return sums

    found = in_pieces(work, *_extent(source))
    sums = np.sum(found, axis=0, dtype=np.float64) if len(source) == 1 else np.concatenate(found)
    return grad, torch.from_numpy(sums.astype(np.float32)).view(scale.shape)


def gradients_and_levels(x: Tensor, grad: Tensor, scale: Tensor, levels: Levels, out: Tensor) -> Tensor:
    """`gradients` of an activation: `grad` (contiguous) becomes that by x, `out` the levels of x; returns the sum."""
    source, given, found = (t.detach().reshape(-1).numpy() for t in (x, grad, out))
    s, (_, low, high, _) = np.float32(scale.item()), levels.arguments
    sums = in_pieces(
        lambda part: kernel.backward_with_levels(source[part], given[part], s, low, high, found[part]), len(source)
    )
    return torch.tensor(math.fsum(sums), dtype=torch.float32)


def scale_gradient(sums: Tensor, scale: Tensor, values: float, high: int) -> Tensor:
    """The gradient by log2 scale, from the sums of grad * dx^/ds over the `values` values of a scale."""
    return sums * scale * (math.log(2) / math.sqrt(values * high))


def _each(run: Any, x: Tensor, scale: Tensor, levels: Levels, out: Tensor) -> Tensor:
    source, target = _rows(x, scale), _rows(out, scale)
    scales = scale.detach().reshape(-1).numpy()

    def work(part: slice) -> None:
        rows, columns = (slice(None), part) if len(source) == 1 else (part, slice(None))
        run(source[rows, columns], scales[rows], *levels.arguments, target[rows, columns])

    in_pieces(work, *_extent(source))
    return out


def _rows(x: Tensor, scale: Tensor) -> NDArray[Any]:
    """x as (rows, n) with one scale a row."""
    return x.detach().contiguous().view(scale.numel(), -1).numpy()


def _extent(source: NDArray[Any]) -> tuple[int, int]:
    """Items that pieces are made of, and values an item: of one long row its values, of many short ones the rows."""
    rows, n = source.shape
    return (n, 1) if rows == 1 else (rows, n)
