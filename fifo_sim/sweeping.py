"""Tile size against FIFO depth: what each combination costs in cycles, stalls, memory, energy and accuracy."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fifo_sim.hardware import Hardware
from fifo_sim.lowering import lay_out
from fifo_sim.memory import ITEMS, DoesNotFit
from fifo_sim.memory_stalls import memory_stalls
from fifo_sim.simulator import simulate
from fifo_sim.vit_graph import require_streaming, tile_sizes
from vit.config import ViTConfig
from vit.errors import InputError
from vit.files import write_text
from vit.layers import LayerInfo, config_of, describe

if TYPE_CHECKING:
    from torch import nn

    from vit.image_set import ImageSet

Row = dict[str, Any]
Point = tuple[str, int, int]  # attention, tile, fifo
Mapper = Callable[[Callable[[Point], Row], Sequence[Point]], Iterable[Row]]
CAUSES = ("starved", "blocked", "resource")


def _column(item: str) -> str:
    return item.replace(" ", "_") + "_kib"


COLUMNS = (
    *("fits", "deadlock", "cycles", "bound_cycles", "latency_ms"),
    *(f"{cause}_cycles" for cause in (*CAUSES, "memory")),
    *("sram_kib", *map(_column, ITEMS), "dram_bytes", "energy_pj"),
)


class Table(Sequence[Row]):
    """Rows of a sweep, all with the same keys: a sequence of dicts that can be written as CSV."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def column(self, name: str) -> list[Any]:
        """The values of one column, in row order."""
        return [row[name] for row in self.rows]

    def to_csv(self, path: str | Path | None = None) -> str:
        """The table as CSV, with a header; also written to `path` where one is given. None becomes an empty cell."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.rows[0]) if self.rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        if path is not None:
            write_text(path, text.getvalue())
        return text.getvalue()


def sweep(
    model: nn.Module | ViTConfig | Mapping[str, Any],
    hardware: Hardware | str | Path,
    tiles: Sequence[int] = (1, 2, 4, 8),
    fifos: Sequence[int] = (1, 2, 4, 8),
    attention: str | Sequence[str] = "full",
    data: ImageSet | None = None,
    images: int = 1,
    progress: Callable[[Row], None] | None = None,
    mapper: Mapper = map,
) -> Table:
    """Lower, simulate and (with `data`) evaluate every combination of attention mode, tile size and FIFO depth.

    Args:
        model: as `lower` takes it; a model where accuracy is wanted.
        hardware: a Hardware, a preset or the path of a TOML file.
        data: labelled images for the accuracy. It is computed once for combinations whose results cannot differ: full
            attention, tiles with any FIFO depth, windows at least as long as the sequence.
        images: images back to back in the simulation.
        progress: called with each row when it is ready.
        mapper: applies a function to every combination, in their order. Both can be pickled, so one other than `map`
            can have the simulations done elsewhere; accuracy is evaluated here.

    Returns:
        one row a combination: attention, tile, fifo, fits (whether it fits on chip; if not, what follows is None),
        deadlock, cycles, bound_cycles (of the busiest stage or port), latency_ms, the stalled cycles summed over stages
        (starved_cycles, blocked_cycles, resource_cycles, and memory_cycles, the part that waits for DRAM), sram_kib and
        its items (weights_kib, fifos_kib ...), dram_bytes, energy_pj, accuracy (None without `data`).

    Raises:
        InputError: an argument is out of range, a list is empty, or `data` is given without a model.
    """
    machine = Hardware.load(hardware)
    modes = [attention] if isinstance(attention, str) else list(attention)
    for name, values in (("tiles", tiles), ("fifos", fifos), ("attention", modes)):
        if not isinstance(values, Sequence) or not values:
            raise InputError(name, values, "a list with one value at least")
    for mode, tile, fifo in product(modes, tiles, fifos):
        require_streaming(tile, fifo, mode)
    if isinstance(model, Mapping):
        model = ViTConfig.from_dict(model)
    if data is not None and isinstance(model, ViTConfig):
        raise InputError("data", "given", "absent for a configuration: it has no weights to evaluate")
    config = model if isinstance(model, ViTConfig) else config_of(model)
    costs = partial(_costs, config, describe(model), machine, images)
    accuracy = _Accuracies(model, data)
    rows, points = [], list(product(modes, tiles, fifos))
    for (mode, tile, fifo), cost in zip(points, mapper(costs, points), strict=True):
        row = {"attention": mode, "tile": tile, "fifo": fifo, **cost, "accuracy": accuracy.of(tile, fifo, mode)}
        rows.append(row)
        if progress is not None:
            progress(row)
    return Table(rows)


def _costs(config: ViTConfig, layers: Sequence[LayerInfo], hardware: Hardware, images: int, point: Point) -> Row:
    """The columns that come from hardware."""
    attention, tile, fifo = point
    try:
        lowered = lay_out(config, layers, hardware, tile, fifo, attention, images)
    except DoesNotFit:
        return dict.fromkeys(COLUMNS) | {"fits": False}
    result = simulate(lowered.pipeline)
    row = dict.fromkeys(COLUMNS) | {
        "fits": True,
        "deadlock": result.deadlock,
        "bound_cycles": lowered.bound_cycles,
        "sram_kib": lowered.memory.sram_kib,
        **{_column(item): size / 1024 for item, size in lowered.memory.by_item().items()},
        "dram_bytes": lowered.memory.total_dram_bytes,
        "energy_pj": lowered.energy().total_pj,
    }
    if result.cycles is not None:
        row["cycles"], row["latency_ms"] = result.cycles, lowered.latency_ms(result.cycles)
        row["memory_cycles"] = sum(memory_stalls(lowered, result).values())
        for cause in CAUSES:
            row[f"{cause}_cycles"] = sum(stage[cause] for stage in result.stalls.values())
    return row


class _Accuracies:
    """Accuracy of the streamed model, evaluated once for all combinations that compute the same."""

    def __init__(self, model: nn.Module | ViTConfig, data: ImageSet | None) -> None:
        self.model, self.data, self.known = model, data, dict[tuple[int, int], float]()

    def of(self, tile: int, fifo: int, attention: str) -> float | None:
        if self.data is None or isinstance(self.model, ViTConfig):
            return None
        tokens = config_of(self.model).tokens
        if attention == "full" or tile >= tokens:
            tile, fifo, attention = tokens, 1, "full"
        fifo = min(fifo, len(tile_sizes(tokens, tile))) if attention == "window" else 1
        if (tile, fifo) not in self.known:
            from fifo_sim.streamed import streaming
            from vit.evaluation import evaluate

            self.known[tile, fifo] = evaluate(streaming(self.model, tile, fifo, attention), self.data).accuracy
        return self.known[tile, fifo]
