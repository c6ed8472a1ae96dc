"""From a prepared model to a packed one: every value as the evaluation of the prepared model uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quant.codec import encode
from quant.config import FLOAT
from quant.modules import QuantAttentionCore, round_rows
from quant.packed import PackedModel, layer_tensors
from quant.qat import is_prepared
from vit.errors import InputError
from vit.layers import config_of, layers_of
from vit.preprocessing import normalisation_of


@torch.no_grad()
def convert(model: nn.Module, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> PackedModel:
    """The packed form of a model from `prepare_qat`; its logits are those of the model's evaluation.

    Args:
        model: a prepared VisionTransformer, or a prepared timm ViT or DeiT whose function ours can express.
        mean, std: per channel, of pixels scaled to [0, 1]; `predict` normalises uint8 images by them. If left out, what
            the model was trained with, where it says so, else 0 and 1.

    Raises:
        InputError: the model is not prepared, holds NaN, infinities or values beyond float16, or its attention was
            replaced (by a streaming core, for instance: convert the model itself).
    """
    if not is_prepared(model):
        raise InputError("model", type(model).__name__, "a model from prepare_qat")
    config = config_of(model)
    modules = {name.replace("patch_embed.", "stem.", 1): module for name, module in model.named_modules()}
    cores: list[Any] = [modules.get(f"blocks.{i}.attn.core") for i in range(config.depth)]
    if not all(isinstance(core, QuantAttentionCore) for core in cores):
        raise InputError("model", type(model).__name__, "a prepared model with its own attention cores")
    names = [info.name for info in layers_of(config) if info.kind != "attention"]
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for name in names:
        tensors.update(_layer(name, modules[name]))
    for name, module in modules.items():
        if isinstance(module, nn.LayerNorm):
            tensors[f"{name}.weight"], tensors[f"{name}.bias"] = _half(name, module.weight), _half(name, module.bias)
    tensors.update(_embeddings(model))
    quant: Any = model.quant_config
    activations = quant.activations
    if activations != FLOAT:
        inputs = [modules[name].input_quant for name in names if modules[name].weight_scheme != FLOAT]
        tensors["input_scales"] = np.array([float(quant.scale()) for quant in inputs], np.float32)
        scales = [[float(part.scale()) for part in (core.query, core.key, core.value)] for core in cores]
        tensors["attention_scales"] = np.array(scales, np.float32)
    own = normalisation_of(model)
    if own is not None:
        mean, std = mean if mean is not None else own.mean, std if std is not None else own.std
    plain = config.to_dict()
    plain.pop("drop_path")  # of training only
    metadata = {
        "config": plain,
        "activations": activations,
        "probabilities": quant.probabilities,
        "schemes": {name: modules[name].weight_scheme for name in names},
        "eps": modules["norm"].eps,
        "mean": [float(value) for value in (mean if mean is not None else [0.0] * config.in_channels)],
        "std": [float(value) for value in (std if std is not None else [1.0] * config.in_channels)],
    }
    return PackedModel(tensors, metadata)


def _layer(name: str, layer: Any) -> dict[str, np.ndarray[Any, Any]]:
    bias = None if layer.bias is None else _half(f"{name}.bias", layer.bias)
    weight = _numpy(f"{name}.weight", layer.weight.flatten(1))
    if layer.weight_quant is None:
        return {f"{name}.weight": weight, **({} if bias is None else {f"{name}.bias": bias})}
    scale = layer.weight_quant.scale().cpu().numpy()
    return layer_tensors(name, layer.weight_scheme, encode(weight, scale, layer.weight_scheme), scale, bias)


def _embeddings(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    stored = model._parameters["pos_embed"]
    rows = _numpy("pos_embed", stored[0])
    scale = np.abs(rows).max(axis=1) / np.float32(127)
    scale[scale == 0] = 1
    codes = np.rint(
        _numpy("pos_embed", round_rows(stored)[0]) / scale[:, None]
    )  # exact multiples: any rounding will do
    tensors = {"pos_embed.codes": codes.astype(np.int8), "pos_embed.scale": scale}
    if model._parameters.get("cls_token") is not None:
        tensors["cls_token"] = _half("cls_token", model._parameters["cls_token"].reshape(-1))
    return tensors


def _half(name: str, values: Tensor) -> np.ndarray[Any, Any]:
    with np.errstate(over="ignore"):  # told below
        half = _numpy(name, values).astype(np.float16)
    if not np.isfinite(half).all():
        raise InputError(name, float(values.abs().max()), "values that float16 holds: below 65504")
    return half


def _numpy(name: str, values: Tensor) -> np.ndarray[Any, Any]:
    plain = values.detach().cpu().float().contiguous().numpy()
    if not np.isfinite(plain).all():
        raise InputError(name, "NaN or infinite", "finite weights: has the training diverged?")
    return plain
