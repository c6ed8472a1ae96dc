"""Models by name: a ViTConfig, a dict of its fields, any timm architecture, or a checkpoint on disk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vit.config import ViTConfig
from vit.errors import InputError, did_you_mean, require_int
from vit.model import VisionTransformer
from vit.torchvision_shim import import_timm

WIDTHS = ("head_dim", "block_heads", "block_hidden")  # what structured pruning changes inside the blocks


def create_model(
    spec: ViTConfig | Mapping[str, Any] | str | Path, num_classes: int = 10, image_size: int = 32, in_channels: int = 3
) -> nn.Module:
    """A model from its description, with fresh weights unless it is a checkpoint.

    Args:
        spec: one of
            a ViTConfig, taken as it is;
            a dict of ViTConfig fields, where the arguments below fill in what is missing;
            the name of a timm architecture, such as "vit_tiny_patch16_224" or "mobilevit_xxs", without its weights;
            a dict {"timm": name, ...} whose other keys go to timm, such as {"timm": name, "patch_size": 4};
            the path of a checkpoint, which keeps its own classes, size and channels.
        num_classes, image_size, in_channels: the task, for a dict or a timm name.

    Raises:
        InputError: unknown name (the nearest known one is suggested), impossible shape, damaged checkpoint.
    """
    if isinstance(spec, ViTConfig):
        return VisionTransformer(spec)
    task = {"num_classes": num_classes, "image_size": image_size, "in_channels": in_channels}
    if isinstance(spec, Mapping):
        filled = {**task, **spec}
        return _timm_model(filled) if "timm" in spec else VisionTransformer(ViTConfig.from_dict(filled))
    if isinstance(spec, (str, Path)):
        if Path(spec).exists() or Path(spec).suffix == ".safetensors":
            from vit.checkpoint import load_checkpoint

            return load_checkpoint(spec).model
        return _timm_model({**task, "timm": str(spec)})
    raise InputError("model", spec, "a ViTConfig, a dict of its fields, a timm name or the path of a checkpoint")


def model_spec(model: nn.Module) -> dict[str, Any]:
    """The dict from which `create_model` builds a model of this shape.

    Raises:
        InputError: neither a VisionTransformer nor a timm model.
    """
    config = getattr(model, "config", None)
    if isinstance(config, ViTConfig):
        return config.to_dict()
    spec = _timm_spec(model)
    if _has_plain_blocks(model) and _widths(model) != _widths(_built_on_meta(spec)):
        spec |= _widths(model)
    return spec


def timm_config(model: nn.Module) -> ViTConfig:
    """The ViTConfig whose VisionTransformer computes the same function as this timm ViT or DeiT.

    Raises:
        InputError: another architecture, or a ViT with parts that ours does not have (each is named).
    """
    if not _is_timm_vit(model):
        raise InputError("model", type(model).__name__, "a VisionTransformer of tilevit, or a timm ViT or DeiT")
    vit: Any = model
    foreign = _foreign_parts(vit)
    if foreign:
        raise InputError("model", _timm_name(vit) or "timm ViT", "a plain ViT or DeiT", "it has " + ", ".join(foreign))
    widths = _widths(vit)
    heads, hidden, head_dim = widths["block_heads"], widths["block_hidden"], widths["head_dim"]
    fields: dict[str, Any] = {
        "image_size": vit.patch_embed.img_size[0],
        "patch_size": vit.patch_embed.patch_size[0],
        "in_channels": vit.patch_embed.proj.in_channels,
        "num_classes": vit.head.out_features,
        "dim": vit.embed_dim,
        "depth": len(heads),
        "heads": heads[0],
        "mlp_ratio": hidden[0] / vit.embed_dim,
        "pool": "cls" if vit.has_class_token else "mean",
        "drop_path": float(getattr(vit.blocks[-1].drop_path1, "drop_prob", None) or 0.0),
    }
    if len(set(heads)) > 1:
        fields["block_heads"] = heads
    if len(set(hidden)) > 1 or int(vit.embed_dim * fields["mlp_ratio"]) != hidden[0]:
        fields["block_hidden"] = hidden
    if head_dim * heads[0] != vit.embed_dim or len(set(heads)) > 1:
        fields["head_dim"] = head_dim
    return ViTConfig(**fields)


def _is_timm_vit(model: nn.Module) -> bool:
    return type(model).__name__ == "VisionTransformer" and type(model).__module__ == "timm.models.vision_transformer"


def _has_plain_blocks(model: Any) -> bool:
    """Whether `_widths` can be read off this timm model's blocks and set in them, whatever it has around them."""
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, (nn.Sequential, nn.ModuleList)) or not len(blocks):
        return False
    return all(_is_plain_block(block) for block in blocks)


