"""A small model that has learned the digits, and its ONNX file: made once for all the tests that need them."""

from __future__ import annotations

from functools import cache

import torch
from onnx import ModelProto

from quant.onnx_export import float_model
from vit.config import ViTConfig
from vit.data import load_data
from vit.image_set import DataSplits
from vit.model import VisionTransformer
from vit.recipe import Recipe
from vit.training import fit


@cache
def digits() -> DataSplits:
    return load_data("digits")


@cache
def trained_model() -> VisionTransformer:
    """About 93 % of the digits right."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ViTConfig(image_size=8, patch_size=2, in_channels=1, dim=32, depth=1, heads=2, pool="mean")
        model = VisionTransformer(config)
        fit(model, digits(), Recipe(epochs=10, batch_size=64, lr=6e-3, crop_padding=0, ema=0, label_smoothing=0))
    return model.eval()


@cache
def trained_graph() -> ModelProto:
    """Its ONNX form. Not to be changed: copy it."""
    return float_model(trained_model())
