"""Where the energy of a run goes: arithmetic, on-chip memory, DRAM."""

from __future__ import annotations

from dataclasses import dataclass

from fifo_sim.graph import MATMUL, TRANSFERS, Graph, Operation
from fifo_sim.hardware import Hardware

ITEMS = ("macs", "elementwise", "weights", "activations", "dram")

# (additions, multiplications) an element, at the width of the accumulator. LayerNorm: sum, sum of squares, difference,
# bias; square, scale, gain. Softmax: maximum, difference, sum and one addition and multiplication in a table-driven
# exponential, normalisation. GELU: a piecewise quadratic. Counts of plain implementations, not of a published design.
OPERATIONS = {"layernorm": (4, 3), "softmax": (4, 2), "gelu": (2, 2), "add": (1, 0), "pool": (1, 0)}


@dataclass(frozen=True)
class EnergyReport:
    """Energy of a run in pJ.

    Attributes:
        items: "macs", "elementwise", "weights" (reading them on chip), "activations" (FIFOs and buffers, written once
            and read by each firing that needs them) and "dram".
    """

    items: dict[str, float]

    @property
    def total_pj(self) -> float:
        """All items together."""
        return sum(self.items.values())

    def to_dict(self) -> dict[str, float]:
        """Items and total, pJ."""
        return {**self.items, "total": self.total_pj}


def energy_of(graph: Graph, hardware: Hardware, images: int = 1) -> EnergyReport:
    """Energy of a run of that many images; leakage and the clock tree are not in it.

    Within one firing every weight, input and output crosses the on-chip memory once. On a spatial machine each buffer
    is a memory of its own size, on a systolic one all are parts of one memory of `sram_kib`.
    """
    table = hardware.energy
    spent = dict.fromkeys(ITEMS, 0.0)

    def memory(bits: int, size_bytes: int) -> float:
        return table.sram(bits, size_bytes if hardware.style == "spatial" else hardware.sram_kib * 1024)

    for op in graph.operations:
        if op.kind == MATMUL:
            spent["macs"] += _macs(op, hardware)
        elif op.kind in TRANSFERS:
            spent["dram"] += table.dram(sum(op.amounts))
        else:
            adds, multiplies = OPERATIONS[op.kind]
            bits = hardware.accumulator_bits
            spent["elementwise"] += sum(op.amounts) * (adds * table.add(bits) + multiplies * table.multiply(bits, bits))
        if op.weights is not None:
            spent["weights"] += memory(_parameter_bits(op), op.weights.total_bytes)
    firings = {op.name: op.firings for op in graph.operations}
    for link in graph.links:
        written = link.token_bits * firings[link.src]
        need, rel = link.per_image(firings[link.dst])
        read = link.token_bits * sum(n - r for n, r in zip(need, (0, *rel), strict=False))
        spent["activations"] += memory(written + read, link.total_bytes)
    return EnergyReport({item: pj * images for item, pj in spent.items()})


def _macs(op: Operation, hardware: Hardware) -> float:
    macs, bits = sum(product.macs for product in op.products), op.activation_bits
    if op.weights is None:
        return macs * hardware.energy.mac(bits, bits, hardware.accumulator_bits)
    each = hardware.energy.mac(op.weights.bits, bits, hardware.accumulator_bits, op.weights.coding)
    return macs * op.weights.density * each


def _parameter_bits(op: Operation) -> int:
    """Bits of weights read for an image: by each firing all its columns; of positions each once."""
    assert op.weights is not None
    if op.kind == MATMUL:
        return sum(product.n for product in op.products if product.macs) * op.weights.column_bits
    return op.weights.column_bits * (op.firings if op.kind == "layernorm" else 1)
