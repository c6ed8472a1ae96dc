"""The table of tile sizes and FIFO depths, and the trade-offs that it has to show."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from fifo_sim import lower, simulate, sweep
from fifo_sim.memory_stalls import memory_stalls
from tests.fifo_sim.machines import SPATIAL, SYSTOLIC
from vit.config import ViTConfig
from vit.errors import InputError
from vit.evaluation import evaluate
from vit.image_set import ImageSet
from vit.model import VisionTransformer

SMALL = ViTConfig(image_size=8, patch_size=1, in_channels=1, dim=16, depth=2, heads=2, pool="mean")  # 64 tokens
TILES, FIFOS = (1, 2, 4, 8), (1, 2, 4, 8)


@pytest.fixture(scope="module")
def digits_like() -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.arange(40) % 10, tuple("0123456789"), (0.5,), (0.3,))


@pytest.mark.parametrize("attention", ["full", "tile"])
@pytest.mark.parametrize("images", [1, 4])
def test_the_trade_off_that_people_expect(attention: str, images: int) -> None:
    rows = {(r["tile"], r["fifo"]): r for r in sweep(SMALL, SPATIAL, TILES, FIFOS, attention, images=images)}
    for fifo in FIFOS:
        for small, large in pairwise(TILES):
            assert rows[small, fifo]["sram_kib"] < rows[large, fifo]["sram_kib"]  # larger tiles need more memory
    for tile in TILES:
        for shallow, deep in pairwise(FIFOS):
            a, b = rows[tile, shallow], rows[tile, deep]
            assert a["sram_kib"] < b["sram_kib"]  # deeper FIFOs cost memory
            assert a["fifos_kib"] < b["fifos_kib"]
            assert a["cycles"] >= b["cycles"]  # and hide waiting
            assert a["energy_pj"] == pytest.approx(b["energy_pj"], rel=0.5)
        shallow, deep = rows[tile, 1], rows[tile, 8]
        assert shallow["cycles"] > deep["cycles"]
        assert shallow["blocked_cycles"] > deep["blocked_cycles"]  # shallow ones stall
        assert deep["cycles"] >= deep["bound_cycles"]


def test_rows_say_what_lowering_and_simulation_say() -> None:
    machine = replace(SPATIAL, sram_kib=15, dram_chunk_kib=0.25)
    (row,) = sweep(SMALL, machine, [4], [2], "window", images=3)
    lowered = lower(SMALL, machine, 4, 2, "window", 3)
    result = simulate(lowered.pipeline)
    assert lowered.memory.streamed
    expected: dict[str, Any] = {
        "attention": "window",
        "tile": 4,
        "fifo": 2,
        "fits": True,
        "deadlock": False,
        "cycles": result.cycles,
        "bound_cycles": lowered.bound_cycles,
        "latency_ms": lowered.latency_ms(result.cycles or 0),
        "sram_kib": lowered.memory.sram_kib,
        "double_buffers_kib": lowered.memory.by_item()["double buffers"] / 1024,
        "dram_bytes": lowered.memory.total_dram_bytes,
        "energy_pj": lowered.energy().total_pj,
        "accuracy": None,
    }
    assert {key: row[key] for key in expected} == expected
    assert row["starved_cycles"] == sum(stage["starved"] for stage in result.stalls.values())
    assert 0 < row["memory_cycles"] <= row["starved_cycles"]


def test_stalls_of_memory_by_their_definition() -> None:
    lowered = lower(SMALL, replace(SPATIAL, sram_kib=15, dram_chunk_kib=0.25), 4, 2, "tile", 2)
    result = simulate(lowered.pipeline)
    stalls = memory_stalls(lowered, result)
    assert set(stalls) == {"stem.proj", *lowered.memory.streamed}
    assert result.starts is not None
    assert result.ends is not None
    for name, found in stalls.items():
        inputs = [edge for edge in lowered.pipeline.edges if edge.dst == name]
        expected = 0
        for k in range(len(result.starts[name])):
            arrivals: dict[bool, int] = {True: 0, False: result.ends[name][k - 1] if k else 0}
            for edge in inputs:
                need = edge.need_pattern.at(k)
                there = result.ends[edge.src][need - 1] + edge.latency if need else 0
                from_dram = edge.src == "input" or edge.src.endswith(".weights")
                arrivals[from_dram] = max(arrivals[from_dram], there)
            expected += max(0, arrivals[True] - arrivals[False])
        assert found == expected <= result.stalls[name]["starved"]


def test_slower_dram_waits_longer() -> None:
    waits = []
    for gbps in (8, 2, 0.5):
        machine = replace(SPATIAL, sram_kib=15, dram_chunk_kib=0.25, dram_gbps=gbps)
        (row,) = sweep(SMALL, machine, [4], [2], "tile")
        waits.append((row["memory_cycles"], row["cycles"]))
    assert waits == sorted(waits)
    assert waits[0] != waits[-1]


def test_what_does_not_fit_is_a_row_too() -> None:
    table = sweep(SMALL, replace(SPATIAL, sram_kib=20), (1, 16), (1, 8))
    fits = {(row["tile"], row["fifo"]): row["fits"] for row in table}
    assert fits[1, 1]
    assert not fits[16, 8]
    refused = table[len(table) - 1]
    assert refused["cycles"] is refused["sram_kib"] is refused["energy_pj"] is None
    assert list(refused) == list(table[0])


def test_accuracy_is_computed_once_for_what_cannot_differ(
    digits_like: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fifo_sim.streamed

    torch.manual_seed(0)
    model = VisionTransformer(replace(SMALL, patch_size=2, depth=1))  # 16 tokens
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    asked = []
    original = fifo_sim.streamed.streaming

    def counted(model: Any, *arguments: Any) -> Any:
        asked.append(arguments)
        return original(model, *arguments)

    monkeypatch.setattr(fifo_sim.streamed, "streaming", counted)
    table = sweep(model, SYSTOLIC, (2, 6, 16), (1, 2, 9), ("full", "window", "tile"), data=digits_like)
    # Full attention (as is one tile of 16) once; tiles of 2 and 6 once each (as are windows of one tile); windows of 2
    # and 8 tiles of 2; windows of 2 and 3 tiles of 6.
    assert len(asked) == 1 + 2 + 2 + 2
    for row in table:
        streamed = original(model, row["tile"], row["fifo"], row["attention"])
        assert row["accuracy"] == evaluate(streamed, digits_like).accuracy
    assert len(set(table.column("accuracy"))) > 1


def test_progress_and_csv(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    table = sweep(SMALL.to_dict(), "max78000", (4,), (1, 2), ("full", "tile"), progress=seen.append)
    assert seen == list(table) == table.rows
    assert len(table) == 4
    assert table.column("attention") == ["full", "full", "tile", "tile"]
    text = table.to_csv(tmp_path / "sweep.csv")
    assert (tmp_path / "sweep.csv").read_text() == text
    read = list(csv.DictReader(io.StringIO(text)))
    assert [int(row["cycles"]) for row in read] == table.column("cycles")
    assert read[0]["accuracy"] == ""


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tiles": ()}, "tiles"),
        ({"fifos": []}, "fifos"),
        ({"attention": ()}, "attention"),
        ({"tiles": (4, 0)}, "tile"),
        ({"attention": ("full", "whole")}, "attention"),
        ({"hardware": "none"}, "hardware"),
        ({"data": "digits"}, "data"),
        ({"images": -1}, "images"),
    ],
)
def test_bad_input(change: dict[str, Any], field: str) -> None:
    arguments: dict[str, Any] = {"model": SMALL, "hardware": SPATIAL, "tiles": (4,), "fifos": (2,), **change}
    with pytest.raises(InputError) as caught:
        sweep(**arguments)
    assert caught.value.field == field
