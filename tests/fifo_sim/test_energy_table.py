"""The published constants, and the laws between them."""

from __future__ import annotations

import pytest

from fifo_sim.energy_table import EnergyTable

TABLE = EnergyTable()


def test_anchors_are_hit_exactly() -> None:
    assert TABLE.add(8) == pytest.approx(0.03)
    assert TABLE.add(32) == pytest.approx(0.1)
    assert TABLE.multiply(8, 8) == pytest.approx(0.2)
    assert TABLE.multiply(32, 32) == pytest.approx(3.1)
    assert TABLE.shift(8) == pytest.approx(0.024)
    assert TABLE.shift(32) == pytest.approx(0.13)
    assert TABLE.sram(64, 8 * 1024) == pytest.approx(10)
    assert TABLE.sram(64, 32 * 1024) == pytest.approx(20)
    assert TABLE.sram(64, 1024 * 1024) == pytest.approx(100)
    assert TABLE.dram(64) == pytest.approx(1300)


def test_between_and_beyond_the_anchors() -> None:
    assert TABLE.sram(64, 16 * 1024) == pytest.approx(10 * 2**0.5)  # twice the energy for four times the size
    assert TABLE.sram(64, 100) == pytest.approx(10)
    assert TABLE.sram(64, 2**21) > 100
    assert TABLE.multiply(4, 8) == pytest.approx(TABLE.multiply(32**0.5, 32**0.5))
    assert 0.03 < TABLE.add(16) < 0.1


def test_what_a_power_of_two_saves() -> None:
    """8-bit activations into a 32-bit accumulator: 0.2 + 0.1 against 0.024 + 0.1."""
    assert TABLE.mac(8, 8, 32) == pytest.approx(0.3)
    assert TABLE.mac(4, 8, 32, "pot") == pytest.approx(0.124)
    assert TABLE.mac(4, 8, 32, "apot") == pytest.approx(0.248)
    assert TABLE.mac(4, 8, 32, "pot") < TABLE.mac(4, 8, 32) < TABLE.mac(8, 8, 32)
