"""Structured pruning: attention heads, MLP units and token channels leave the model, which is smaller and faster."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from prune.anatomy import blocks, channel_sides, dim_of, heads_of, keep_only, note_shapes, require_vit
from prune.gates import learn_gates
from prune.importance import (
    IMPORTANCES,
    KINDS,
    Scores,
    calibration_set,
    channel_importance,
    magnitude_scores,
    taylor_scores,
)
from vit.config import ViTConfig
from vit.errors import InputError, require_choice, require_float, require_int
from vit.image_set import DataSplits, ImageSet
from vit.zoo import model_spec

Model = TypeVar("Model", bound=nn.Module)


def structured_prune(
    model: Model,
    heads: float = 0.3,
    mlp: float = 0.25,
    channels: float = 0.0,
    round_to: int = 8,
    *,
    importance: str | Scores = "magnitude",
    data: DataSplits | ImageSet | None = None,
) -> Model:
    """A smaller copy of the model without its weakest heads, MLP units and channels; the model itself stays as it is.

    By "magnitude" a head weighs the Frobenius norm of W_o [W_v b_v], as a share of its block's, and an MLP unit that of
    fc2_column x [fc1_row b]: what each can add to a token at all. A channel weighs the norm of all weights that read or
    write it. By "taylor" each weighs what the loss changes by without it, to first order (`taylor_scores`). By "gate"
    gates on what is cut are learned first, with the weights (`learn_gates`), and those nearest 0 go; a head's weighs
    its share of its block's.

    Whichever it is, a head or unit that adds nothing weighs least and takes nothing of the outputs with it. Channels
    pass through LayerNorm, so removing even one that is 0 changes its mean and variance, and with them the outputs.

    Args:
        model: a VisionTransformer, or a timm ViT or DeiT with plain blocks. Masks on its weights are cut with them.
        heads: fraction of all heads to remove, in [0, 1): round(heads * total) of them, ranked over the whole model.
            Every block keeps one. Removing a share p of heads and MLP units
            removes about p of the blocks' MACs, removing a share p of channels too; both together 1 - (1 - p)^2.
        mlp: fraction of the MLP units of every block to remove, in [0, 1).
        channels: fraction of the token's width to remove, in [0, 1), the same channels in every block.
        round_to: the widths left of MLP and token are multiples of it: the nearest one, at least one, at most the old.
        importance: "magnitude", "taylor", "gate", or the scores themselves.
        data: what "taylor" takes its calibration images from, and "gate" is trained on (splits then).

    Returns:
        A new model. A VisionTransformer's `config` describes it (head_dim, block_heads, block_hidden), so
        VisionTransformer(config) takes its weights.

    Raises:
        InputError: a fraction outside [0, 1), round_to < 1, an unknown importance or one without its data, scores of
            another shape or without those of what is cut, or a model this does not know how to cut (the reason is
            given): a quantised one, one with gated MLPs, MobileViT and other convolutional hybrids.

    >>> from vit import VisionTransformer, ViTConfig
    >>> small = structured_prune(VisionTransformer(ViTConfig()), heads=0.25, mlp=0.5)
    >>> sum(small.config.heads_of(i) for i in range(3)), small.config.block_hidden
    (9, (128, 128, 128))
    """
    shares = dict(zip(KINDS, (heads, mlp, channels), strict=True))
    require_cut(shares, round_to, importance)
    require_vit(model)
    smaller, scores = _weighed(model, importance, data, {name: share for name, share in shares.items() if share > 0})
    if heads > 0 and scores.heads is not None:
        _cut_heads(smaller, scores.heads, heads)
    if mlp > 0 and scores.units is not None:
        _cut_mlp(smaller, scores.units, mlp, round_to)
    if channels > 0 and scores.channels is not None:  # magnitudes of what is still there
        left = channel_importance(smaller) if importance == "magnitude" else scores.channels
        _cut_channels(smaller, left, channels, round_to)
    note_shapes(smaller)
    config = getattr(model, "config", None)
    if isinstance(config, ViTConfig):
        _note_config(smaller, config)
    elif channels > 0:  # what create_model builds a timm model from; the widths inside blocks it reads off the model
        smaller.timm_spec = model_spec(model) | {"embed_dim": dim_of(smaller), "num_heads": 1}  # type: ignore[assignment]
    return smaller


def require_cut(shares: Mapping[str, float], round_to: int, importance: str | Scores) -> None:
    """Raise an InputError for a share, a rounding or an importance by which no model can be cut."""
    for name, share in shares.items():
        require_float(name, share, 0, 1, open_high=True)
    require_int("round_to", round_to)
    if not isinstance(importance, Scores):
        require_choice("importance", importance, IMPORTANCES)


def _weighed(
    model: Model, importance: str | Scores, data: DataSplits | ImageSet | None, cuts: Mapping[str, float]
) -> tuple[Model, Scores]:
    """A copy of the model (for "gate" trained with its gates), and the weights of its units: of those in `cuts`."""
    if isinstance(importance, Scores):
        _require_scores(model, importance, cuts)
        return copy.deepcopy(model), importance
    if not cuts:
        return copy.deepcopy(model), Scores()
    if importance == "gate":
        return learn_gates(model, data, kinds=list(cuts))  # type: ignore[arg-type]  # which refuses all but splits
    copied = copy.deepcopy(model)
    scores = magnitude_scores(copied) if importance == "magnitude" else taylor_scores(copied, calibration_set(data))
    return copied, scores


def _require_scores(model: nn.Module, scores: Scores, cuts: Mapping[str, float]) -> None:
    parts = blocks(model)
    held = {
        "heads": scores.heads,
        "mlp": scores.units,
        "channels": None if scores.channels is None else [scores.channels],
    }
    given = {kind: [len(weight) for weight in weights] for kind, weights in held.items() if weights is not None}
    for kind, share in cuts.items():
        if kind not in given:
            raise InputError(kind, share, f"0 with scores of {' and '.join(given) or 'nothing'}, or scores of {kind}")
    wanted = {
        "heads": [heads_of(block) for block in parts],
        "mlp": [block.mlp.fc1.out_features for block in parts],
        "channels": [dim_of(model)],
    }
    if any(given[kind] != wanted[kind] for kind in given):
        raise InputError("importance", given, f"scores of this model's heads, units and channels: {wanted}")


def _cut_heads(model: nn.Module, weights: list[Tensor], fraction: float) -> None:
    kept = [set(range(len(weight))) for weight in weights]
    to_go = round(fraction * sum(len(weight) for weight in weights))
    weakest = torch.cat(weights).argsort(stable=True).tolist()
    places = [(index, head) for index, weight in enumerate(weights) for head in range(len(weight))]
    for index, head in (places[i] for i in weakest):
        if to_go and len(kept[index]) > 1:
            kept[index].remove(head)
            to_go -= 1
    for block, left in zip(blocks(model), kept, strict=True):
        _keep_heads(block.attn, heads_of(block), sorted(left))


def _keep_heads(attn: Any, heads: int, left: list[int]) -> None:
    width = attn.qkv.out_features // (3 * heads)
    chosen = torch.arange(heads * width, device=attn.qkv.weight.device).view(heads, width)[left].flatten()
    rows = torch.cat([chosen + part * heads * width for part in range(3)])  # of q, k and v
    keep_only(attn.qkv, "weight", 0, rows)
    keep_only(attn.qkv, "bias", 0, rows)
    keep_only(attn.proj, "weight", 1, chosen)
    if hasattr(attn, "num_heads"):  # timm's names
        attn.num_heads, attn.attn_dim = len(left), len(chosen)
    else:
        attn.heads = len(left)


def _cut_mlp(model: nn.Module, weights: list[Tensor], fraction: float, round_to: int) -> None:
    for block, weight in zip(blocks(model), weights, strict=True):
        left = _strongest(weight, fraction, round_to)
        keep_only(block.mlp.fc1, "weight", 0, left)
        keep_only(block.mlp.fc1, "bias", 0, left)
        keep_only(block.mlp.fc2, "weight", 1, left)


def _cut_channels(model: nn.Module, weight: Tensor, fraction: float, round_to: int) -> None:
    left = _strongest(weight, fraction, round_to)
    for name, side in channel_sides(model).items():
        keep_only(_owner(model, name)[0], name.rpartition(".")[2], side, left)


def _strongest(importance: Tensor, fraction: float, round_to: int) -> Tensor:
    """Indices, in order, of the units that stay; of equals the later stay."""
    width = len(importance)
    left = max(1, round(width * (1 - fraction) / round_to)) * round_to
    return importance.argsort(stable=True)[width - min(width, left) :].sort().values


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, Tensor]:
    """The module that holds the parameter `name`, and the parameter as it shows it."""
    path, _, last = name.rpartition(".")
    module = model.get_submodule(path)
    return module, getattr(module, last)


def _note_config(model: Any, old: ViTConfig) -> None:
    heads = tuple(heads_of(block) for block in blocks(model))
    hidden = tuple(block.mlp.fc1.out_features for block in blocks(model))
    even = len(set(heads)) == 1
    shape = replace(
        old,
        dim=dim_of(model),
        heads=heads[0] if even else old.heads,
        head_dim=old.head_width,
        block_heads=None if even else heads,
        block_hidden=hidden,
    )
    if shape.dim == shape.head_width * shape.heads:
        shape = replace(shape, head_dim=None)
    if all(width == shape.hidden for width in hidden):
        shape = replace(shape, block_hidden=None)
    model.config = shape
