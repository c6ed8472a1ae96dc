"""Sparsity as it is, counted on the weights a layer shows."""

from __future__ import annotations

from torch import nn

from vit.masks import prunable_layers


def sparsity(model: nn.Module) -> dict[str, float]:
    """The fraction of weights that are exactly 0: by layer, and under "total" over all of them.

    Counts the weights (not the biases) of every nn.Linear and nn.Conv2d as the layer shows them: masked, and after
    `quant.prepare_qat` quantised. What is measured is the value, so a zero counts whether or not a mask holds it.
    """
    zeros, sizes = {}, {}
    for name, layer in prunable_layers(model).items():
        weight = layer.weight.detach()  # type: ignore[operator]
        zeros[name], sizes[name] = int((weight == 0).sum()), weight.numel()
    found = {name: zeros[name] / max(1, sizes[name]) for name in zeros}
    return found | {"total": sum(zeros.values()) / max(1, sum(sizes.values()))}
