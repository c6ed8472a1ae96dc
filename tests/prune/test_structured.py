import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from prune import magnitude_prune, nm_prune, sparsity, structured_prune
from prune.importance import channel_importance, head_importance, unit_importance
from vit import InputError, VisionTransformer, ViTConfig, describe
from vit.checkpoint import load_checkpoint, save_checkpoint
from vit.masks import masks
from vit.zoo import create_model

BASE = ViTConfig(image_size=8, patch_size=4, in_channels=1, dim=32, depth=3, heads=4)
VARIANTS = [
    BASE,
    ViTConfig(image_size=8, patch_size=4, in_channels=1, dim=32, depth=2, heads=2, stem="conv", pool="seq"),
    ViTConfig(image_size=8, patch_size=2, in_channels=3, dim=24, depth=1, heads=3, pool="mean", mlp_ratio=3.0),
]


def random_vit(config: ViTConfig = BASE, seed: int = 0) -> VisionTransformer:
    """Weights and biases of unit size, so that nothing is small by accident."""
    torch.manual_seed(seed)
    model = VisionTransformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) / max(1, parameter.shape[-1]) ** 0.5)
    return model


def timm_vit(name: str | dict[str, object] = "deit_tiny_patch16_224", **options: object) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, num_classes=5, image_size=32, **options).eval()


def images(config: ViTConfig = BASE) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(4, config.in_channels, config.image_size, config.image_size)


@torch.no_grad()
def silence(model: nn.Module, heads: dict[int, list[int]], units: dict[int, list[int]]) -> None:
    """Make heads and MLP units add nothing: half of them at their inputs, half at their outputs."""
    for index, chosen in heads.items():
        attn = model.blocks[index].attn
        count = attn.heads if hasattr(attn, "heads") else attn.num_heads
        width = attn.proj.in_features // count
        for head in chosen:
            span = slice(head * width, (head + 1) * width)
            if head % 2:
                attn.proj.weight[:, span] = 0
            else:
                attn.qkv.weight[2 * count * width :][span] = 0
                attn.qkv.bias[2 * count * width :][span] = 0
    for index, chosen in units.items():
        mlp = model.blocks[index].mlp
        for unit in chosen:
            if unit % 2:
                mlp.fc2.weight[:, unit] = 0
            else:
                mlp.fc1.weight[unit] = 0
                mlp.fc1.bias[unit] = 0


def test_removing_silent_units_keeps_the_logits() -> None:
    model = random_vit()
    silence(model, {0: [0, 3], 1: [2], 2: []}, {i: list(range(0, 64, 4)) + list(range(1, 64, 8)) for i in range(3)})
    before = model(images())
    smaller = structured_prune(model, heads=0.25, mlp=24 / 64)
    assert smaller.config.block_heads == (2, 3, 4)
    assert smaller.config.block_hidden == (40, 40, 40)
    assert (smaller(images()) - before).abs().max() <= 1e-5


def test_removing_silent_units_keeps_the_logits_of_timm() -> None:
    model = timm_vit()
    silence(model, {0: [0], 5: [1, 2]}, {i: list(range(0, 768, 4)) for i in range(12)})
    x = torch.randn(2, 3, 32, 32)
    before = model(x)
    smaller = structured_prune(model, heads=3 / 36, mlp=0.25)
    assert [block.attn.num_heads for block in smaller.blocks] == [2, 3, 3, 3, 3, 1, *[3] * 6]
    assert (smaller(x) - before).abs().max() <= 1e-5


