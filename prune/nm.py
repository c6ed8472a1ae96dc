"""N:M sparsity: at most n weights that are not 0 in every m consecutive ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prune.targets import MASKED, apply_mask, layers_to_prune, magnitudes
from vit.errors import InputError, require_int


def nm_prune(model: nn.Module, n: int = 2, m: int = 4, skip: Sequence[str] = ()) -> nn.Module:
    """Mask all but the n largest of every m consecutive weights, in place, and return the model.

    The groups run along each output's dot product, `layer.weight.flatten(1)`: the order in which hardware streams it.
    2:4 is the pattern of Mishra et al. 2021 ("Accelerating Sparse Deep Neural Networks"). Where m does not divide the
    length of the dot product, the last group is shorter and keeps at most n too. Of equal magnitudes the later goes.
    Weights masked already stay masked.

    Raises:
        InputError: n or m no whole number with 1 <= n < m, an unknown name in `skip`, a model without such layers.
    """
    require_pattern(n, m)
    for layer in layers_to_prune(model, skip).values():
        apply_mask(layer, _keep_n_of_m(magnitudes(layer), n, m))
    return model


def require_pattern(n: int, m: int) -> None:
    """Raise an InputError unless 1 <= n < m, in whole numbers."""
    require_int("m", m, low=2)
    require_int("n", n)
    if n >= m:
        raise InputError("n", n, f"a whole number from 1 to {m - 1}, less than m = {m}")


def _keep_n_of_m(scores: Tensor, n: int, m: int) -> Tensor:
    rows = scores.flatten(1)  # (out, length of the dot product)
    length = rows.shape[1]
    groups = F.pad(rows, (0, -length % m), value=MASKED).view(rows.shape[0], -1, m)
    best = groups.argsort(dim=2, descending=True, stable=True)[:, :, :n]
    keep = torch.zeros_like(groups, dtype=torch.bool).scatter_(2, best, True)
    keep &= groups != MASKED
    return keep.view(rows.shape[0], -1)[:, :length].reshape(scores.shape)
