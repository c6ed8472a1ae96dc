"""Compute cycles of one systolic array, in closed form."""

from __future__ import annotations

from fifo_sim.graph import Product
from fifo_sim.hardware import DATAFLOWS
from vit.errors import require_choice


def systolic_cycles(m: int, k: int, n: int, rows: int, cols: int, dataflow: str) -> int:
    """Cycles of an m x k by k x n product on a `rows` x `cols` array that never waits for memory.

    The closed forms of SCALE-Sim v2 (Samajdar et al., "A systematic methodology for characterizing scalability of DNN
    accelerators using SCALE-Sim", ISPASS 2020): the work is cut into folds that fill the array; a fold streams L steps
    through the skewed array, after d cycles to load what stays in place:

        folds * (L + rows + cols - 2 + d) - 1        L  d     folds
        "os", outputs stay in place                  k  0     ceil(m/rows) * ceil(n/cols)
        "ws", weights stay in place                  m  rows  ceil(k/rows) * ceil(n/cols)
        "is", inputs stay in place                   n  rows  ceil(k/rows) * ceil(m/cols)
    """
    require_choice("dataflow", dataflow, DATAFLOWS)
    if dataflow == "os":
        steps, down, across, load = k, m, n, 0
    elif dataflow == "ws":
        steps, down, across, load = m, k, n, rows
    else:
        steps, down, across, load = n, k, m, rows
    folds = -(-down // rows) * -(-across // cols)
    return folds * (steps + rows + cols - 2 + load) - 1


def product_cycles(product: Product, rows: int, cols: int, dataflow: str) -> int:
    """Cycles of all of a firing's products, one after the other; 1 if there is nothing to multiply."""
    if product.macs == 0:
        return 1
    return max(1, product.count * systolic_cycles(product.m, product.k, product.n, rows, cols, dataflow))
