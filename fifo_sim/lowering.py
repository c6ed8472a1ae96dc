"""From a network and a machine to a pipeline: which stages, how long each firing takes, what shares a port."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fifo_sim.energy import EnergyReport, energy_of
from fifo_sim.graph import MATMUL, PASSES, TRANSFERS, Graph, Operation, bytes_of
from fifo_sim.hardware import Hardware
from fifo_sim.memory import MemoryLedger, fit
from fifo_sim.parts import Resource, Stage
from fifo_sim.pipeline import Pipeline
from fifo_sim.spatial import Task, share_lanes
from fifo_sim.systolic import product_cycles
from fifo_sim.vit_graph import vit_graph
from vit.config import ViTConfig
from vit.errors import require_int
from vit.layers import LayerInfo, config_of, describe

if TYPE_CHECKING:
    from torch import nn

MOST_IMAGES = 2**40


@dataclass(frozen=True)
class Lowered:
    """A network laid out on a machine.

    Attributes:
        pipeline: what `simulate` runs; stages are named after the model's modules.
        memory: on-chip memory by item, and DRAM traffic of the run.
        graph: operations and FIFOs with their sizes, for one image.
        hardware, tile, fifo, attention, images: as asked for.
        lanes: multipliers of each layer on a spatial machine; empty on a systolic one.
    """

    pipeline: Pipeline
    memory: MemoryLedger
    graph: Graph
    hardware: Hardware
    tile: int
    fifo: int
    attention: str
    images: int
    lanes: dict[str, int]

    @property
    def token_bytes(self) -> list[int]:
        """Size of one slot of each FIFO, in the pipeline's edge order."""
        return [bytes_of(link.token_bits) for link in self.graph.links]

    @cached_property
    def bound_cycles(self) -> int:
        """Cycles of the busiest stage or shared port: no run is shorter."""
        busy = {
            stage.name: stage.service_pattern.total(firings)
            for stage, firings in zip(self.pipeline.stages, self.pipeline.firings, strict=True)
        }
        ports = [sum(busy[name] for name in resource.order) for resource in self.pipeline.resources]
        return max(*busy.values(), *ports)

    def energy(self) -> EnergyReport:
        """Energy of the run, by item, pJ."""
        return energy_of(self.graph, self.hardware, self.images)

    def latency_ms(self, cycles: int) -> float:
        """How long a run of that many cycles lasts, ms."""
        return self.hardware.milliseconds(cycles)


def lower(
    model_or_config: nn.Module | ViTConfig | Mapping[str, Any],
    hardware: Hardware | str | Path,
    tile: int = 8,
    fifo: int = 4,
    attention: str = "full",
    images: int = 1,
) -> Lowered:
    """Lay a Vision Transformer out as a streaming pipeline.

    Args:
        model_or_config: a VisionTransformer (plain, pruned or prepared for QAT), a timm ViT or DeiT, a ViTConfig or a
            dict of its fields. Widths that the model's layers state win over the machine's.
        hardware: a Hardware, the name of a preset, or the path of a TOML file.
        tile: tokens that travel together; need not divide the sequence.
        fifo: depth of an ordinary FIFO in tiles; of a window, the tiles that a tile attends to.
        attention: "full", "window" or "tile".
        images: images that follow one another without a gap.

    Raises:
        InputError: an argument is out of range, or the model is no Vision Transformer.
        DoesNotFit: it does not fit the machine (an InputError too, that names the shortfall).
    """
    machine = Hardware.load(hardware)
    if isinstance(model_or_config, Mapping):
        model_or_config = ViTConfig.from_dict(model_or_config)
    config = model_or_config if isinstance(model_or_config, ViTConfig) else config_of(model_or_config)
    return lay_out(config, describe(model_or_config), machine, tile, fifo, attention, images)


def lay_out(
    config: ViTConfig,
    layers: Sequence[LayerInfo],
    machine: Hardware,
    tile: int,
    fifo: int,
    attention: str,
    images: int,
) -> Lowered:
    """`lower` for a network that is given by its shape and its layers, as `vit.layers.describe` tells them."""
    require_int("images", images, 1, MOST_IMAGES)
    whole = vit_graph(config, layers, machine, tile, fifo, attention)
    graph, memory = fit(whole, machine, images)
    lanes = _lanes(graph, machine)
    stages = tuple(
        Stage(
            op.name,
            {"repeat": [_cycles(op, k, machine, lanes) for k in range(op.firings)]},
            op.firings * images,
            mode="bbs" if op.kind in TRANSFERS else "bas",  # a transfer is asked for when there is room for it
        )
        for op in graph.operations
    )
    firings = {op.name: op.firings for op in graph.operations}
    edges = tuple(link.edge(firings[link.src]) for link in graph.links)
    pipeline = Pipeline(None, stages, edges, _ports(graph, machine))
    return Lowered(pipeline, memory, graph, machine, tile, fifo, attention, images, lanes)


def _lanes(graph: Graph, hardware: Hardware) -> dict[str, int]:
    if hardware.style != "spatial":
        return {}
    assert hardware.mac_lanes is not None
    tasks = {op.name: Task([_work(op, k) for k in range(op.firings)]) for op in graph.of_kind(MATMUL)}
    return share_lanes(tasks, hardware.mac_lanes)


def _work(op: Operation, firing: int) -> int:
    """Multiply-accumulates of one firing that take time."""
    macs = op.products[firing].macs
    return macs if op.weights is None else ceil(macs * op.weights.density)


def _cycles(op: Operation, firing: int, hardware: Hardware, lanes: Mapping[str, int]) -> int:
    if op.kind in TRANSFERS:
        return max(1, ceil(op.amounts[firing] / hardware.dram_bits_per_cycle))
    if op.kind != MATMUL:
        return max(1, -(-op.amounts[firing] * PASSES[op.kind] // hardware.elementwise_lanes))
    if hardware.style == "spatial":
        return max(1, -(-_work(op, firing) // lanes[op.name]))
    assert hardware.array_rows is not None
    assert hardware.array_cols is not None
    assert hardware.dataflow is not None
    return product_cycles(op.products[firing], hardware.array_rows, hardware.array_cols, hardware.dataflow)


def _ports(graph: Graph, hardware: Hardware) -> tuple[Resource, ...]:
    """Shared ports; whoever is further up the pipeline goes first: deeper FIFOs are filled ahead and hide more."""
    groups: dict[str, list[str]] = {"dram": [], "array": [], "vector": []}
    for op in graph.operations:
        if op.kind in TRANSFERS:
            groups["dram"].append(op.name)
        elif hardware.style == "systolic":
            on_array = op.kind == MATMUL or hardware.vector_unit == "array"
            groups["array" if on_array else "vector"].append(op.name)
    return tuple(Resource(tuple(order), "priority") for order in groups.values() if len(order) > 1)
