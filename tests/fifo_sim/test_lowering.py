"""Lowered pipelines: service times by hand, runs that end, and the bound that no run beats."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fifo_sim import Hardware, Lowered, lower, simulate
from fifo_sim.memory import DoesNotFit
from tests.fifo_sim.machines import CPU, SPATIAL, SYSTOLIC, TINY, attentions, configs, fifos, machines, tiles
from vit.config import ViTConfig
from vit.errors import InputError
from vit.model import VisionTransformer

SMALL = ViTConfig(image_size=8, patch_size=2, in_channels=1, dim=32, depth=2, heads=2)  # 17 tokens


def services(lowered: Lowered) -> dict[str, list[int]]:
    stages = zip(lowered.pipeline.stages, lowered.pipeline.firings, strict=True)
    return {stage.name: stage.service_pattern.expand(firings).tolist() for stage, firings in stages}


def test_spatial_service_times_by_hand() -> None:
    """Tiles of 3 tokens and 1, four elements a cycle, each layer as many lanes as it has multiplications."""
    lowered = lower(TINY, replace(SPATIAL, mac_lanes=10_000), tile=3)
    times = services(lowered)
    assert times["input"] == [1, 1]  # a band of 8 pixels: 64 bits of the 80 a cycle
    assert times["embed"] == [3, 1]
    assert times["blocks.0.norm1"] == times["blocks.0.norm2"] == times["norm"] == [6, 2]  # two passes
    assert times["blocks.0.attn.softmax"] == [12, 4]  # two heads, 3 x 4 and 1 x 4 scores, two passes
    assert times["blocks.0.mlp.act"] == [6, 2]  # 3 x 8 and 1 x 8
    assert times["blocks.0.attn.add"] == times["pool"] == [3, 1]
    assert times["head"] == times["blocks.0.attn.qkv"][:1] == [1]
    assert sum(lowered.lanes.values()) <= 10_000


def test_spatial_lanes_divide_the_work() -> None:
    lowered = lower(TINY, replace(SPATIAL, mac_lanes=20), tile=3)
    times, lanes = services(lowered), lowered.lanes
    assert sum(lanes.values()) <= 20
    assert times["blocks.0.mlp.fc1"] == [
        -(-3 * 4 * 8 // lanes["blocks.0.mlp.fc1"]),
        -(-4 * 8 // lanes["blocks.0.mlp.fc1"]),
    ]
    assert times["head"] == [-(-12 // lanes["head"])]


def test_systolic_service_times_by_hand() -> None:
    times = services(lower(TINY, SYSTOLIC, tile=3))  # 4 x 8, outputs in place: folds * (K + 4 + 8 - 2) - 1
    assert times["blocks.0.attn.qkv"] == [2 * 14 - 1] * 2  # 12 columns take two folds; 3 rows or 1 take one
    assert times["blocks.0.attn.scores"] == [2 * (2 + 10 - 1)] * 2  # two heads, one after the other
    assert times["blocks.0.mlp.fc2"] == [8 + 10 - 1] * 2
    assert times["head"] == [4 + 10 - 1]
    assert {resource.order[0] for resource in lower(TINY, SYSTOLIC).pipeline.resources} == {"stem.proj", "embed"}
    (shared,) = lower(TINY, CPU).pipeline.resources
    assert set(shared.order) == set(times) - {"input"}


def test_the_class_token_alone_takes_one_cycle_of_the_stem() -> None:
    times = services(lower(replace(TINY, pool="cls"), SYSTOLIC, tile=1))
    assert times["stem.proj"] == [1] + [4 + 10 - 1] * 4
    assert times["pool"] == [1] * 5


def test_streamed_weights_by_hand() -> None:
    config = replace(TINY, dim=8)
    machine = replace(SPATIAL, dram_chunk_kib=1 / 16, sram_kib=1.7)
    lowered = lower(config, machine, tile=2, fifo=1, attention="tile")
    assert "blocks.0.attn.qkv" in lowered.memory.streamed
    times = services(lowered)
    assert times["blocks.0.attn.qkv.weights"] == [5, 6, 6, 6, 6] * 2  # 4 or 5 columns of 96 bits, 80 bits a cycle
    assert len(times["blocks.0.attn.qkv"]) == 10
    dram = next(resource for resource in lowered.pipeline.resources if "input" in resource.order)
    assert set(dram.order) == {"input"} | {f"{name}.weights" for name in lowered.memory.streamed}
    assert not simulate(lowered.pipeline).deadlock


@settings(max_examples=80, deadline=None)
@given(configs(), fifos, attentions, machines)
def test_one_tile_takes_the_sum_of_all_stages(config: ViTConfig, fifo: int, attention: str, machine: Hardware) -> None:
    """With one tile an image nothing overlaps behind the stem: every stage waits for the one before, and a clock."""
    config = replace(config, stem="patch", patch_size=1)
    lowered = lower(config, machine, 2000, fifo, attention)
    times = services(lowered)
    cycles = simulate(lowered.pipeline).cycles
    assert cycles == sum(map(sum, times.values())) + len(times) - 2 + machine.dram_latency_cycles


@settings(max_examples=200, deadline=None)
@given(configs(), tiles, fifos, attentions, machines, st.integers(1, 4), st.floats(0, 1))
def test_every_run_ends_and_none_beats_the_busiest_stage(
    config: ViTConfig, tile: int, fifo: int, attention: str, machine: Hardware, images: int, share: float
) -> None:
    machine = replace(machine, dram_chunk_kib=1 / 16)
    whole = lower(config, machine, tile, fifo, attention, images)
    lowered = [whole]
    weights = sum(op.weights.total_bytes for op in whole.graph.operations if op.weights is not None)
    small = replace(machine, sram_kib=(whole.memory.total_bytes - share * weights) / 1024)
    with suppress(DoesNotFit):
        lowered.append(lower(config, small, tile, fifo, attention, images))
    for one in lowered:
        result = simulate(one.pipeline)
        assert not result.deadlock
        assert result.cycles is not None
        assert result.cycles >= one.bound_cycles == max(one.bound_cycles, *(s["busy"] for s in result.stalls.values()))
        assert result.end_times is not None
        assert len(result.end_times["head"]) == images * one.graph.named()["head"].firings
        assert all(peak <= edge.depth for peak, edge in zip(result.max_occupancy, one.pipeline.edges, strict=True))


@pytest.mark.parametrize("attention", ["full", "tile"])
@pytest.mark.parametrize("pool", ["cls", "mean", "seq"])
@pytest.mark.parametrize("machine", [SPATIAL, replace(SPATIAL, mac_lanes=700)])
def test_deep_fifos_reach_the_speed_of_the_busiest_stage(attention: str, pool: str, machine: Hardware) -> None:
    config = replace(SMALL, pool=pool)

    def cycles(images: int) -> int:
        found = simulate(lower(config, machine, 2, 40, attention, images).pipeline, history=False).cycles
        assert found is not None
        return found

    busiest = lower(config, machine, 2, 40, attention).bound_cycles
    rate = (cycles(60) - cycles(30)) / 30
    assert busiest <= rate <= busiest * 1.001


@pytest.mark.parametrize("attention", ["full", "tile"])
@pytest.mark.parametrize("tile", [1, 3, 8])
def test_deeper_fifos_never_slow_a_machine_without_ports(attention: str, tile: int) -> None:
    runs = [simulate(lower(SMALL, SPATIAL, tile, fifo, attention, 3).pipeline).cycles for fifo in range(1, 9)]
    assert all(a is not None and b is not None and a >= b for a, b in pairwise(runs))
    assert runs[0] > 1.2 * runs[-1]  # type: ignore[operator]


def test_images_follow_one_another() -> None:
    alone, many = (lower(SMALL, SPATIAL, images=n) for n in (1, 10))
    assert many.memory.by_item() == alone.memory.by_item()
    assert many.memory.total_dram_bytes == 10 * alone.memory.total_dram_bytes
    assert many.energy().total_pj == pytest.approx(10 * alone.energy().total_pj)
    one, ten = simulate(alone.pipeline).cycles, simulate(many.pipeline).cycles
    assert one is not None
    assert ten is not None
    assert one < ten < 10 * one
    assert alone.latency_ms(100_000) == 1.0


def test_a_model_and_its_configuration_are_laid_out_alike() -> None:
    model = VisionTransformer(SMALL)
    from_model, from_config, from_dict = (lower(m, SPATIAL) for m in (model, SMALL, SMALL.to_dict()))
    assert from_model.pipeline.to_dict() == from_config.pipeline.to_dict() == from_dict.pipeline.to_dict()
    assert from_model.memory == from_config.memory == from_dict.memory


def test_the_bits_and_coding_of_a_model_win() -> None:
    model = VisionTransformer(SMALL)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "head":
            module.weight_bits, module.activation_bits, module.weight_scheme = 4, 6, "pot4"  # type: ignore[assignment]
    operations = lower(model, SPATIAL).graph.named()
    fc1, head, scores = (operations[name] for name in ("blocks.0.mlp.fc1", "head", "blocks.0.attn.scores"))
    assert fc1.weights is not None
    assert head.weights is not None
    assert (fc1.weights.bits, fc1.weights.coding, fc1.activation_bits) == (4, "pot", 6)
    assert (head.weights.bits, head.weights.coding) == (8, "int")
    assert head.activation_bits == scores.activation_bits == 6  # the widest that the model states
    plain, shifted = lower(SMALL, SPATIAL).energy().items, lower(model, SPATIAL).energy().items
    assert shifted["macs"] < 0.6 * plain["macs"]
    assert shifted["weights"] < plain["weights"]


def test_pruned_weights_count_only_where_they_are_skipped() -> None:
    model = VisionTransformer(SMALL)
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight[: SMALL.hidden // 2] = 0
    skipping = replace(SPATIAL, zero_skipping=True)
    plain, skipped = lower(model, SPATIAL), lower(model, skipping)
    assert plain.pipeline.to_dict() == lower(SMALL, SPATIAL).pipeline.to_dict()
    halved = sum(p.macs for p in plain.graph.named()["blocks.0.mlp.fc1"].products) / 2
    saved = plain.energy().items["macs"] - skipped.energy().items["macs"]
    assert saved == pytest.approx(halved * SPATIAL.energy.mac(8, 8, 32))
    assert skipped.bound_cycles <= plain.bound_cycles


def test_structurally_pruned_and_timm_models() -> None:
    from vit.zoo import create_model

    narrow = replace(SMALL, block_heads=(1, 2), block_hidden=(5, 64), head_dim=16)
    products = lower(VisionTransformer(narrow), SPATIAL, tile=17).graph.named()
    assert products["blocks.0.attn.scores"].products[0].count == 1
    assert products["blocks.0.mlp.fc1"].products[0].n == 5
    spec = {"timm": "deit_tiny_patch16_224", "patch_size": 2, "depth": 2, "embed_dim": 32, "num_heads": 2}
    same = lower(create_model({**spec, "mlp_ratio": 2}, image_size=8, in_channels=1), SPATIAL)
    assert same.pipeline.to_dict() == lower(SMALL, SPATIAL).pipeline.to_dict()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tile": 0}, "tile"),
        ({"tile": 2.5}, "tile"),
        ({"fifo": 0}, "fifo"),
        ({"attention": "ful"}, "attention"),
        ({"images": 0}, "images"),
        ({"hardware": "zcu10"}, "hardware"),
        ({"hardware": replace(SPATIAL, mac_lanes=3)}, "hardware.mac_lanes"),
        ({"hardware": replace(SPATIAL, sram_kib=0.5)}, "hardware.sram_kib"),
        ({"model_or_config": {"dmi": 3}}, "config"),
        ({"model_or_config": torch.nn.Linear(1, 1)}, "model"),
    ],
)
def test_bad_input_names_the_field(change: Mapping[str, Any], field: str) -> None:
    arguments = {"model_or_config": TINY, "hardware": SPATIAL, **change}
    with pytest.raises(InputError) as caught:
        lower(**arguments)
    assert caught.value.field == field


@pytest.mark.parametrize("preset", Hardware.presets())
@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_presets_run_the_demo_s_networks(preset: str, stem: str) -> None:
    for image, patch, dim in ((8, 2, 64), (32, 8, 32)):
        config = ViTConfig(image_size=image, patch_size=patch, in_channels=1, dim=dim, depth=2, heads=2, stem=stem)
        for attention in ("full", "window", "tile"):
            lowered = lower(config, preset, tile=2, fifo=1, attention=attention, images=2)
            result = simulate(lowered.pipeline, history=False)
            assert result.cycles is not None
            assert result.cycles >= lowered.bound_cycles


def test_lowering_needs_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from fifo_sim import lower; from vit import ViTConfig; lower(ViTConfig(), 'zcu104');"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
