from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vit.checkpoint import save_checkpoint
from vit.config import ViTConfig
from vit.errors import InputError
from vit.layers import describe, layers_of
from vit.macs import count_macs
from vit.masks import set_mask
from vit.memory import peak_memory, process_memory
from vit.profile import profile_model, profile_models, size_bytes
from vit.zoo import create_model


def random_config(generator: np.random.Generator) -> ViTConfig:
    def pick(*choices: Any) -> Any:
        return choices[generator.integers(len(choices))]

    stem, depth, heads, width = pick("patch", "conv"), pick(1, 2, 3), pick(1, 2, 3), pick(1, 4, 5)
    patch = pick(2, 4) if stem == "conv" else pick(1, 2, 3)
    pruned: dict[str, Any] = {}
    if pick(True, False):
        pruned["head_dim"] = pick(3, 4)
        pruned["block_heads"] = [pick(1, 2, 3) for _ in range(depth)]
        pruned["block_hidden"] = [pick(1, 7, 12) for _ in range(depth)]
    return ViTConfig(
        image_size=patch * pick(1, 2, 3), patch_size=patch, in_channels=pick(1, 3), num_classes=pick(2, 10),
        dim=heads * width, depth=depth, heads=heads, mlp_ratio=pick(1.0, 1.5, 4.0), stem=stem,
        pool=pick("cls", "mean", "seq"), **pruned,
    )  # fmt: skip


def hand_written_sums(c: ViTConfig) -> tuple[int, int]:
    """Multiply-accumulates and parameters of a configuration, written down from the papers' equations."""
    grid = c.image_size // c.patch_size
    tokens = grid * grid + (1 if c.pool == "cls" else 0)
    macs = params = 0
    if c.stem == "patch":
        macs += grid * grid * c.patch_size**2 * c.in_channels * c.dim
        params += c.patch_size**2 * c.in_channels * c.dim + c.dim
    else:
        side, channels = c.image_size, c.in_channels
        while side > grid:
            width = 64 if side // 2 > grid else c.dim
            macs += side * side * 3 * 3 * channels * width
            params += 3 * 3 * channels * width
            side, channels = side // 2, width
    params += tokens * c.dim + (c.dim if c.pool == "cls" else 0)
    for block in range(c.depth):
        heads = c.block_heads[block] if c.block_heads else c.heads
        hidden = c.block_hidden[block] if c.block_hidden else int(c.mlp_ratio * c.dim)
        head = c.head_dim if c.head_dim else c.dim // c.heads
        inside = heads * head
        macs += tokens * c.dim * 3 * inside  # queries, keys, values
        macs += heads * tokens * tokens * head  # queries times keys
        macs += heads * tokens * tokens * head  # weights times values
        macs += tokens * inside * c.dim
        macs += 2 * tokens * c.dim * hidden
        params += (c.dim + 1) * 3 * inside + (inside + 1) * c.dim
        params += (c.dim + 1) * hidden + (hidden + 1) * c.dim
        params += 2 * 2 * c.dim  # two norms
    params += 2 * c.dim
    if c.pool == "seq":
        macs += tokens * c.dim + tokens * c.dim  # scores, then the weighted mean
        params += c.dim + 1
    macs += c.dim * c.num_classes
    params += (c.dim + 1) * c.num_classes
    return macs, params


def test_counts_equal_a_hand_written_sum_on_200_random_configurations() -> None:
    generator = np.random.default_rng(0)
    configs = {random_config(generator) for _ in range(400)}
    for config in sorted(configs, key=repr)[:200]:
        model = create_model(config)
        macs, params = hand_written_sums(config)
        assert sum(parameter.numel() for parameter in model.parameters()) == params, config
        assert sum(layer.macs for layer in layers_of(config)) == macs, config
        images = torch.zeros(1, config.in_channels, config.image_size, config.image_size)
        assert count_macs(model, images) == macs, config
    assert len(configs) > 200


def test_the_layers_hold_all_weights() -> None:
    for config in (ViTConfig(), ViTConfig(stem="conv", pool="seq")):
        model = create_model(config)
        modules = dict(model.named_modules())
        for layer in layers_of(config):
            if layer.kind != "attention":
                assert layer.params == sum(parameter.numel() for parameter in modules[layer.name].parameters())
        norms = sum(
            p.numel() for name, p in model.named_parameters() if "norm" in name or name in ("pos_embed", "cls_token")
        )
        assert sum(layer.params for layer in layers_of(config)) + norms == sum(p.numel() for p in model.parameters())


def test_attention_of_timm_counts_fused_or_not() -> None:
    model = create_model({"timm": "vit_tiny_patch16_224", "depth": 2}, image_size=64)
    expected = sum(layer.macs for layer in describe(model))
    assert count_macs(model, torch.zeros(1, 3, 64, 64)) == expected
    for block in model.blocks:
        block.attn.fused_attn = False
    assert count_macs(model, torch.zeros(1, 3, 64, 64)) == expected
    assert count_macs(model, torch.zeros(3, 3, 64, 64)) == 3 * expected


