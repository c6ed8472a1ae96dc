"""What a model consists of, layer by layer: shapes, multiply-accumulates, bits, sparsity. Needs no torch itself.

This is what the floors above share: the profile sums it, the hardware is laid out by it, the report tabulates it.
A layer's bit widths travel on the module as `weight_bits` and `activation_bits`, its level set as `weight_scheme` (all
set by quant), its mask as its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vit.config import CONV_STEM_WIDTH, ViTConfig

if TYPE_CHECKING:
    from torch import nn

FLOAT_BITS = 32
TIMM_NAMES = {"stem.proj": "patch_embed.proj"}  # where timm's name of a layer is not ours


@dataclass(frozen=True)
class LayerInfo:
    """One matrix product of a model, for one image.

    Attributes:
        name: path of the module; the two attention products of a block are `blocks.N.attn.scores` and `.context`.
        kind: "linear", "conv" or "attention" (a product of two activations: no weights).
        rows: output positions it is applied to (tokens, or pixels; heads x tokens for attention).
        inner: length of each dot product.
        cols: outputs at each position.
        params: weights and biases.
        weight_bits, activation_bits: bits a value is stored with; 32 means float.
        sparsity: fraction of weights that are exactly 0.
        weight_scheme: level set of the weights, as "pot4" or "int8"; empty where the model names none.
    """

    name: str
    kind: str
    rows: int
    inner: int
    cols: int
    params: int
    weight_bits: int = FLOAT_BITS
    activation_bits: int = FLOAT_BITS
    sparsity: float = 0.0
    weight_scheme: str = ""

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image; 1 MAC = one multiplication and its addition."""
        return self.rows * self.inner * self.cols


def layers_of(config: ViTConfig) -> list[LayerInfo]:
    """Every matrix product of a VisionTransformer of this shape, in the order of execution."""
    c, tokens, found = config, config.tokens, []

    def linear(name: str, rows: int, inner: int, cols: int) -> None:
        found.append(LayerInfo(name, "linear", rows, inner, cols, inner * cols + cols))

    if c.stem == "patch":
        inner = c.in_channels * c.patch_size**2
        found.append(LayerInfo("stem.proj", "conv", c.grid**2, inner, c.dim, inner * c.dim + c.dim))
    else:
        found.extend(_conv_stem(c))
    for i in range(c.depth):
        block, heads, inside = f"blocks.{i}", c.heads_of(i), c.heads_of(i) * c.head_width
        linear(f"{block}.attn.qkv", tokens, c.dim, 3 * inside)
        found.append(LayerInfo(f"{block}.attn.scores", "attention", heads * tokens, c.head_width, tokens, 0))
        found.append(LayerInfo(f"{block}.attn.context", "attention", heads * tokens, tokens, c.head_width, 0))
        linear(f"{block}.attn.proj", tokens, inside, c.dim)
        linear(f"{block}.mlp.fc1", tokens, c.dim, c.hidden_of(i))
        linear(f"{block}.mlp.fc2", tokens, c.hidden_of(i), c.dim)
    if c.pool == "seq":
        linear("pool_score", tokens, c.dim, 1)
        found.append(LayerInfo("pool", "attention", 1, tokens, c.dim, 0))
    linear("head", 1, c.dim, c.num_classes)
    return found


def _conv_stem(config: ViTConfig) -> list[LayerInfo]:
    count = config.patch_size.bit_length() - 1
    widths = [config.in_channels] + [CONV_STEM_WIDTH] * (count - 1) + [config.dim]
    sizes = [config.image_size // 2**i for i in range(count)]
    return [
        LayerInfo(f"stem.convs.{i}", "conv", sizes[i] ** 2, 9 * widths[i], widths[i + 1], 9 * widths[i] * widths[i + 1])
        for i in range(count)
    ]


def describe(model_or_config: nn.Module | ViTConfig | Mapping[str, Any]) -> list[LayerInfo]:
    """`layers_of`, with the bits and sparsity that a model's modules carry.

    Args:
        model_or_config: a VisionTransformer (plain, pruned or prepared for QAT), a timm ViT or DeiT, a ViTConfig, or a
            dict of its fields.
    """
    if isinstance(model_or_config, ViTConfig):
        return layers_of(model_or_config)
    if isinstance(model_or_config, Mapping):
        return layers_of(ViTConfig.from_dict(model_or_config))
    modules = dict(model_or_config.named_modules())
    modules |= {ours: modules[timms] for ours, timms in TIMM_NAMES.items() if timms in modules}
    return [_annotated(info, modules.get(info.name)) for info in layers_of(config_of(model_or_config))]


def _annotated(info: LayerInfo, module: nn.Module | None) -> LayerInfo:
    if module is None:
        return info
    weight: Any = module.weight
    return replace(
        info,
        weight_bits=int(getattr(module, "weight_bits", FLOAT_BITS)),
        activation_bits=int(getattr(module, "activation_bits", FLOAT_BITS)),
        sparsity=float((weight == 0).sum().item()) / max(1, weight.numel()),
        weight_scheme=str(getattr(module, "weight_scheme", "")),
    )


def config_of(model: nn.Module) -> ViTConfig:
    """The ViTConfig a model has: its own, or the equal one of a timm ViT or DeiT."""
    config = getattr(model, "config", None)
    if isinstance(config, ViTConfig):
        return config
    from vit.zoo import timm_config

    return timm_config(model)
