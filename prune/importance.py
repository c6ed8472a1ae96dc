"""How much each attention head, MLP unit and token channel matters: by magnitude, or by the gradient of the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prune.anatomy import blocks, channel_sides, heads_of, named_plainly
from vit.errors import InputError
from vit.image_set import DataSplits, ImageSet
from vit.preprocessing import as_trained

KINDS = ("heads", "mlp", "channels")  # of units, as `structured_prune` names their shares
IMPORTANCES = ("magnitude", "taylor", "gate")
CALIBRATION_IMAGES = 512
_BATCH = 128


@dataclass(frozen=True)
class Scores:
    """The weight of every unit; the lightest go first. A kind that nobody weighed is None, and is not to be cut.

    Attributes:
        heads: of each block, (heads,); compared over the whole model.
        units: of each block's MLP, (hidden,); compared within the block.
        channels: (dim,).
    """

    heads: list[Tensor] | None = None
    units: list[Tensor] | None = None
    channels: Tensor | None = None


def magnitude_scores(model: nn.Module) -> Scores:
    """What each unit can add at all, by the norms of its weights; a head's as a share of its block's."""
    weights = [head_importance(block.attn, heads_of(block)) for block in blocks(model)]
    shares = [weight / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny) for weight in weights]
    return Scores(shares, [unit_importance(block.mlp) for block in blocks(model)], channel_importance(model))


def taylor_scores(model: nn.Module, images: ImageSet) -> Scores:
    """Sum over a unit's weights and biases of |w dL/dw|, L the mean cross-entropy of the images, in evaluation mode.

    To first order |w dL/dw| is what the loss changes by when w becomes 0 (Molchanov et al. 2019, equation 5, before
    squaring). A head owns its rows of qkv and its columns of proj, an MLP unit its row of fc1 and column of fc2, a
    channel all that reads or writes it.
    """
    named = named_plainly(model)
    saliency = {name: value.abs() for name, value in _weight_times_gradient(model, named, images).items()}
    heads, units = [], []
    for index, block in enumerate(blocks(model)):
        attn, mlp, count = f"blocks.{index}.attn", f"blocks.{index}.mlp", heads_of(block)
        rows = _by_row(saliency, f"{attn}.qkv").view(3, count, -1).sum(dim=(0, 2))
        heads.append(rows + saliency[f"{attn}.proj.weight"].sum(dim=0).view(count, -1).sum(dim=1))
        units.append(_by_row(saliency, f"{mlp}.fc1") + saliency[f"{mlp}.fc2.weight"].sum(dim=0))
    sides = ((saliency[name], side) for name, side in channel_sides(model).items())
    parts = [part.movedim(side, 0).reshape(part.shape[side], -1).sum(dim=1) for part, side in sides]
    return Scores(heads, units, torch.stack(parts).sum(dim=0))


def calibration_set(data: DataSplits | ImageSet | None) -> ImageSet:
    """The images that gradients are taken on: of the training images CALIBRATION_IMAGES, drawn by a fixed seed."""
    images = data.train if isinstance(data, DataSplits) else data
    if not isinstance(images, ImageSet):
        raise InputError("data", images, "labelled images, as load_data gives them", "this importance is learned")
    chosen = np.random.default_rng(0).permutation(len(images))[:CALIBRATION_IMAGES]
    return images.take(chosen)


@torch.no_grad()
def head_importance(attn: Any, heads: int) -> Tensor:
    """||W_o^h [W_v^h b_v^h]||_F of each head, shape (heads,)."""
    values = _with_bias(attn.qkv)[2 * attn.qkv.out_features // 3 :]
    values = values.view(heads, -1, values.shape[1])  # (heads, head_dim, dim + 1)
    outputs = attn.proj.weight.view(len(attn.proj.weight), heads, -1).movedim(1, 0)
    return (outputs @ values).flatten(1).norm(dim=1)  # (heads, dim, dim + 1) -> (heads,)


@torch.no_grad()
def unit_importance(mlp: Any) -> Tensor:
    """||fc2_column|| * ||[fc1_row b]|| of each hidden unit, shape (hidden,)."""
    into, out = _with_bias(mlp.fc1), mlp.fc2.weight
    return into.norm(dim=1) * out.norm(dim=0)


@torch.no_grad()
def channel_importance(model: nn.Module) -> Tensor:
    """Norm of all weights that read or write each channel of the token, shape (dim,)."""
    squares = []
    for name, side in channel_sides(model).items():
        path, _, last = name.rpartition(".")
        parameter = getattr(model.get_submodule(path), last)
        squares.append(parameter.movedim(side, 0).reshape(parameter.shape[side], -1).square().sum(dim=1))
    return torch.stack(squares).sum(dim=0).sqrt()


def _weight_times_gradient(model: nn.Module, named: dict[str, nn.Parameter], images: ImageSet) -> dict[str, Tensor]:
    place = next(iter(named.values())).device
    was_training = model.training
    wanted = [parameter.requires_grad for parameter in named.values()]
    total = {name: torch.zeros_like(parameter) for name, parameter in named.items()}
    model.eval().requires_grad_(True)
    try:
        for batch, labels in as_trained(model, images).batches(_BATCH, place):
            loss = F.cross_entropy(model(batch), labels, reduction="sum") / len(images)
            gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
            for name, gradient in zip(named, gradients, strict=True):
                if gradient is not None:
                    total[name] += gradient
    finally:
        model.train(was_training)
        for parameter, flag in zip(named.values(), wanted, strict=True):
            parameter.requires_grad_(flag)
    return {name: (parameter.detach() * total[name]) for name, parameter in named.items()}


def _by_row(saliency: dict[str, Tensor], layer: str) -> Tensor:
    """Of a linear layer's outputs: its row of the weight and, where there is one, its bias."""
    rows = saliency[f"{layer}.weight"].sum(dim=1)
    return rows + saliency[f"{layer}.bias"] if f"{layer}.bias" in saliency else rows


def _with_bias(layer: nn.Linear) -> Tensor:
    """The weight with the bias, if there is one, as its last column: (out, in + 1)."""
    return layer.weight if layer.bias is None else torch.cat([layer.weight, layer.bias[:, None]], dim=1)