def _is_plain_block(block: Any) -> bool:
    attention: Any = getattr(block, "attn", None)
    mlp: Any = getattr(block, "mlp", None)
    layers = [getattr(attention, name, None) for name in ("qkv", "proj")]
    layers += [getattr(mlp, name, None) for name in ("fc1", "fc2")]
    if not all(isinstance(layer, nn.Linear) for layer in layers):
        return False
    gated = mlp.fc2.in_features != mlp.fc1.out_features
    return hasattr(attention, "num_heads") and hasattr(attention, "head_dim") and not gated


def _foreign_parts(vit: Any) -> list[str]:
    """What this timm ViT has and ours has not, in words."""
    block, attention = vit.blocks[0], vit.blocks[0].attn
    image, patch = vit.patch_embed.img_size, vit.patch_embed.patch_size
    checks = {
        "register tokens": vit.num_prefix_tokens != int(vit.has_class_token),
        "no position of the class token": vit.has_class_token and vit.no_embed_class,
        "no positions": vit.pos_embed is None,
        f"{vit.global_pool!r} pooling": vit.global_pool != ("token" if vit.has_class_token else "avg"),
        "a norm after pooling": not isinstance(vit.fc_norm, nn.Identity),
        "a norm before the blocks": not isinstance(vit.norm_pre, nn.Identity),
        "no classifier": not isinstance(vit.head, nn.Linear),
        "rectangular images": image is None or image[0] != image[1] or patch[0] != patch[1],
        "another kind of block": type(block).__name__ != "Block",
        "layer scale": not isinstance(getattr(block, "ls1", None), nn.Identity),
        "another kind of MLP": type(block.mlp).__name__ != "Mlp" or not isinstance(block.mlp.act, nn.GELU),
        "query and key norms": not isinstance(getattr(attention, "q_norm", None), nn.Identity),
        "a norm inside attention": not isinstance(getattr(attention, "norm", nn.Identity()), nn.Identity),
        "gated attention": getattr(attention, "gate", None) is not None,
        "layers without bias": any(
            layer.bias is None for layer in vit.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))
        ),
    }
    return [part for part, present in checks.items() if present]


def _timm_model(spec: Mapping[str, Any]) -> nn.Module:
    timm = import_timm()
    options = dict(spec)
    name = options.pop("timm")
    if not isinstance(name, str) or not timm.is_model(name):
        known = timm.list_models()
        near = did_you_mean(name, known)
        allowed = "a checkpoint path, a dict of ViTConfig fields, or a timm architecture"
        raise InputError("model", str(name), allowed, near)
    widths = {key: options.pop(key) for key in WIDTHS if options.get(key) is not None}
    size = require_int("image_size", options.pop("image_size"))
    options["num_classes"] = require_int("num_classes", options["num_classes"])
    options["in_chans"] = require_int("in_channels", options.pop("in_channels"))
    if timm.get_pretrained_cfg(name).fixed_input_size:
        options["img_size"] = size
    model = _built_by_timm(timm, name, options)
    model.timm_spec = {**spec, "timm": name}
    if widths:
        if not _has_plain_blocks(model):
            raise InputError("model", name, f"a timm ViT or DeiT where {', '.join(widths)} is given")
        _set_block_widths(model, ViTConfig.from_dict({**_shape_of_blocks(model), **widths}))
    return model


