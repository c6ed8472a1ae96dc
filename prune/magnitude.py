"""Unstructured pruning: the weights of smallest magnitude, ranked over the model or within each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from prune.targets import MASKED, apply_mask, layers_to_prune, magnitudes
from vit.errors import require_choice, require_float

SCOPES = ("global", "layer", "erk")


def magnitude_prune(model: nn.Module, sparsity: float, scope: str = "global", skip: Sequence[str] = ()) -> nn.Module:
    """Mask the weights of smallest magnitude, in place, and return the model.

    Prunable are the weights (not the biases) of every nn.Linear and nn.Conv2d that `skip` does not name. A weight that
    is masked already stays masked, so pruning again only ever adds zeros. Equal magnitudes go in the order of the
    layers, then of the weights in them, so the result is a function of the weights alone.

    Args:
        model: any module; the masks become part of it (see vit.masks).
        sparsity: fraction of the N prunable weights to be 0, in [0, 1). round(sparsity * N) of them are masked
            (or what is masked already, where that is more).
        scope: "global" ranks all weights together; "layer" masks the same fraction of every layer; "erk" gives each
            layer a density in proportion to (sum of its sides) / (product of its sides), so that small layers stay
            denser (Erdos-Renyi-Kernel, Evci et al. 2020, section 3).
        skip: names of layers, or of modules that contain them, left as they are and not counted in N.

    Raises:
        InputError: sparsity outside [0, 1), an unknown scope, an unknown name in `skip`, a model without such layers.
    """
    require_target(sparsity, scope)
    layers = layers_to_prune(model, skip)
    scores = {name: magnitudes(layer) for name, layer in layers.items()}
    if scope == "global":
        keep = _keep_largest(scores, sparsity)
    else:
        sizes = {name: score.numel() for name, score in scores.items()}
        shapes = {name: tuple(score.shape) for name, score in scores.items()}
        zeros = {n: round(sparsity * size) for n, size in sizes.items()} if scope == "layer" else erk(shapes, sparsity)
        keep = {name: _without_smallest(score, zeros[name]) for name, score in scores.items()}
    for name, layer in layers.items():
        apply_mask(layer, keep[name])
    return model


def require_target(sparsity: float, scope: str) -> None:
    """Raise an InputError for a sparsity or a scope that no model can be pruned to."""
    require_float("sparsity", sparsity, 0, 1, open_high=True)
    require_choice("scope", scope, SCOPES)


def erk(shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> dict[str, int]:
    """Weights to remove from each layer under Erdos-Renyi-Kernel; they sum to round(sparsity * N) exactly.

    A layer of sides (out, in[, height, width]) has density eps * sum(sides) / prod(sides). Where that exceeds 1 the
    layer stays dense and eps is solved again for the others, as in the authors' code (google-research/rigl).
    """
    size = {name: _product(shape) for name, shape in shapes.items()}
    total = sum(size.values())
    kept = total - round(sparsity * total)
    dense: set[str] = set()
    while True:
        budget = kept - sum(size[name] for name in dense)
        eps = budget / max(1, sum(sum(shapes[name]) for name in shapes if name not in dense))
        full = {name for name in shapes if name not in dense and eps * sum(shapes[name]) > size[name]}
        if not full:
            break
        dense |= full
    exact = {name: float(size[name]) if name in dense else eps * sum(shapes[name]) for name in shapes}
    counts = {name: int(exact[name]) for name in shapes}
    # largest remainders: the rounding errors of the layers cancel
    for name in sorted(shapes, key=lambda name: counts[name] - exact[name])[: kept - sum(counts.values())]:
        counts[name] += 1
    return {name: size[name] - counts[name] for name in shapes}


def _keep_largest(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Masks of all layers at once, by one ranking of all weights."""
    everything = torch.cat([score.flatten() for score in scores.values()])
    keep = _without_smallest(everything, round(sparsity * everything.numel()))
    parts = torch.split(keep, [score.numel() for score in scores.values()])
    return {name: part.view_as(score) for (name, score), part in zip(scores.items(), parts, strict=True)}


def _without_smallest(scores: Tensor, count: int) -> Tensor:
    """A mask of the shape of `scores`: False at the `count` smallest (the first of equals), and where masked before."""
    keep = scores.flatten() != MASKED
    keep[scores.flatten().argsort(stable=True)[:count]] = False
    return keep.view_as(scores)


def _product(sides: tuple[int, ...]) -> int:
    product = 1
    for side in sides:
        product *= side
    return product
