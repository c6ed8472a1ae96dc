"""Models side by side: one row of measurements each, the same for all, and their change against a baseline."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fifo_sim import DoesNotFit, Hardware, lower, simulate
from quant import PackedModel, save_qat
from quant.qat import is_prepared
from tilevit.models import SUFFIX, Loaded
from vit import Deployed, ImageSet, evaluate, process_memory, profile_models, save_checkpoint
from vit.errors import InputError
from vit.zoo import model_spec

Row = dict[str, Any]
MACHINE = "zcu104"  # models power where nothing measures it
CPU = torch.device("cpu")
PREDICTOR = "tilevit.models:predict_file"
NOT_FITTING, NO_VIT = "does not fit", "no plain ViT"
UNKNOWN = "-"
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
    Column("modelled_cycles", "cycles", form=",.0f"),
    Column("modelled_sram_kib", "SRAM, KiB", form=",.1f"),
)


def measure(
    models: Mapping[str, Loaded],
    images: ImageSet | None = None,
    *,
    hardware: str | None = None,
    batch_size: int = 16,
    rounds: int = 20,
    device: torch.device = CPU,
) -> dict[str, Row]:
    """The measurements of each model by name: the fields of vit.Profile, and those that need the whole house.

    A packed model is timed on the integer engine. `file_bytes` is the size of its file, `process_memory_bytes` the peak
    of a fresh process that loads it and predicts one image, `accuracy` that on `images`. `modelled_*` is what the
    simulator says of it on `hardware`; where it cannot be laid out there, `modelled_problem` says why. Where the
    machine has no counter of energy, `power_w` and `energy_mj` are the modelled ones and `power_source` says so.

    Args:
        hardware: a preset or TOML file; None is MACHINE.
        device: where the models are timed, and left; packed ones on the CPU whatever it is.

    Raises:
        InputError: no such hardware, or images that a model does not take.
    """
    machine = Hardware.load(hardware or MACHINE)
    counted = {name: loaded.counted() for name, loaded in models.items()}
    modelled = {name: _modelled(network, machine) for name, network in counted.items()}
    sides = {name: _side(loaded, counted[name], device) for name, loaded in models.items()}
    profiles = profile_models(sides, batch_size=batch_size, rounds=rounds)
    rows: dict[str, Row] = {}
    for name, loaded in models.items():
        row: Row = profiles[name].to_dict() | _stored(loaded, counted[name]) | modelled[name]
        row["engine"] = "integer" if loaded.kind == "packed" else "torch"
        row["accuracy"] = None if images is None else accuracy_of(loaded, images)
        if row["power_w"] is None and row["modelled_power_w"] is not None:
            row["power_w"], row["energy_mj"] = row["modelled_power_w"], row["modelled_energy_pj"] / 1e9
            row["power_source"] = f"modelled on {machine.name}"
        rows[name] = row
    return rows


def accuracy_of(loaded: Loaded, images: ImageSet, device: str | None = None) -> float:
    """Fraction of the images it tells right; a packed model on the integer engine, an ONNX file by onnxruntime.

    Args:
        device: of a torch model; None is where it is.
    """
    if loaded.kind == "onnx":
        return float(loaded.model.accuracy(images))
    if loaded.kind == "packed":
        return packed_accuracy(loaded.packed(), images)[0]
    return evaluate(loaded.network(), images, device=device).accuracy


def packed_accuracy(packed: PackedModel, images: ImageSet) -> tuple[float, np.ndarray[Any, Any]]:
    """Accuracy of the integer engine, and the class it gives each image, int64 (N,)."""
    predictions = packed.predict(images.images.numpy()).argmax(axis=1)
    return float((predictions == images.labels.numpy()).mean()), predictions


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


def conditions(rows: Mapping[str, Row], images: str) -> str:
    """How the rows were measured, in a few sentences; `images` says what the accuracy is of."""
    row = next(iter(rows.values()))
    devices = " and ".join(dict.fromkeys(row["device"] for row in rows.values()))
    sources = dict.fromkeys(row["power_source"] for row in rows.values() if row["power_source"])
    power = "; ".join(sources) or "not counted on this machine, and not modelled"
    engines = [name for name, row in rows.items() if row["engine"] == "integer"]
    packed = f" On the integer engine: {', '.join(engines)}." if engines else ""
    problems = {name: row["modelled_problem"] for name, row in rows.items() if row["modelled_problem"]}
    where = f" Not modelled on {row['modelled_hardware']}: " if problems else ""
    untold = where + "; ".join(f"{name}: {problem}" for name, problem in problems.items()) + "." * bool(problems)
    return (
        f"Latency: median and 95th percentile of {row['rounds']} images, one alone, after {row['warmup']} others, "
        f"models in turns, on {devices} with {row['threads']} thread{'s' * (row['threads'] > 1)}; images/s in "
        f"batches of {row['batch_size']}. Accuracy: {images}. Memory: the peak of a fresh process that predicts one "
        f"image, and of its tensors. 1 MAC = 2 FLOPs. Power and energy: {power}. Cycles and SRAM: simulated on "
        f"{row['modelled_hardware']}.{packed}{untold}"
    )


def cells(rows: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    """Titles and texts of the table of measurements; a column that no model has is left out."""
    kept = [column for column in COLUMNS if any(_cell(row, column) != UNKNOWN for row in rows.values())]
    lines = [[name, *(_cell(row, column) for column in kept)] for name, row in rows.items()]
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


def _cell(row: Row, column: Column) -> str:
    """A measurement as text; where the simulator could not tell it, in a word why."""
    value = row[column.key]
    if value is None and column.key.startswith("modelled") and row["modelled_problem"]:
        return NOT_FITTING if row["modelled_fits"] is False else NO_VIT
    return _shown(value, column.scale, column.form)


def _shown(value: float | None, scale: float, form: str) -> str:
    return UNKNOWN if value is None else format(value * scale, form)


def _side(loaded: Loaded, counted: nn.Module, device: torch.device) -> nn.Module | Deployed:
    """What is timed: the network on the device, or the integer engine on torch's number of threads."""
    if loaded.kind != "packed":
        return counted.to(device)
    packed, threads = loaded.packed(), torch.get_num_threads()
    return Deployed(counted, lambda images: packed.predict(images, threads=threads))


