"""Structured pruning: attention heads, MLP units and token channels leave the model, which is smaller and faster."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from prune.anatomy import blocks, channel_sides, dim_of, heads_of, keep_only, note_shapes, require_vit
from vit.config import ViTConfig
from vit.errors import require_float, require_int
from vit.zoo import model_spec

Model = TypeVar("Model", bound=nn.Module)


def structured_prune(
    model: Model, heads: float = 0.3, mlp: float = 0.25, channels: float = 0.0, round_to: int = 8
) -> Model:
    """A smaller copy of the model without its weakest heads, MLP units and channels; the model itself stays as it is.

    Importance is by magnitude. A head weighs the Frobenius norm of W_o [W_v b_v], an MLP unit that of
    fc2_column x [fc1_row b]: what each can add to a token at all, so a unit with either side 0 weighs 0 and its removal
    leaves the outputs as they are. A channel weighs the norm of all weights that read or write it; channels pass
    through LayerNorm, so removing even one that is 0 changes its mean and variance, and with them the outputs.

    Args:
        model: a VisionTransformer, or a timm ViT or DeiT with plain blocks. Masks on its weights are cut with them.
        heads: fraction of all heads to remove, in [0, 1): round(heads * total) of them, ranked over the whole model by
            their share of their block's weight. Every block keeps one. Removing a share p of heads and MLP units
            removes about p of the blocks' MACs, removing a share p of channels too; both together 1 - (1 - p)^2.
        mlp: fraction of the MLP units of every block to remove, in [0, 1).
        channels: fraction of the token's width to remove, in [0, 1), the same channels in every block.
        round_to: the widths left of MLP and token are multiples of it: the nearest one, at least one, at most the old.

    Returns:
        A new model. A VisionTransformer's `config` describes it (head_dim, block_heads, block_hidden), so
        VisionTransformer(config) takes its weights.

    Raises:
        InputError: a fraction outside [0, 1), round_to < 1, or a model this does not know how to cut (the reason is
            given): a quantised one, one with gated MLPs, MobileViT and other convolutional hybrids.

    >>> from vit import VisionTransformer, ViTConfig
    >>> small = structured_prune(VisionTransformer(ViTConfig()), heads=0.25, mlp=0.5)
    >>> sum(small.config.heads_of(i) for i in range(3)), small.config.block_hidden
    (9, (128, 128, 128))
    """
    for name, value in (("heads", heads), ("mlp", mlp), ("channels", channels)):
        require_float(name, value, 0, 1, open_high=True)
    require_int("round_to", round_to)
    require_vit(model)
    smaller = copy.deepcopy(model)
    if heads > 0:
        _cut_heads(smaller, heads)
    if mlp > 0:
        _cut_mlp(smaller, mlp, round_to)
    if channels > 0:
        _cut_channels(smaller, channels, round_to)
    note_shapes(smaller)
    config = getattr(model, "config", None)
    if isinstance(config, ViTConfig):
        _note_config(smaller, config)
    elif channels > 0:  # what create_model builds a timm model from; the widths inside blocks it reads off the model
        smaller.timm_spec = model_spec(model) | {"embed_dim": dim_of(smaller), "num_heads": 1}  # type: ignore[assignment]
    return smaller


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
        parameter = _owner(model, name)[1]
        squares.append(parameter.movedim(side, 0).reshape(parameter.shape[side], -1).square().sum(dim=1))
    return torch.stack(squares).sum(dim=0).sqrt()


def _cut_heads(model: nn.Module, fraction: float) -> None:
    shares = []
    for block in blocks(model):
        weight = head_importance(block.attn, heads_of(block))
        shares.append(weight / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny))
    kept = [set(range(len(share))) for share in shares]
    to_go = round(fraction * sum(len(share) for share in shares))
    weakest = torch.cat(shares).argsort(stable=True).tolist()
    places = [(index, head) for index, share in enumerate(shares) for head in range(len(share))]
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


def _cut_mlp(model: nn.Module, fraction: float, round_to: int) -> None:
    for block in blocks(model):
        left = _strongest(unit_importance(block.mlp), fraction, round_to)
        keep_only(block.mlp.fc1, "weight", 0, left)
        keep_only(block.mlp.fc1, "bias", 0, left)
        keep_only(block.mlp.fc2, "weight", 1, left)


def _cut_channels(model: nn.Module, fraction: float, round_to: int) -> None:
    left = _strongest(channel_importance(model), fraction, round_to)
    for name, side in channel_sides(model).items():
        keep_only(_owner(model, name)[0], name.rpartition(".")[2], side, left)


def _strongest(importance: Tensor, fraction: float, round_to: int) -> Tensor:
    """Indices, in order, of the units that stay; of equals the later stay."""
    width = len(importance)
    left = max(1, round(width * (1 - fraction) / round_to)) * round_to
    return importance.argsort(stable=True)[width - min(width, left) :].sort().values


def _with_bias(layer: nn.Linear) -> Tensor:
    """The weight with the bias, if there is one, as its last column: (out, in + 1)."""
    return layer.weight if layer.bias is None else torch.cat([layer.weight, layer.bias[:, None]], dim=1)


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