def _built_by_timm(timm: Any, name: str, options: dict[str, Any]) -> Any:
    try:
        model = timm.create_model(name, **options)
    except (TypeError, ValueError, AssertionError, RuntimeError, ZeroDivisionError) as error:
        shown = ", ".join(f"{key}={value}" for key, value in options.items())
        raise InputError("model", name, "options that this timm architecture takes", f"{shown}: {error}") from error
    patches = getattr(getattr(model, "patch_embed", None), "num_patches", None)
    if patches == 0:
        size = f"image_size {options['img_size']} is smaller than one patch"
        raise InputError("model", name, "a model whose patches fit the image", size)
    return model


def _widths(vit: Any) -> dict[str, Any]:
    """The values of WIDTHS that describe this timm ViT."""
    blocks = list(vit.blocks)
    return {
        "head_dim": blocks[0].attn.head_dim,
        "block_heads": [block.attn.num_heads for block in blocks],
        "block_hidden": [block.mlp.fc1.out_features for block in blocks],
    }


def _dim(vit: Any) -> int:
    return int(vit.blocks[0].mlp.fc1.in_features)


def _shape_of_blocks(vit: Any) -> dict[str, Any]:
    """The fields of ViTConfig that the blocks of a timm ViT have, whether or not ours can express the rest of it."""
    widths = _widths(vit)
    return {"dim": _dim(vit), "depth": len(vit.blocks), "heads": widths["block_heads"][0], **widths}


def _set_block_widths(model: Any, config: ViTConfig) -> None:
    """Give the blocks of a timm ViT fresh layers of the widths in `config`."""
    for i, block in enumerate(model.blocks):
        heads, hidden = config.heads_of(i), config.hidden_of(i)
        inside, attention, mlp = heads * config.head_width, block.attn, block.mlp
        attention.num_heads, attention.head_dim, attention.attn_dim = heads, config.head_width, inside
        attention.scale = config.head_width**-0.5
        attention.qkv = _resized(attention.qkv, config.dim, 3 * inside)
        attention.proj = _resized(attention.proj, inside, config.dim)
        mlp.fc1, mlp.fc2 = _resized(mlp.fc1, config.dim, hidden), _resized(mlp.fc2, hidden, config.dim)
        for name in ("q_norm", "k_norm"):
            norm: Any = getattr(attention, name, None)
            if getattr(norm, "weight", None) is not None:
                setattr(attention, name, type(norm)(config.head_width, eps=norm.eps))


def _resized(layer: nn.Linear, inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=layer.bias is not None)


def _timm_spec(model: Any) -> dict[str, Any]:
    """What `create_model` was given for this timm model, or the same worked out from a model that timm built itself."""
    spec = getattr(model, "timm_spec", None)
    if spec is not None:
        return {key: value for key, value in spec.items() if key not in WIDTHS}
    name = _timm_name(model)
    if name is None:
        raise InputError("model", type(model).__name__, "a VisionTransformer of tilevit or a model of timm")
    embed = getattr(model, "patch_embed", None)
    size = getattr(embed, "img_size", None) or model.pretrained_cfg["input_size"][1:]
    patch = getattr(embed, "patch_size", None)
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    spec = {"timm": name, "num_classes": model.num_classes, "image_size": size[0], "in_channels": first.in_channels}
    usual = re.search(r"patch(\d+)", name)
    if patch is not None and usual is not None and patch[0] != int(usual[1]):
        spec["patch_size"] = patch[0]
    if _has_plain_blocks(model):
        built: Any = _built_on_meta(spec)
        if len(model.blocks) != len(built.blocks):
            spec["depth"] = len(model.blocks)
        if _dim(model) != _dim(built):
            spec |= {"embed_dim": _dim(model), "num_heads": 1}  # the heads there are come with the other widths
    return spec


def _built_on_meta(spec: Mapping[str, Any]) -> nn.Module:
    """The model of this spec without memory for its weights."""
    with torch.device("meta"):
        return create_model(spec)


def _timm_name(model: Any) -> str | None:
    config = getattr(model, "pretrained_cfg", None)
    return config.get("architecture") if isinstance(config, Mapping) else None