@pytest.mark.parametrize("config", VARIANTS, ids=lambda c: f"{c.stem}-{c.pool}")
@pytest.mark.parametrize("channels", [0.0, 0.3])
def test_the_result_is_what_its_config_says(config: ViTConfig, channels: float) -> None:
    model = random_vit(config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    smaller = structured_prune(model, heads=0.3, mlp=0.25, channels=channels)
    rebuilt = VisionTransformer(ViTConfig.from_dict(smaller.config.to_dict())).eval()
    rebuilt.load_state_dict(smaller.state_dict())
    assert torch.equal(rebuilt(images(config)), smaller(images(config)))
    assert sum(i.macs for i in describe(smaller)) < sum(i.macs for i in describe(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())  # untouched
    assert model.config == config
    if channels:
        assert smaller.config.dim == {32: 24, 24: 16}[config.dim]


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_tiny_patch16_224"])
def test_timm_models_get_smaller_and_still_train(name: str) -> None:
    model = timm_vit(name)
    smaller = structured_prune(model, heads=0.3, mlp=0.25, channels=0.25).train()
    assert sum(p.numel() for p in smaller.parameters()) < 0.7 * sum(p.numel() for p in model.parameters())
    out = smaller(torch.randn(2, 3, 32, 32))
    logits = out[0] if isinstance(out, tuple) else out
    logits.sum().backward()
    assert logits.shape == (2, 5)
    assert smaller.blocks[0].attn.qkv.weight.shape[1] == 144


@pytest.mark.parametrize(
    "name",
    [
        "deit_tiny_distilled_patch16_224",
        "deit3_small_patch16_224",  # layer scale
        "vit_little_patch16_reg1_gap_256",  # register tokens
        "vit_medium_patch16_gap_240",  # a norm after pooling, no biases of q, k, v
        "vit_base_patch16_rpn_224",  # norms behind the branches
        "test_vit4",  # RMS norms
    ],
)
@pytest.mark.parametrize("channels", [0.0, 0.3])
def test_timm_models_unlike_ours_are_saved_after_the_cut(name: str, channels: float, tmp_path: Path) -> None:
    model = timm_vit({"timm": name, "depth": 2, "embed_dim": 48, "num_heads": 4})
    cut = structured_prune(model, heads=0.3, mlp=0.25, channels=channels).eval()
    save_checkpoint(tmp_path / "cut.safetensors", cut)
    again = load_checkpoint(tmp_path / "cut.safetensors").model
    shown = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(shown), cut(shown))
    twice = structured_prune(again, heads=0.3, mlp=0.25, channels=channels).eval()
    save_checkpoint(tmp_path / "cut.safetensors", twice)
    assert torch.equal(load_checkpoint(tmp_path / "cut.safetensors").model(shown), twice(shown))


@pytest.mark.parametrize("make", [random_vit, lambda: timm_vit("vit_tiny_patch16_224")])
@pytest.mark.parametrize("channels", [0.0, 0.25])
def test_what_is_cut_and_masked_survives_a_checkpoint(
    make: Callable[[], nn.Module], channels: float, tmp_path: Path
) -> None:
    smaller = magnitude_prune(structured_prune(make(), channels=channels), 0.4)
    save_checkpoint(tmp_path / "pruned.safetensors", smaller)
    loaded = load_checkpoint(tmp_path / "pruned.safetensors").model
    x = torch.randn(2, *((1, 8, 8) if isinstance(smaller, VisionTransformer) else (3, 32, 32)))
    assert torch.equal(loaded(x), smaller.eval()(x))
    assert sparsity(loaded) == sparsity(smaller)
    assert set(masks(loaded)) == set(masks(smaller))


def test_nothing_asked_changes_nothing() -> None:
    model = random_vit()
    same = structured_prune(model, heads=0.0, mlp=0.0)
    assert same is not model
    assert same.config == BASE
    assert torch.equal(same(images()), model(images()))


@pytest.mark.parametrize(("fraction", "round_to", "left"), [(0.25, 8, 48), (0.3, 8, 48), (0.3, 1, 45), (0.99, 8, 8)])
def test_widths_are_rounded(fraction: float, round_to: int, left: int) -> None:
    assert structured_prune(random_vit(), heads=0, mlp=fraction, round_to=round_to).config.hidden_of(0) == left


def test_a_width_below_the_multiple_stays() -> None:
    narrow = ViTConfig(image_size=8, patch_size=4, in_channels=1, dim=12, depth=1, heads=2, mlp_ratio=0.5)
    assert structured_prune(random_vit(narrow), heads=0, mlp=0.5, round_to=8).config == narrow


def test_every_block_keeps_a_head() -> None:
    assert structured_prune(random_vit(), heads=0.99, mlp=0).config.heads == 1


def test_importance_is_the_norm_of_what_a_unit_can_add() -> None:
    model = random_vit()
    attn, mlp = model.blocks[0].attn, model.blocks[0].mlp
    values = torch.cat([attn.qkv.weight[64:], attn.qkv.bias[64:, None]], dim=1)
    for head, found in enumerate(head_importance(attn, 4)):
        span = slice(8 * head, 8 * head + 8)
        assert found == pytest.approx((attn.proj.weight[:, span] @ values[span]).norm().item(), rel=1e-5)
    row = torch.cat([mlp.fc1.weight[5], mlp.fc1.bias[5:6]])
    assert unit_importance(mlp)[5] == pytest.approx(torch.outer(mlp.fc2.weight[:, 5], row).norm().item(), rel=1e-5)


def test_the_weakest_channels_go() -> None:
    model = random_vit()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("norm1.weight", "norm2.weight", "norm.weight")):
                parameter[:8] = 0
        model.pos_embed[..., :8] = 0
    weak = set(channel_importance(model).argsort()[:8].tolist())
    smaller = structured_prune(model, heads=0, mlp=0, channels=0.25)
    stay = [i for i in range(32) if i not in weak]
    assert torch.equal(smaller.pos_embed, model.pos_embed[..., stay])
    assert torch.equal(smaller.blocks[1].attn.proj.weight, model.blocks[1].attn.proj.weight[stay])


def test_masks_are_cut_with_the_weights() -> None:
    model = nm_prune(magnitude_prune(random_vit(), 0.4))
    smaller = structured_prune(model, heads=0.25, mlp=0.25, channels=0.25)
    for name, mask in masks(smaller).items():
        layer = smaller.get_submodule(name)
        assert mask.shape == layer.weight.shape
        assert (layer.weight[~mask] == 0).all()
    assert set(masks(smaller)) == set(masks(model))
    assert sparsity(smaller)["total"] >= 0.3
    copy.deepcopy(smaller)(images())


@pytest.mark.parametrize("field", ["heads", "mlp", "channels", "round_to"])
@pytest.mark.parametrize("value", [1.0, -0.1, float("nan")])
def test_bad_fractions_are_named(field: str, value: float) -> None:
    with pytest.raises(InputError) as caught:
        structured_prune(random_vit(), **{field: value})
    assert caught.value.field == field


def test_models_it_cannot_cut_are_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match="no list of transformer blocks"):
        structured_prune(nn.Linear(3, 3))
    odd = random_vit()
    odd.extra = nn.Linear(3, 3)
    with pytest.raises(InputError, match=r"no rule for its parameter extra\.weight"):
        structured_prune(odd)
    quantised = random_vit()
    quantised.blocks[1].mlp.fc1.weight_bits = 4
    with pytest.raises(InputError, match=r"blocks\.1\.mlp\.fc1 is quantised"):
        structured_prune(quantised)
