"""Energy of a run, item by item."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fifo_sim import lower
from fifo_sim.energy import OPERATIONS, energy_of
from fifo_sim.energy_table import EnergyTable
from fifo_sim.graph import Graph, Link, Operation, Product, Weights
from tests.fifo_sim.machines import SPATIAL, SYSTOLIC, TINY
from vit.config import ViTConfig
from vit.layers import layers_of

# One unit for each kind of cost, nothing elsewhere (a constant may not be 0).
NOTHING = 1e-9
FREE = EnergyTable(*[NOTHING] * 10)
MACHINE = replace(SPATIAL, accumulator_bits=32, energy=FREE)


def small_graph() -> Graph:
    """A transfer of 640 bits, a 3 x 4 by 4 x 5 product in two firings of 64-bit tokens, an addition of 10 elements."""
    graph = Graph()
    graph.add(Operation("input", "input", amounts=(320, 320)))
    weights = Weights(5, 64, bits=8)
    product = Operation("fc", "matmul", products=(Product(1, 3, 4, 5),) * 2, activation_bits=8, weights=weights)
    graph.add(product, Link("input", "fc", 64, depth=2))
    held = Link("fc", "add", 128, depth=4, need=(2, 2), rel=(0, 2))  # both tokens for both firings
    graph.add(Operation("add", "add", amounts=(10, 10)), held)
    return graph


@pytest.mark.parametrize(
    ("constant", "item", "times"),
    [
        ("multiply_8b_pj", "macs", 120),
        ("add_32b_pj", "macs", 120),
        ("add_32b_pj", "elementwise", 20),
        ("dram_pj", "dram", 10),  # words of 64 bits
        ("sram_8kib_pj", "weights", 10),  # five columns of a word, twice
        ("sram_8kib_pj", "activations", 2 + 2 + 2 * 2 + 2 * 4),  # written once, read as often as needed
    ],
)
def test_each_item_by_hand(constant: str, item: str, times: int) -> None:
    table = replace(FREE, **{constant: 1.0})
    found = energy_of(small_graph(), replace(MACHINE, energy=table)).items[item]
    assert found == pytest.approx(times, rel=1e-3)


def test_a_run_of_images_and_the_total() -> None:
    one, five = (energy_of(small_graph(), SPATIAL, images) for images in (1, 5))
    assert five.total_pj == pytest.approx(5 * one.total_pj)
    assert one.to_dict()["total"] == pytest.approx(sum(one.items.values()))


def test_multiplications_of_a_network() -> None:
    macs = sum(layer.macs for layer in layers_of(TINY))
    assert lower(TINY, SPATIAL, tile=3).energy().items["macs"] == pytest.approx(macs * 0.3)


def test_powers_of_two_show_what_they_save() -> None:
    def energy(coding: str, bits: int) -> dict[str, float]:
        return lower(ViTConfig(), replace(SPATIAL, weight_coding=coding, weight_bits=bits)).energy().items

    eight, four, shifts, sums = energy("int", 8), energy("int", 4), energy("pot", 4), energy("apot", 4)
    layers = layers_of(ViTConfig())
    weighted = sum(layer.macs for layer in layers if layer.kind != "attention")
    assert eight["macs"] - shifts["macs"] == pytest.approx(weighted * (0.2 - 0.024))
    assert shifts["macs"] < four["macs"] < eight["macs"]
    assert shifts["macs"] < sums["macs"] < eight["macs"]
    assert shifts["weights"] < 0.75 * eight["weights"]
    assert shifts["elementwise"] == eight["elementwise"]


def test_larger_tiles_read_weights_less_often() -> None:
    assert (
        lower(ViTConfig(), SPATIAL, 16).energy().items["weights"]
        < lower(ViTConfig(), SPATIAL, 2).energy().items["weights"]
    )


def test_one_large_memory_costs_more_than_many_small_ones() -> None:
    apart, together = (lower(TINY, replace(machine, sram_kib=1024)).energy().items for machine in (SPATIAL, SYSTOLIC))
    assert together["activations"] == pytest.approx(10 * apart["activations"])  # 100 against 10 pJ a word
    assert together["macs"] == apart["macs"]


def test_every_kind_of_stage_has_its_operations() -> None:
    kinds = {op.kind for op in lower(replace(TINY, pool="cls"), SPATIAL).graph.operations}
    assert kinds - {"input", "matmul"} == set(OPERATIONS)
