"""Quantisation-aware training: `prepare_qat` turns a float model into one that trains on rounded values."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quant import modules as quantised
from quant.config import QuantConfig
from quant.fake_quant import Quantizer
from vit.attention_core import AttentionWithCore, put_core, subclass
from vit.checkpoint import load_checkpoint, save_checkpoint
from vit.errors import InputError
from vit.layers import config_of
from vit.masks import get_mask, set_mask
from vit.model import Attention, ScaledDotProduct, VisionTransformer

KIND = "qat"
_CALIBRATION_IMAGES = 32


def prepare_qat(model: nn.Module, config: QuantConfig | None = None, calibration: Tensor | None = None) -> nn.Module:
    """A copy of the model that computes with quantised weights and activations, ready to be trained; `model` stays.

    Every nn.Linear and the stem's convolutions become subclasses that keep their `weight` and `bias`, every attention
    core rounds queries, keys, values and probabilities, and LayerNorm and GELU evaluate by the one definition that the
    packed engine has. The copy trains in any loop. A float state dict loads into it with no missing keys: the scales
    are then fitted anew. Masks stay, and a pruned weight is exactly 0.

    Args:
        model: a VisionTransformer, or a timm ViT or DeiT.
        config: what is quantised, and how; QuantConfig() by default.
        calibration: normalised images (N, C, H, W), a few dozen are enough, to which the activation scales are first
            fitted; without it images of random colour noise. The scales are learned afterwards either way.

    Returns:
        the prepared copy, in the model's training mode and on its device. It carries `quant_config`, and its layers
        carry `weight_bits`, `activation_bits` and `weight_scheme`.

    Raises:
        InputError: the model is prepared already, has no layer that `config` quantises, or none that a pattern of its
            weights fits.
    """
    config = config or QuantConfig()
    if is_prepared(model):
        raise InputError("model", type(model).__name__, "a float model", "this one is prepared for QAT already")
    config.require_layers(list(quantisable_layers(model)))
    return _prepared(model, config, calibration)


def _prepared(model: nn.Module, config: QuantConfig, calibration: Tensor | None = None) -> nn.Module:
    training = model.training
    prepared: Any = copy.deepcopy(model)
    _replace_layers(prepared, config)
    if all(getattr(module, "weight_quant", None) is None for module in prepared.modules()):
        field, value = ("skip", list(config.skip)) if config.skip else ("weights", config.weights)
        raise InputError(field, value, "patterns that leave at least one layer to quantise")
    _replace_root(prepared)
    prepared.quant_config = config
    _calibrate(prepared, calibration)
    prepared.register_load_state_dict_post_hook(_fit_what_was_missing)
    return prepared.train(training)


def quantisable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers whose weights can be quantised, by name: nn.Linear, and nn.Conv2d of one group without dilation."""
    return {n: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d)) and _can_be_quantised(m)}


def is_prepared(model: nn.Module) -> bool:
    """Whether `prepare_qat` made this model."""
    return isinstance(getattr(model, "quant_config", None), QuantConfig)


def save_qat(path: str | Path, model: nn.Module, extra: Mapping[str, Any] | None = None) -> None:
    """Write a prepared model as a checkpoint: weights, masks, scales and both configurations.

    Raises:
        InputError: the model is not prepared, or the place cannot be written.
    """
    if not is_prepared(model):
        raise InputError("model", type(model).__name__, "a model from prepare_qat")
    save_checkpoint(path, model, extra={**(extra or {}), "quant": model.quant_config.to_dict()}, kind=KIND)  # type: ignore[union-attr, operator]


def load_qat(path: str | Path, device: str | torch.device = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """The prepared model in `path`, in evaluation mode and equal to the one saved bit for bit, and the extra values.

    Raises:
        InputError: absent, damaged, or no checkpoint of a prepared model.
    """
    checkpoint = load_checkpoint(path)
    if checkpoint.kind != KIND or "quant" not in checkpoint.extra:
        raise InputError("checkpoint", str(path), "a checkpoint of a prepared (QAT) model", f"it is {checkpoint.kind}")
    extra = dict(checkpoint.extra)
    model = _prepared(checkpoint.model, QuantConfig.from_dict(extra.pop("quant")))
    wanted = {name: p for name, p in model.named_parameters() if name.endswith(".log2_scale")}
    if {n: t.shape for n, t in checkpoint.leftover.items()} != {n: p.shape for n, p in wanted.items()}:
        raise InputError("checkpoint", str(path), "the scales of its quantised layers", "some are missing or foreign")
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(checkpoint.leftover[name])
    return model.to(device).eval(), extra


def _replace_layers(model: nn.Module, config: QuantConfig) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, (nn.Linear, nn.Conv2d)) and _can_be_quantised(module):
            _replace(model, name, _quantised_layer(module, name, config))
        elif isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1 and module.bias is not None:
            norm = quantised.QuantLayerNorm(module.normalized_shape, module.eps)
            norm.weight, norm.bias = module.weight, module.bias
            _replace(model, name, norm)
        elif isinstance(module, nn.GELU) and module.approximate == "none":
            _replace(model, name, quantised.QuantGELU())
        elif isinstance(module, ScaledDotProduct):
            _replace(model, name, quantised.QuantAttentionCore(config))
        elif _is_timm_attention(module):
            put_core(module, quantised.QuantAttentionCore(config))
        if isinstance(module, (Attention, AttentionWithCore)):
            module.__class__ = subclass(type(module), quantised.AttentionOnProjection)


