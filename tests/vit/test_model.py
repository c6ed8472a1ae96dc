from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vit.config import ViTConfig
from vit.model import VisionTransformer


@pytest.mark.parametrize(
    ("dim", "depth", "heads", "params"),
    [
        (64, 2, 2, 75_082),
        (64, 3, 2, 108_554),
        (128, 3, 4, 413_706),
        (128, 4, 4, 546_186),
        (192, 6, 6, 1_806_538),
        (256, 8, 8, 4_249_354),
    ],
)
def test_parameter_counts(dim: int, depth: int, heads: int, params: int) -> None:
    with torch.device("meta"):
        model = VisionTransformer(ViTConfig(dim=dim, depth=depth, heads=heads, mlp_ratio=2.0))
    assert sum(parameter.numel() for parameter in model.parameters()) == params


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("pool", ["cls", "mean", "seq"])
def test_every_stem_and_pooling_trains_every_parameter(stem: str, pool: str) -> None:
    config = ViTConfig(
        8, 2, in_channels=1, num_classes=5, dim=12, depth=2, heads=3, stem=stem, pool=pool, drop_path=0.1
    )
    model = VisionTransformer(config).eval()
    logits = model(torch.randn(3, 1, 8, 8))
    assert logits.shape == (3, 5)
    assert model.forward_features(torch.randn(3, 1, 8, 8)).shape == (3, config.tokens, 12)
    logits.square().sum().backward()
    silent = [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert silent == []


def test_the_forward_pass_is_the_published_one() -> None:
    """Against a second writing of Dosovitskiy et al. (2021), equations 1 to 4, with explicit attention."""
    config = ViTConfig(8, 4, in_channels=1, num_classes=3, dim=8, depth=2, heads=2)
    model = VisionTransformer(config).eval()
    images = torch.randn(2, 1, 8, 8)
    patches = [images[:, 0, i : i + 4, j : j + 4].reshape(2, 16) for i in (0, 4) for j in (0, 4)]
    kernel = model.stem.proj.weight.reshape(8, 16)
    tokens = [model.cls_token[0].expand(2, 8), *(patch @ kernel.T + model.stem.proj.bias for patch in patches)]
    x = torch.stack(tokens, dim=1) + model.pos_embed
    for block in model.blocks:
        normed = block.norm1(x)
        q, k, v = block.attn.qkv(normed).split(8, dim=2)
        heads = []
        for head in (slice(0, 4), slice(4, 8)):
            scores = q[..., head] @ k[..., head].mT / math.sqrt(4)
            heads.append(scores.softmax(dim=-1) @ v[..., head])
        x = x + block.attn.proj(torch.cat(heads, dim=2))
        x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))
    torch.testing.assert_close(model(images), model.head(model.norm(x)[:, 0]), atol=1e-5, rtol=1e-5)


def test_sequence_pooling_is_a_weighted_mean() -> None:
    model = VisionTransformer(ViTConfig(8, 4, dim=8, depth=1, heads=1, pool="seq"))
    tokens = torch.randn(2, 4, 8)
    weights = model.pool_score(tokens).softmax(dim=1)
    torch.testing.assert_close(model.pool(tokens), (weights * tokens).sum(dim=1))


def test_the_attention_core_can_be_replaced() -> None:
    class Values(nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return v

    model = VisionTransformer(ViTConfig(8, 4, dim=8, depth=1, heads=2)).eval()
    attention = model.blocks[0].attn
    attention.core = Values()
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(attention(x), attention.proj(attention.qkv(x)[..., 16:]))


def test_stochastic_depth_keeps_the_mean() -> None:
    model = VisionTransformer(ViTConfig(8, 4, dim=8, depth=3, heads=2, drop_path=0.4))
    assert [block.drop_path.rate for block in model.blocks] == [0.0, 0.2, 0.4]
    drop = model.blocks[2].drop_path.train()
    torch.manual_seed(0)
    ones = drop(torch.ones(20_000, 2, 1))
    assert ones.unique().tolist() == [0.0, pytest.approx(1 / 0.6)]
    assert ones.mean() == pytest.approx(1.0, abs=0.03)
    assert torch.equal(drop.eval()(torch.ones(3, 2, 1)), torch.ones(3, 2, 1))


def test_pruned_widths_shape_the_blocks() -> None:
    config = ViTConfig(8, 4, dim=16, depth=2, heads=4, block_heads=(1, 3), block_hidden=(5, 7), head_dim=4)
    model = VisionTransformer(config)
    assert [block.attn.qkv.out_features for block in model.blocks] == [12, 36]
    assert [block.mlp.fc1.out_features for block in model.blocks] == [5, 7]
    assert model(torch.randn(1, 3, 8, 8)).shape == (1, 10)
