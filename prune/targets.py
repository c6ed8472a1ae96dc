"""Which layers a pruner works on, and in what order their weights go."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vit.errors import InputError, did_you_mean
from vit.masks import get_mask, prunable_layers, set_mask

MASKED = -1.0  # below every magnitude: what is pruned already goes first, and so stays pruned


def layers_to_prune(model: nn.Module, skip: Sequence[str] = ()) -> dict[str, nn.Module]:
    """Every nn.Linear and nn.Conv2d of the model by name, without those in `skip`.

    Args:
        model: any module.
        skip: names of layers, or of modules that contain them ("head", "stem", "blocks.0").

    Raises:
        InputError: an entry of `skip` names no such layer or module, or nothing is left to prune.
    """
    if isinstance(skip, str) or not all(isinstance(name, str) for name in skip):
        raise InputError("skip", skip, 'a list of module names such as ["head"]')
    layers = prunable_layers(model)
    for name in skip:
        if not any(_inside(layer, name) for layer in layers):
            raise InputError("skip", name, "the name of a layer or of a module with layers", did_you_mean(name, layers))
    left = {name: layer for name, layer in layers.items() if not any(_inside(name, entry) for entry in skip)}
    if not left:
        raise InputError("model", type(model).__name__, "a model with an nn.Linear or nn.Conv2d that is not skipped")
    return left


@torch.no_grad()
def magnitudes(layer: nn.Module) -> Tensor:
    """|weight| in the weight's shape, and MASKED where a mask holds it at 0."""
    size = layer.weight.detach().abs()  # type: ignore[operator]
    mask = get_mask(layer)
    return size if mask is None else size.masked_fill(~mask, MASKED)


def apply_mask(layer: nn.Module, keep: Tensor) -> None:
    """Set the mask, unless it would hold nothing."""
    if get_mask(layer) is not None or not bool(keep.all()):
        set_mask(layer, keep)


def _inside(layer: str, module: str) -> bool:
    return layer == module or layer.startswith(f"{module}.")
