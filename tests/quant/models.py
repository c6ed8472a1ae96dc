"""Small models with weights like trained ones, for the tests of this folder."""

from __future__ import annotations

import torch
from torch import nn

from quant import QuantConfig, prepare_qat
from vit.config import ViTConfig
from vit.masks import prunable_layers, set_mask
from vit.model import VisionTransformer

TINY = {"image_size": 16, "patch_size": 4, "dim": 32, "depth": 2, "heads": 2, "in_channels": 3}


def float_model(sparsity: float = 0.0, **changes) -> VisionTransformer:
    """A VisionTransformer with random weights, biases and norms, pruned at random if asked."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = VisionTransformer(ViTConfig(**{**TINY, **changes}))
        return randomise(model, sparsity)


@torch.no_grad()
def randomise(model: nn.Module, sparsity: float = 0.0):
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    for layer in prunable_layers(model).values() if sparsity else ():
        set_mask(layer, torch.rand(layer.weight.shape) >= sparsity)
    return model.eval()


def prepared_model(sparsity: float = 0.0, quant: dict | None = None, **changes):
    return prepare_qat(float_model(sparsity, **changes), QuantConfig(**(quant or {}))).eval()


def images(count: int = 20, channels: int = 3, size: int = 16) -> torch.Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))