def _can_be_quantised(layer: nn.Linear | nn.Conv2d) -> bool:
    return isinstance(layer, nn.Linear) or (
        layer.groups == 1 and set(layer.dilation) == {1} and not isinstance(layer.padding, str)
    )


def _quantised_layer(layer: nn.Linear | nn.Conv2d, name: str, config: QuantConfig) -> nn.Module:
    """The layer's quantised form, sharing its parameters and holding its mask."""
    mask = get_mask(layer)
    weight: Any = layer.weight if mask is None else layer.parametrizations.weight.original  # type: ignore[union-attr]
    made: Any
    if isinstance(layer, nn.Linear):
        made = quantised.QuantLinear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    else:
        made = quantised.QuantConv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            bias=layer.bias is not None,
            device="meta",
        )
    made.weight, made.bias = nn.Parameter(weight.detach(), weight.requires_grad), layer.bias
    after_relu = ".convs." in name and not name.endswith(".0")  # CCT's tokenizer: its input is never negative
    made._quantise_as(name, config, unsigned=after_relu)
    made.to(weight.device)
    if mask is not None:
        set_mask(made, mask)
    return made


def _replace(model: nn.Module, name: str, made: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, made.train(model.training))


def _is_timm_attention(module: nn.Module) -> bool:
    """Whether it is timm's multi-head attention with nothing between qkv, softmax and proj but dropout of rate 0."""
    parts: Any = module
    return (
        type(module).__name__ == "Attention"
        and type(module).__module__.startswith("timm.")
        and hasattr(module, "qkv")
        and all(isinstance(getattr(parts, name, nn.Identity()), nn.Identity) for name in ("q_norm", "k_norm", "norm"))
        and getattr(parts, "gate", None) is None
        and parts.attn_drop.p == 0.0
    )


class _QuantVisionTransformer(quantised.QuantEmbeddings):
    """Our VisionTransformer with stored embeddings, and pooling by the one definition."""

    def pool(self: Any, tokens: Tensor) -> Tensor:
        if self.config.pool == "cls":
            return VisionTransformer.pool(self, tokens)
        if self.config.pool == "mean":
            return quantised.exact_mean(tokens)
        return quantised.exact_weighted_mean(tokens, self.pool_score(tokens))


class _QuantTimmViT(quantised.QuantEmbeddings):
    """timm's ViT likewise."""

    def pool(self: Any, x: Tensor, pool_type: str | None = None) -> Tensor:
        kind = self.global_pool if pool_type is None else pool_type
        if kind != "avg" or self.attn_pool is not None or self.num_prefix_tokens:
            return super().pool(x, pool_type)  # type: ignore[misc]
        return quantised.exact_mean(x)


def _replace_root(model: nn.Module) -> None:
    if isinstance(model, VisionTransformer):
        model.__class__ = subclass(type(model), _QuantVisionTransformer)
    elif type(model).__name__ == "VisionTransformer" and type(model).__module__ == "timm.models.vision_transformer":
        model.__class__ = subclass(type(model), _QuantTimmViT)


@torch.no_grad()
def _calibrate(model: nn.Module, images: Tensor | None) -> None:
    """Run images through the model once, so that every fresh scale is fitted to what it sees."""
    parameter = next(model.parameters())
    if images is None:
        images = _colour_noise(_input_shape(model))
    training = model.training
    model.eval()(images.to(parameter.device, torch.float32))
    model.train(training)


def _fit_what_was_missing(model: nn.Module, _: Any) -> None:
    if any(module.fresh for module in model.modules() if isinstance(module, Quantizer)):
        _calibrate(model, None)


def _input_shape(model: nn.Module) -> tuple[int, int]:
    """Channels and size of the images that the model takes."""
    try:
        config = config_of(model)
        return config.in_channels, config.image_size
    except InputError:
        embed: Any = getattr(model, "patch_embed", None)
        size = getattr(embed, "img_size", None)
        if size is None:
            raise
        return embed.proj.in_channels, size[0]


def _colour_noise(shape: tuple[int, int]) -> Tensor:
    """Normalised random images with as much variance in coarse structure as in fine, as natural images have."""
    channels, size = shape
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(_CALIBRATION_IMAGES, channels, size, size)
    cells, octaves = 1, 0
    while cells <= size:
        noise = torch.randn(_CALIBRATION_IMAGES, channels, cells, cells, generator=generator)
        images += nn.functional.interpolate(noise, size=(size, size), mode="nearest")
        cells, octaves = cells * 2, octaves + 1
    return images / octaves**0.5
