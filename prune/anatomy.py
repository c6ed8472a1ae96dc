"""Where the width of a ViT lives: which side of which parameter each head, MLP unit and channel owns.

A VisionTransformer and a timm ViT or DeiT have the same bones under two sets of names; this file knows both.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from vit.errors import InputError
from vit.layers import FLOAT_BITS
from vit.masks import get_mask, remove_mask, set_mask

# side of each parameter that runs along the token's channels; None: it has no such side. Nothing else may occur.
_CHANNEL_SIDES = [
    (re.compile(pattern), side)
    for pattern, side in [
        (r"(stem|patch_embed)\.proj\.(weight|bias)", 0),
        (r"stem\.convs\.\d+\.weight", 0),  # the last one; the others are taken out in `channel_sides`
        (r"(cls_token|dist_token|reg_token|pos_embed)", 2),
        (r"(norm|norm_pre|fc_norm)\.(weight|bias)", 0),
        (r"blocks\.\d+\.(norm1|norm2)\.(weight|bias)", 0),
        (r"blocks\.\d+\.(ls1|ls2)\.gamma", 0),
        (r"blocks\.\d+\.attn\.qkv\.weight", 1),
        (r"blocks\.\d+\.attn\.proj\.(weight|bias)", 0),
        (r"blocks\.\d+\.attn\.(q_norm|k_norm)\.(weight|bias)", None),
        (r"blocks\.\d+\.mlp\.fc1\.weight", 1),
        (r"blocks\.\d+\.mlp\.fc2\.(weight|bias)", 0),
        (r"blocks\.\d+\.(attn\.qkv|mlp\.fc1)\.bias", None),
        (r"(head|head_dist|pool_score)\.weight", 1),
        (r"(head|head_dist|pool_score)\.bias", None),
    ]
]


def require_vit(model: nn.Module) -> None:
    """Raise an InputError unless every parameter of the model is one this file knows how to cut."""
    if not isinstance(getattr(model, "blocks", None), (nn.ModuleList, nn.Sequential)):
        raise _unsupported(model, "it has no list of transformer blocks")
    for name, module in model.named_modules():
        if getattr(module, "weight_bits", FLOAT_BITS) != FLOAT_BITS:
            raise InputError("model", type(model).__name__, "a floating-point model", f"{name} is quantised: cut first")
    if getattr(model, "rope", None) is not None:
        raise _unsupported(model, "it has rotary embeddings")
    for name in named_plainly(model):
        if not any(pattern.fullmatch(name) for pattern, _ in _CHANNEL_SIDES):
            raise _unsupported(model, f"no rule for its parameter {name}")
    for block in blocks(model):
        if block.mlp.fc2.in_features != block.mlp.fc1.out_features:
            raise _unsupported(model, "its MLP is gated")


def blocks(model: nn.Module) -> list[Any]:
    """The transformer blocks, each with .attn.{qkv, proj} and .mlp.{fc1, fc2}."""
    return list(model.get_submodule("blocks").children())


def heads_of(block: Any) -> int:
    """Attention heads of a block."""
    return int(block.attn.heads if hasattr(block.attn, "heads") else block.attn.num_heads)


def dim_of(model: nn.Module) -> int:
    """Width of a token."""
    return int(blocks(model)[0].attn.qkv.in_features)


def channel_sides(model: nn.Module) -> dict[str, int]:
    """{parameter: the side that runs along the token's channels}, for every parameter that has one."""
    convs = len(getattr(getattr(model, "stem", None), "convs", ()))
    inner_convs = {f"stem.convs.{i}.weight" for i in range(convs - 1)}
    sides = {}
    for name in named_plainly(model):
        side = next(side for pattern, side in _CHANNEL_SIDES if pattern.fullmatch(name))
        if side is not None and name not in inner_convs:
            sides[name] = side
    return sides


@torch.no_grad()
def keep_only(module: nn.Module, name: str, side: int, index: Tensor) -> None:
    """Shrink the parameter `name` of `module` to `index` along `side`; a mask on it shrinks with it."""
    mask = get_mask(module) if name == "weight" else None
    if mask is not None:
        remove_mask(module)
    old = getattr(module, name)
    if old is None:  # a layer without bias
        return
    setattr(module, name, nn.Parameter(old.detach().index_select(side, index), requires_grad=old.requires_grad))
    if mask is not None:
        set_mask(module, mask.index_select(side, index))


def note_shapes(model: nn.Module) -> None:
    """Make the shapes that modules remember agree with their parameters."""
    module: Any
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.Conv2d):
            module.out_channels, module.in_channels = module.weight.shape[:2]
        elif hasattr(module, "normalized_shape") and module.weight is not None:  # LayerNorm, and timm's RmsNorm
            module.normalized_shape = tuple(module.weight.shape)
    for name in ("embed_dim", "num_features", "head_hidden_size"):  # timm's
        if hasattr(model, name):
            setattr(model, name, dim_of(model))


def named_plainly(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by the names they have without parametrizations."""
    plain = re.compile(r"parametrizations\.(\w+)\.original")
    return {plain.sub(r"\1", name): parameter for name, parameter in model.named_parameters()}


def _unsupported(model: nn.Module, why: str) -> InputError:
    return InputError("model", type(model).__name__, "a VisionTransformer or a plain timm ViT or DeiT", why)
