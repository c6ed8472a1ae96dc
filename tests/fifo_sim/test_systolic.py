"""The closed forms against the same folds counted one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fifo_sim.graph import Product
from fifo_sim.systolic import product_cycles, systolic_cycles
from vit.errors import InputError

size, side = st.integers(1, 300), st.integers(1, 40)


def folds_counted(m: int, k: int, n: int, rows: int, cols: int, dataflow: str) -> int:
    """A fold at a time: load what stays (ws, is), stream the skewed operand, drain; the last cycle is not counted."""
    down, across, steps, load = {"os": (m, n, k, 0), "ws": (k, n, m, rows), "is": (k, m, n, rows)}[dataflow]
    cycles = 0
    for _ in range(0, down, rows):
        for _ in range(0, across, cols):
            cycles += load + steps + (rows - 1) + (cols - 1)
    return cycles - 1


@given(size, size, size, side, side, st.sampled_from(["os", "ws", "is"]))
def test_closed_form(m: int, k: int, n: int, rows: int, cols: int, dataflow: str) -> None:
    assert systolic_cycles(m, k, n, rows, cols, dataflow) == folds_counted(m, k, n, rows, cols, dataflow)


def test_by_hand() -> None:
    # 8 x 16 by 16 x 8 on 4 x 4. os: 4 folds of 16 + 6. ws: 4 x 2 folds of 8 + 6 + 4. is: 4 x 2 folds of 8 + 6 + 4.
    assert systolic_cycles(8, 16, 8, 4, 4, "os") == 4 * 22 - 1
    assert systolic_cycles(8, 16, 8, 4, 4, "ws") == 8 * 18 - 1
    assert systolic_cycles(8, 16, 8, 4, 4, "is") == 8 * 18 - 1
    # Taller than wide tells ws from is: m = 20 streams in ws, stays in is.
    assert systolic_cycles(20, 16, 8, 4, 4, "ws") == 4 * 2 * (20 + 6 + 4) - 1
    assert systolic_cycles(20, 16, 8, 4, 4, "is") == 4 * 5 * (8 + 6 + 4) - 1


def test_a_firing_takes_one_cycle_at_least() -> None:
    assert systolic_cycles(1, 1, 1, 1, 1, "os") == 0
    assert product_cycles(Product(1, 1, 1, 1), 1, 1, "os") == 1
    assert product_cycles(Product(1, 0, 16, 8), 4, 4, "os") == 1
    assert product_cycles(Product(3, 8, 16, 8), 4, 4, "os") == 3 * (4 * 22 - 1)


def test_unknown_dataflow() -> None:
    with pytest.raises(InputError, match="did you mean 'ws'"):
        systolic_cycles(1, 1, 1, 1, 1, "w")