def test_other_modules_count_too() -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x, x, x, need_weights=False)[0]

    fast = torch.backends.mha.get_fastpath_enabled()
    assert count_macs(Attend(), torch.zeros(1, 5, 8)) == 5 * 8 * 24 + 2 * 5 * 5 * 8 + 5 * 8 * 8
    assert torch.backends.mha.get_fastpath_enabled() == fast
    grouped = nn.Conv2d(4, 6, 3, padding=1, groups=2)
    assert count_macs(grouped, torch.zeros(1, 4, 5, 5)) == 25 * 6 * 2 * 9


def test_layers_carry_bits_and_sparsity() -> None:
    model = create_model({"dim": 8, "depth": 1, "heads": 2})
    mask = torch.ones_like(model.head.weight, dtype=torch.bool)
    mask[:, :2] = False
    set_mask(model.head, mask)
    model.head.weight_bits, model.head.activation_bits = 4, 8
    found = {layer.name: layer for layer in describe(model)}
    assert (found["head"].sparsity, found["head"].weight_bits, found["head"].activation_bits) == (0.25, 4, 8)
    assert (found["stem.proj"].sparsity, found["stem.proj"].weight_bits) == (0.0, 32)
    assert describe(model.config.to_dict()) == layers_of(model.config)


def test_a_profile_states_what_it_measured() -> None:
    model = create_model({"dim": 8, "depth": 1, "heads": 2}, image_size=8).train()
    profile = profile_model(model, batch_size=4, warmup=1, rounds=5)
    assert model.training
    assert profile.macs == sum(layer.macs for layer in describe(model))
    assert profile.flops == 2 * profile.macs
    assert profile.params == sum(parameter.numel() for parameter in model.parameters())
    assert profile.size_bytes == 4 * profile.params
    assert 0 < profile.latency_ms <= profile.latency_p95_ms
    assert profile.throughput > 0
    assert (profile.device, profile.threads) == ("cpu", torch.get_num_threads())
    assert (profile.batch_size, profile.warmup, profile.rounds) == (4, 1, 5)
    assert type(profile)(**profile.to_dict()) == profile
    larger = profile_model(create_model("mobilevit_xxs", image_size=32), 64, batch_size=2, rounds=1)
    assert larger.macs == profile_model(create_model("mobilevit_xxs", image_size=64), (3, 64, 64), rounds=1).macs


def test_stored_bits_and_masks_decide_the_size_and_sparsity() -> None:
    model = create_model({"dim": 8, "depth": 1, "heads": 2})
    whole = size_bytes(model)
    model.head.weight_bits = 4
    assert size_bytes(model) == whole - 80 * 4 + 40
    set_mask(model.head, torch.zeros(10, 8, dtype=torch.bool))
    assert size_bytes(model) == whole - 80 * 4 + 40
    weights = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d)))
    assert profile_model(model, batch_size=1, rounds=1).sparsity == pytest.approx(80 / weights)


def test_peak_memory_is_the_tensors_alive_at_once() -> None:
    model = nn.Sequential(nn.Linear(10, 100, bias=False), nn.ReLU(), nn.Linear(100, 3, bias=False))
    weights, images = 4 * (1000 + 300), torch.zeros(2, 10)
    hidden = 4 * 2 * 100
    assert peak_memory(model, images) == weights + 4 * 20 + 2 * hidden  # before and after the ReLU
    assert peak_memory(model, images) == weights + 4 * 20 + 2 * hidden


def test_models_side_by_side_have_each_its_own_profile() -> None:
    small, large = (create_model({"dim": dim, "depth": 1, "heads": 2}, image_size=8) for dim in (8, 16))
    found = profile_models({"small": small, "large": large.train()}, batch_size=2, rounds=2, power_seconds=0)
    assert list(found) == ["small", "large"]
    assert found["large"].macs == profile_model(large, batch_size=2, rounds=1, power_seconds=0).macs
    assert found["small"].params < found["large"].params
    assert large.training


def test_a_fresh_process_holds_at_least_its_model(tmp_path: Path) -> None:
    width = 1024
    small, large = (create_model({"dim": dim, "depth": 1, "heads": 2}, image_size=8) for dim in (8, width))
    peaks = []
    for name, model in (("small", small), ("large", large)):
        save_checkpoint(tmp_path / f"{name}.safetensors", model)
        peaks.append(process_memory(tmp_path / f"{name}.safetensors", (3, 8, 8)))
    assert peaks[0] > 20 * 2**20  # Python and torch
    assert peaks[1] - peaks[0] > 0.9 * size_bytes(large)


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="an existing checkpoint file"):
        process_memory(tmp_path / "gone.safetensors", (3, 8, 8))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"input_size": 31}, "input_size"),
        ({"input_size": (3, 32)}, "input_size"),
        ({"input_size": (1, 32, 32)}, "input_size"),
        ({"input_size": -1}, "input_size"),
        ({"rounds": 0}, "rounds"),
        ({"batch_size": 0}, "batch_size"),
        ({"power_seconds": -1.0}, "power_seconds"),
    ],
)
def test_bad_requests_are_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        profile_model(create_model({"dim": 8, "depth": 1, "heads": 2}), **options)
    assert caught.value.field == field