def _stored(loaded: Loaded, network: nn.Module) -> Row:
    """Size of the file, as it is or as it would be, and the memory of a process that reads it."""
    shape = model_spec(network)
    save: Callable[..., None] = save_qat if is_prepared(network) else save_checkpoint
    with tempfile.TemporaryDirectory() as folder:
        file = Path(loaded.spec)
        if file.suffix != SUFFIX:
            file = Path(folder) / f"model{SUFFIX}"
            save(file, network)
        image = (shape["in_channels"], shape["image_size"], shape["image_size"])
        return {"file_bytes": file.stat().st_size, "process_memory_bytes": process_memory(file, image, PREDICTOR)}


def _modelled(network: nn.Module, machine: Hardware) -> Row:
    """What the simulator says of one image; None in place of each value, and why, where it cannot be laid out."""
    row: Row = dict.fromkeys(f"modelled_{key}" for key in ("cycles", "energy_pj", "power_w", "sram_kib"))
    row |= {"modelled_hardware": machine.name, "modelled_fits": None, "modelled_problem": None}
    try:
        lowered = lower(network, machine)
    except InputError as error:
        return row | {"modelled_fits": False if isinstance(error, DoesNotFit) else None, "modelled_problem": str(error)}
    cycles, picojoules = simulate(lowered.pipeline, history=False).cycles, lowered.energy().total_pj
    seconds = lowered.latency_ms(cycles) / 1e3 if cycles is not None else None
    return row | {
        "modelled_fits": True,
        "modelled_cycles": cycles,
        "modelled_energy_pj": picojoules,
        "modelled_power_w": None if seconds is None else picojoules / 1e12 / seconds,
        "modelled_sram_kib": lowered.memory.sram_kib,
    }
