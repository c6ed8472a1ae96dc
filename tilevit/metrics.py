"""Models side by side: one row of measurements each, the same for all, and their change against a baseline."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fifo_sim import lower, simulate
from quant import save_qat
from tilevit.models import SUFFIX, Loaded
from vit import ImageSet, evaluate, process_memory, profile_models, save_checkpoint
from vit.errors import InputError
from vit.zoo import model_spec

Row = dict[str, Any]
MACHINE = "zcu104"  # models power where nothing measures it
LOADER = "tilevit.models:network_in"
PERCENT, MIB, MEGA = (100.0, ".2f"), (2.0**-20, ".3f"), (1e-6, ".3f")


@dataclass(frozen=True)
class Column:
    """A measurement as a table shows it: `scale` times the value, in `form`."""

    key: str
    title: str
    scale: float = 1.0
    form: str = ".3f"


COLUMNS = (
    Column("accuracy", "accuracy, %", *PERCENT),
    Column("latency_ms", "latency, ms"),
    Column("latency_p95_ms", "p95, ms"),
    Column("throughput", "images/s", form=",.1f"),
    Column("file_bytes", "on disk, MiB", *MIB),
    Column("process_memory_bytes", "process, MiB", 2.0**-20, ".1f"),
    Column("peak_memory_bytes", "tensors, MiB", *MIB),
    Column("macs", "MACs, M", *MEGA),
    Column("flops", "FLOPs, M", *MEGA),
    Column("params", "parameters, M", *MEGA),
    Column("sparsity", "sparsity, %", *PERCENT),
    Column("power_w", "power, W", form=".3g"),
    Column("energy_mj", "energy, mJ/image", form=".4g"),
)


def measure(
    models: Mapping[str, Loaded],
    images: ImageSet | None = None,
    *,
    hardware: str | None = None,
    batch_size: int = 16,
    rounds: int = 20,
) -> dict[str, Row]:
    """The measurements of each model by name: the fields of vit.Profile, and those that need the whole house.

    `file_bytes` is the size of its checkpoint, `process_memory_bytes` the peak of a fresh process that loads it and
    predicts one image, `accuracy` that on `images`. `modelled_*` is what the simulator says of it on `hardware`; where
    the machine has no counter of energy, `power_w` and `energy_mj` are the modelled ones and `power_source` says so.

    Args:
        hardware: a preset or TOML file. None is MACHINE, for models that can be laid out on it.

    Raises:
        InputError: a packed model; one that cannot be laid out on the `hardware` asked for.
    """
    networks = {name: loaded.network() for name, loaded in models.items()}
    modelled = {name: _modelled(network, hardware) for name, network in networks.items()}
    profiles = profile_models(networks, batch_size=batch_size, rounds=rounds)
    rows: dict[str, Row] = {}
    for name, loaded in models.items():
        row: Row = profiles[name].to_dict() | _stored(loaded) | modelled[name]
        row["accuracy"] = None if images is None else evaluate(networks[name], images).accuracy
        if row["power_w"] is None and modelled[name]["modelled_power_w"] is not None:
            row["power_w"], row["energy_mj"] = row["modelled_power_w"], row["modelled_energy_pj"] / 1e9
            row["power_source"] = f"modelled on {row['modelled_hardware']}"
        rows[name] = row
    return rows


def changes(rows: Mapping[str, Row], baseline: str) -> dict[str, dict[str, float | None]]:
    """Change of each measurement of the other models against the baseline's, in percent of it; None where it has none.

    Of power and energy, only where both were counted or modelled in the same way.
    """
    base = rows[baseline]

    def change(row: Row, key: str) -> float | None:
        comparable = key not in ("power_w", "energy_mj") or row["power_source"] == base["power_source"]
        known = comparable and row[key] is not None and bool(base[key])
        return 100 * (row[key] / base[key] - 1) if known else None

    return {
        name: {column.key: change(row, column.key) for column in COLUMNS}
        for name, row in rows.items()
        if name != baseline
    }


def conditions(row: Row, images: str) -> str:
    """How the rows were measured, in a few sentences; `images` says what the accuracy is of."""
    power = row["power_source"] or "not counted on this machine, and not modelled for this model"
    return (
        f"Latency: median and 95th percentile of {row['rounds']} images, one alone, after {row['warmup']} others, "
        f"models in turns, on {row['device']} with {row['threads']} thread{'s' * (row['threads'] > 1)}; images/s in "
        f"batches of {row['batch_size']}. Accuracy: {images}. Memory: the peak of a fresh process that predicts one "
        f"image, and of its tensors. 1 MAC = 2 FLOPs. Power and energy: {power}."
    )


def cells(rows: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    """Titles and texts of the table of measurements; a column that no model has is left out."""
    kept = [column for column in COLUMNS if any(row[column.key] is not None for row in rows.values())]
    lines = [[name, *(_shown(row[c.key], c.scale, c.form) for c in kept)] for name, row in rows.items()]
    return ["model", *(column.title for column in kept)], lines


def change_cells(changed: Mapping[str, Mapping[str, float | None]]) -> tuple[list[str], list[list[str]]]:
    """Titles and texts of the table of changes, in percent."""
    kept = [column for column in COLUMNS if any(row[column.key] is not None for row in changed.values())]
    lines = [[name, *(_shown(row[c.key], 1, "+.2f") for c in kept)] for name, row in changed.items()]
    return ["model", *(column.title.split(",")[0] for column in kept)], lines


def markdown(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table as Markdown: the first column to the left, numbers to the right."""
    head = [" | ".join(titles), " | ".join(["---", *["---:"] * (len(titles) - 1)])]
    return "".join(f"| {line} |\n" for line in (*head, *(" | ".join(line) for line in lines)))


