"""What is on chip, item by item, and which weights have to stream from DRAM because they do not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fifo_sim.graph import Graph, bytes_of
from fifo_sim.hardware import Hardware
from fifo_sim.weight_streams import Stream, streamable, with_streams
from vit.errors import InputError
from vit.solver import milp

ITEMS = ("weights", "fifos", "residuals", "kv", "lines", "double buffers", "working tiles")
PIECES = (1, 4, 8, 16)  # least chunks of a layer, tried in turn; two chunks are on chip
GAP = 1e-3  # of the traffic that choosing the resident weights may leave on the table


class DoesNotFit(InputError):
    """The buffers of a network are larger than the on-chip memory, however many weights stream."""


@dataclass(frozen=True)
class Entry:
    """One buffer: the item it belongs to, the layer or FIFO it serves, its size."""

    item: str
    name: str
    bytes: int


@dataclass(frozen=True)
class MemoryLedger:
    """Memory of a network on a machine.

    Attributes:
        entries: every buffer on chip. Items: "weights" (those that stay on chip), "fifos", "residuals" (the FIFOs of
            residual connections), "kv" (keys and values), "lines" (image rows of the stem), "double buffers" (of
            weights that stream) and "working tiles" (what a stage computes from and into).
        capacity_bytes: on-chip memory of the machine.
        dram_bytes: traffic of the whole run through the DRAM port: {"input": images, "weights": weights that stream}.
        streamed: layers whose weights stream.
    """

    entries: tuple[Entry, ...]
    capacity_bytes: int
    dram_bytes: dict[str, int]
    streamed: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        """All buffers on chip."""
        return sum(entry.bytes for entry in self.entries)

    @property
    def sram_kib(self) -> float:
        """All buffers on chip, KiB."""
        return self.total_bytes / 1024

    @property
    def total_dram_bytes(self) -> int:
        """All traffic through the DRAM port."""
        return sum(self.dram_bytes.values())

    def by_item(self) -> dict[str, int]:
        """Bytes on chip of each item."""
        return {item: sum(e.bytes for e in self.entries if e.item == item) for item in ITEMS}

    def to_dict(self) -> dict[str, Any]:
        """Items, totals and traffic as plain JSON values."""
        return {
            "sram_bytes": self.by_item(),
            "sram_kib": self.sram_kib,
            "capacity_kib": self.capacity_bytes / 1024,
            "dram_bytes": dict(self.dram_bytes),
            "streamed": list(self.streamed),
        }


def fit(graph: Graph, hardware: Hardware, images: int) -> tuple[Graph, MemoryLedger]:
    """The graph with as many weights on chip as fit, the others streaming, and its ledger.

    Which layers stream is chosen so that DRAM traffic is least: a 0/1 knapsack, solved by scipy's HiGHS to within
    0.1 % of the optimum. Chunks get smaller than the machine's only where nothing else fits.

    Args:
        graph: all weights on chip.
        images: length of the run, for the traffic.

    Raises:
        DoesNotFit: even the smallest buffers do not fit: with every layer streaming, where the machine can stream.
    """
    capacity = int(hardware.sram_kib * 1024)
    chosen: list[Stream] = []
    fitted, excess = graph, sram_bytes(graph) - capacity
    for streams in _ways_to_stream(graph, hardware, excess) if excess > 0 else ():
        chosen, fitted, excess = _stream_enough(graph, streams, hardware, capacity)
        if excess <= 0:
            break
    if excess > 0:
        raise _too_small(hardware, excess)
    traffic = {
        item: sum(bytes_of(sum(op.amounts)) for op in fitted.of_kind(item)) * images for item in ("input", "weights")
    }
    names = tuple(stream.operation.name for stream in chosen)
    return fitted, MemoryLedger(tuple(entries_of(fitted)), capacity, traffic, names)


def _ways_to_stream(graph: Graph, hardware: Hardware, goal: int) -> list[list[Stream]]:
    """The layers that may stream: in chunks of the machine's size and then, for what only so fits, in smaller ones.

    What cannot free `goal` bytes is left out, but for the smallest chunks.
    """
    ways = [streamable(graph, hardware, pieces) for pieces in PIECES] if hardware.stream_weights else []
    enough = [way for way in ways[:-1] if sum(s.saved_bytes + bytes_of(s.operation.output_bits) for s in way) >= goal]
    return enough + ways[-1:]


def _stream_enough(
    graph: Graph, streams: list[Stream], hardware: Hardware, capacity: int
) -> tuple[list[Stream], Graph, int]:
    """The streams with least traffic that make a graph fit, that graph, and the bytes it exceeds the memory by."""
    goal = sram_bytes(graph) - capacity
    while True:
        chosen = least_traffic(streams, goal)
        fitted = with_streams(graph, chosen, hardware)
        excess = sram_bytes(fitted) - capacity
        if excess <= 0 or len(chosen) == len(streams):
            return chosen, fitted, excess
        goal += excess  # slots cut into chunks are rounded up to bytes, so that one round may free too little


def least_traffic(streams: Sequence[Stream], goal: int) -> list[Stream]:
    """The streams that free at least `goal` bytes with the least DRAM traffic; all of them if that is not enough."""
    saved = np.array([stream.saved_bytes for stream in streams])
    if saved.sum() <= goal:
        return list(streams)
    from scipy.optimize import Bounds, LinearConstraint

    traffic = np.array([stream.traffic_bits for stream in streams], dtype=np.float64)
    found = milp(
        traffic / traffic.max(),
        constraints=LinearConstraint(saved[None] / goal, lb=1),
        integrality=np.ones(len(streams)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": GAP},
    )
    taken = np.round(found.x).astype(bool)
    for i in np.argsort(traffic / saved):  # the solver's tolerance may leave a few bytes open
        taken[i] |= saved[taken].sum() < goal
    return [stream for stream, one in zip(streams, taken, strict=True) if one]


def entries_of(graph: Graph) -> list[Entry]:
    """Every buffer of the graph."""
    entries = [
        Entry("weights", op.name, op.weights.total_bytes)
        for op in graph.operations
        if op.weights is not None and op.weights.resident
    ]
    entries += [Entry(link.item, f"{link.src}->{link.dst}", link.total_bytes) for link in graph.links]
    copies: Counter[str] = Counter()
    for link in graph.links:
        if link.release == "start":
            copies[link.dst] += link.token_bits * link.taken
    return entries + [
        Entry("working tiles", op.name, bytes_of(copies[op.name] + op.output_bits + op.inner_bits))
        for op in graph.operations
    ]


def sram_bytes(graph: Graph) -> int:
    """All buffers of the graph together."""
    return sum(entry.bytes for entry in entries_of(graph))


def _too_small(hardware: Hardware, excess: int) -> DoesNotFit:
    way = "even with every layer's weights in DRAM" if hardware.stream_weights else "and its weights cannot stream"
    return DoesNotFit(
        "hardware.sram_kib",
        hardware.sram_kib,
        f"at least {hardware.sram_kib + excess / 1024:.1f} for this network, tile and FIFO depth",
        f"{excess / 1024:.1f} KiB are missing on {hardware.name} {way}; a smaller tile or FIFO takes less",
    )
