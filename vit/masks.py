"""Masks of pruned weights: they belong to the layer, and the weight it shows is exactly 0 where the mask is False.

A mask is a torch parametrization: whatever loop trains the model, `layer.weight` stays masked, gradients of pruned
weights are zero, and copies of the model keep their masks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Mask(nn.Module):
    """Multiplies a weight by a fixed 0/1 mask of the same shape."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.bool().clone())  # the caller keeps its own

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def prunable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers whose weights may be masked, by name: every nn.Linear and nn.Conv2d."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))}


def get_mask(layer: nn.Module) -> Tensor | None:
    """The layer's mask (bool, shape of its weight), or None if it was never pruned."""
    found = _find(layer)
    return None if found is None else found.mask


@torch.no_grad()
def set_mask(layer: nn.Module, mask: Tensor) -> None:
    """Prune the layer's weight where `mask` is False, from now on; an earlier mask is replaced."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    mask = mask.to(device=weight.device, dtype=torch.bool)
    found = _find(layer)
    if found is None:
        parametrize.register_parametrization(layer, "weight", Mask(mask))
    else:
        found.mask.copy_(mask)
        layer.parametrizations.weight.original.mul_(mask)  # type: ignore[union-attr, operator]


def remove_mask(layer: nn.Module) -> None:
    """Make the layer's masked weight an ordinary one again; its zeros stay, but nothing holds them."""
    if _find(layer) is not None:
        # Copies of a layer share the class that torch takes the parametrized `weight` off: give this layer its own.
        shared = type(layer)
        own = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
        layer.__class__ = type(shared.__name__, shared.__bases__, own)
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def masks(model: nn.Module) -> dict[str, Tensor]:
    """The mask of every pruned layer, by layer name."""
    found = {name: get_mask(layer) for name, layer in prunable_layers(model).items()}
    return {name: mask for name, mask in found.items() if mask is not None}


def _find(layer: nn.Module) -> Mask | None:
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    chain = layer.parametrizations.weight  # type: ignore[union-attr]
    return next((step for step in chain if isinstance(step, Mask)), None)  # type: ignore[union-attr]