def as_csv(rows: Mapping[str, Row], changed: Mapping[str, Mapping[str, float | None]]) -> str:
    """Both tables as one: a row a model in plain units with how it was measured, then a row a model in percent."""
    text = io.StringIO()
    keys = [key for key in next(iter(rows.values())) if key not in (c.key for c in COLUMNS)]
    columns = ["model", "what", *(column.key for column in COLUMNS), *keys]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({"model": name, "what": "measured", **row} for name, row in rows.items())
    writer.writerows({"model": name, "what": "change_percent", **row} for name, row in changed.items())
    return text.getvalue()


def _shown(value: float | None, scale: float, form: str) -> str:
    return "-" if value is None else format(value * scale, form)


def _stored(loaded: Loaded) -> Row:
    """Size of the checkpoint, as it is or as it would be, and the memory of a process that reads it."""
    network = loaded.network()
    shape = model_spec(network)
    save: Callable[..., None] = save_qat if loaded.kind == "qat" else save_checkpoint
    with tempfile.TemporaryDirectory() as folder:
        file = Path(loaded.spec)
        if file.suffix != SUFFIX:
            file = Path(folder) / f"model{SUFFIX}"
            save(file, network)
        image = (shape["in_channels"], shape["image_size"], shape["image_size"])
        return {"file_bytes": file.stat().st_size, "process_memory_bytes": process_memory(file, image, LOADER)}


def _modelled(network: Any, hardware: str | None) -> Row:
    """What the simulator says of one image; None in place of each value where the model cannot be laid out."""
    try:
        lowered = lower(network, hardware or MACHINE)
    except InputError:
        if hardware is not None:
            raise
        return dict.fromkeys(f"modelled_{key}" for key in ("hardware", "cycles", "energy_pj", "power_w", "sram_kib"))
    cycles, picojoules = simulate(lowered.pipeline, history=False).cycles, lowered.energy().total_pj
    seconds = lowered.latency_ms(cycles) / 1e3 if cycles is not None else None
    return {
        "modelled_hardware": lowered.hardware.name,
        "modelled_cycles": cycles,
        "modelled_energy_pj": picojoules,
        "modelled_power_w": None if seconds is None else picojoules / 1e12 / seconds,
        "modelled_sram_kib": lowered.memory.sram_kib,
    }
