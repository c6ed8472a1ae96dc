"""The streamed model against the plain one and against attention spelt out token by token."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fifo_sim import lower
from fifo_sim.streamed import running_softmax, streaming, tile_mask
from vit.config import ViTConfig
from vit.errors import InputError
from vit.model import ScaledDotProduct, VisionTransformer

CONFIG = ViTConfig(image_size=8, patch_size=2, in_channels=1, dim=16, depth=2, heads=2)  # 17 tokens


@pytest.fixture(scope="module")
def model() -> VisionTransformer:
    torch.manual_seed(0)
    made = VisionTransformer(CONFIG).eval()
    with torch.no_grad():
        for parameter in made.parameters():  # wide logits, so that a wrong softmax shows
            parameter.normal_(0, 0.4)
    return made


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def attend_token_by_token(q: Tensor, k: Tensor, v: Tensor, tile: int, reach: int) -> Tensor:
    context = torch.zeros_like(v)
    for i in range(q.shape[-2]):
        seen = [j for j in range(q.shape[-2]) if 0 <= i // tile - j // tile < reach]
        scores = (q[..., i : i + 1, :] @ k[..., seen, :].transpose(-2, -1)) / q.shape[-1] ** 0.5
        context[..., i, :] = (scores.softmax(-1) @ v[..., seen, :])[..., 0, :]
    return context


@settings(max_examples=40, deadline=None)
@given(tile=st.integers(1, 20), seed=st.integers(0, 2**20))
def test_running_softmax_is_softmax(tile: int, seed: int) -> None:
    torch.manual_seed(seed)
    q, k, v = (torch.randn(2, 2, 17, 4, dtype=torch.float64) * 5 for _ in range(3))
    assert torch.allclose(running_softmax(q, k, v, tile), ScaledDotProduct()(q, k, v), atol=1e-10)


@pytest.mark.parametrize("tile", [1, 3, 5, 8, 17, 100])
def test_full_attention_equals_the_plain_model(model: VisionTransformer, images: Tensor, tile: int) -> None:
    with torch.no_grad():
        expected = model(images)
        for fifo in (1, 7):
            got = streaming(model, tile, fifo, "full")(images)
            assert (got - expected).abs().max() <= 1e-5 * max(1, expected.abs().max())


@pytest.mark.parametrize(("attention", "fifo", "reach"), [("tile", 3, 1), ("window", 1, 1), ("window", 3, 3)])
@pytest.mark.parametrize("tile", [1, 4, 6, 17])
def test_cores_see_what_their_tiles_see(attention: str, fifo: int, reach: int, tile: int) -> None:
    streamed = streaming(VisionTransformer(CONFIG), tile, fifo, attention)
    q, k, v = torch.randn(3, 2, 2, 17, 8)
    expected = attend_token_by_token(q, k, v, tile, reach)
    assert torch.allclose(streamed.blocks[1].attn.core(q, k, v), expected, atol=1e-5)


def test_narrow_attention_changes_the_result_and_wide_attention_does_not(
    model: VisionTransformer, images: Tensor
) -> None:
    with torch.no_grad():
        plain = model(images)
        assert (streaming(model, 4, 2, "window")(images) - plain).abs().max() > 1e-3
        assert (streaming(model, 4, 2, "tile")(images) - plain).abs().max() > 1e-3
        one_tile = streaming(model, 17, 1, "tile")(images)
    assert torch.allclose(one_tile, plain, atol=1e-4)


def test_the_model_given_stays_as_it_is(model: VisionTransformer, images: Tensor) -> None:
    before = model(images)
    streaming(model, 4, 2, "tile")
    assert torch.equal(model(images), before)
    assert all(type(block.attn.core) is ScaledDotProduct for block in model.blocks)


def test_a_core_of_ones_own_is_asked_with_a_mask() -> None:
    class Doubling(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
            return 2 * ScaledDotProduct()(q, k, v, mask)

    own = VisionTransformer(CONFIG)
    for block in own.blocks:
        block.attn.core = Doubling()
    q, k, v = torch.randn(3, 1, 2, 17, 8)
    for attention, reach in (("tile", 1), ("window", 2), ("full", 17)):
        core = streaming(own, 3, 2, attention).blocks[0].attn.core
        mask = None if attention == "full" else tile_mask(17, 3, reach)
        assert torch.equal(core(q, k, v), Doubling()(q, k, v, mask))


def test_timm_vit_streams_too(images: Tensor) -> None:
    from vit.zoo import create_model

    torch.manual_seed(0)
    spec = {"timm": "vit_tiny_patch16_224", "patch_size": 2, "depth": 2, "embed_dim": 24, "num_heads": 3}
    plain = create_model(spec, image_size=8, in_channels=1).eval()
    names = list(plain.state_dict())
    with torch.no_grad():
        expected = plain(images)
        assert torch.allclose(streaming(plain, 5, 1, "full")(images), expected, atol=1e-5)
        assert not torch.allclose(streaming(plain, 5, 1, "tile")(images), expected, atol=1e-4)
    assert list(streaming(plain, 5, 1, "tile").state_dict()) == names


@pytest.mark.parametrize("kind", ["ours", "timm"])
def test_a_quantised_model_streams_with_its_own_core(model: VisionTransformer, images: Tensor, kind: str) -> None:
    from quant import QuantConfig, prepare_qat
    from vit.zoo import create_model

    spec = {"timm": "vit_tiny_patch16_224", "patch_size": 2, "depth": 2, "embed_dim": 24, "num_heads": 3}
    plain = model if kind == "ours" else create_model(spec, image_size=8, in_channels=1)
    prepared = prepare_qat(plain, QuantConfig(weights="pot4")).eval()
    with torch.no_grad():
        expected = prepared(images)
        assert torch.equal(streaming(prepared, 4, 2, "full")(images), expected)
        assert torch.equal(streaming(prepared, 17, 2, "tile")(images), expected)
        assert not torch.equal(streaming(prepared, 4, 2, "tile")(images), expected)
        core = prepared.blocks[0].attn.core
        q, k, v = torch.randn(3, 2, 2, 17, 8)
        streamed = streaming(prepared, 4, 2, "window").blocks[0].attn.core
        assert torch.equal(streamed(q, k, v), core(q, k, v, tile_mask(17, 4, 2)))
    weights = lower(prepared, "zcu104").graph.named()
    for name in ("stem.proj", "blocks.1.mlp.fc2", "head"):
        parameters = weights[name].weights
        assert parameters is not None
        assert (parameters.bits, parameters.coding) == (4, "pot")


def test_gradients_pass_through(model: VisionTransformer, images: Tensor) -> None:
    streamed = streaming(model, 5, 2, "full").train()
    streamed(images).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in streamed.parameters())


@pytest.mark.parametrize(
    ("arguments", "field"),
    [((0, 1, "full"), "tile"), ((1, 0, "full"), "fifo"), ((1, 1, "half"), "attention"), ((True, 1, "full"), "tile")],
)
def test_bad_arguments(model: VisionTransformer, arguments: tuple[int, int, str], field: str) -> None:
    with pytest.raises(InputError) as caught:
        streaming(model, *arguments)
    assert caught.value.field == field


def test_other_models_are_refused() -> None:
    with pytest.raises(InputError, match="model"):
        streaming(nn.Sequential(nn.Linear(2, 2)))
