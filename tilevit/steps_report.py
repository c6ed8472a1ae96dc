"""The page of a run of steps, results.md: every table that its results give."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tilevit.console import percent
from tilevit.metrics import cells, change_cells, markdown
from vit.errors import InputError
from vit.files import read_json, read_text, write_text, written_aside

CPU_INFO = Path("/proc/cpuinfo")
INTEGER_DOT = frozenset({"avx512_vnni", "avx_vnni", "asimddp"})  # of x86, and of ARM
FP16_ARITHMETIC = frozenset({"avx512_fp16", "asimdhp"})
Results = Mapping[str, Any]
Row = Mapping[str, Any]


def write_page(folder: str | Path) -> Path:
    """Write plots/*.png and results.md from the results.json and stats.csv of a folder; returns the page's path.

    Raises:
        InputError: they are absent or damaged.
    """
    from tilevit.plots import curves, stages

    folder = Path(folder)
    results = read_json(folder / "results.json", "run")
    stats = list(csv.DictReader(io.StringIO(read_text(folder / "stats.csv", "run"))))
    try:
        text, bars = page(results), accuracies(results)
        pictures = [*(curves(stats) if stats else ()), *([("accuracy", stages(bars))] if bars else [])]
    except (KeyError, TypeError) as error:
        raise InputError("run", str(folder), "the folder of a finished run", f"its files lack {error}") from error
    for name, figure in pictures:
        with written_aside(folder / "plots" / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png")
    write_text(folder / "results.md", text)
    return folder / "results.md"


def page(results: Results) -> str:
    """All of it as Markdown."""
    data, steps = results["data"], results["steps"]
    parts = [
        f"# {results['title'] or 'Results'}\n",
        f"Data {data['name']}: {data['train']:,} training and {data['val']:,} validation images of "
        f"{data['image_size']}×{data['image_size']}×{data['channels']}, {len(data['classes'])} classes; seed "
        f"{results['config']['seed']}. Every choice was made on validation images.\n",
    ]
    trained = {name: step for name, step in steps.items() if "val_accuracy" in step}
    if trained:
        parts.append("## After each step\n")
        parts.append(markdown(*_trained_cells(trained)))
    quantised = {name: step for name, step in steps.items() if step["run"] == "ptq"}
    if quantised:
        parts.append("## Quantised after training\n")
        parts.append(markdown(*_quantised_cells(quantised)))
        parts.append("".join(f"- **{name}**: {why(step, cpu_flags())}\n" for name, step in quantised.items()))
    for name, step in steps.items():
        if step["run"] == "profile":
            parts.append(f"## {name}\n")
            parts.append(markdown(*cells(step["models"])))
            if "baseline" in step:
                parts.append(f"Change against {step['baseline']}, %:\n")
                parts.append(markdown(*change_cells(step["change_percent"])))
            parts.append(f"{step['conditions']}\n")
        elif step["run"] == "evaluate":
            parts.append(f"## {name}: accuracy on {step['images']:,} {step['split']} images\n")
            lines = [[model, percent(accuracy)] for model, accuracy in step["accuracy"].items()]
            parts.append(markdown(["model", "accuracy"], lines))
    return "\n".join(parts)


def accuracies(results: Results) -> list[dict[str, Any]]:
    """Name, validation accuracy and size on disk after each step that leaves a model."""
    rows = []
    for name, step in results["steps"].items():
        if step["run"] == "ptq":
            rows.append({"name": name, "val_accuracy": step["accuracy"], "size_bytes": step["size_bytes"]})
        elif "val_accuracy" in step:
            accuracy = step.get("packed_val_accuracy", _accuracy(step))
            rows.append({"name": name, "val_accuracy": accuracy, "size_bytes": _size(step)})
    return rows


def why(step: Row, flags: frozenset[str]) -> str:
    """Why size, accuracy and latency of a quantised file are as they are on a CPU with these features."""
    faster = step["float_latency_ms"] / step["latency_ms"]
    speed = f"{faster:.2f}× as fast as float" if faster >= 1 else f"{1 / faster:.2f}× as slow as float"
    kept = len(step["kept_in_float"])
    spared = f" {kept} of {len(step['bits'])} layers stayed in float, as they cost the most accuracy." if kept else ""
    dot = _said_of_cpu(flags, INTEGER_DOT, "integer dot products")
    fp16 = _said_of_cpu(flags, FP16_ARITHMETIC, "FP16 arithmetic", ", so it converts and back")
    reasons = {
        "fp16": f"every weight has half the bytes and nearly all its digits, so the accuracy stays; {fp16}",
        "int8-dynamic": (
            "weights have a quarter of the bytes; the range of each activation is found as it comes, which fits every "
            f"image and costs a pass over it; {dot}"
        ),
        "int8-static": (
            "weights have a quarter of the bytes; ranges of activations are fixed from training images, which saves "
            f"that pass and may cut off what lies outside; {dot}"
        ),
        "int4-weight": (
            "weights have an eighth of the bytes and a scale for every 32; they are unpacked to float before each "
            "product, so the file is what becomes smaller, not the work"
        ),
    }
    measured = f"{speed}, {step['compression']:.2f}× smaller, {100 * step['change']:+.2f} points of accuracy"
    return f"{reasons[step['method']]}: {measured}.{spared}"


def _said_of_cpu(flags: frozenset[str], features: frozenset[str], what: str, lack: str = "") -> str:
    """Whether the CPU has what any of these features gives, and what its lack means; unknown without flags."""
    if not flags:
        return f"whether this CPU has {what} is not known here"
    return f"this CPU has {what}" if flags & features else f"this CPU has no {what}{lack}"


def cpu_flags() -> frozenset[str]:
    """Features of the CPU as Linux names them, of x86 and of ARM; none elsewhere."""
    if not CPU_INFO.exists():
        return frozenset()
    lines = (line.partition(":") for line in CPU_INFO.read_text().splitlines())
    return frozenset(next((value.split() for key, _, value in lines if key.strip() in ("flags", "Features")), ()))


def _trained_cells(steps: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    lines = []
    for name, step in steps.items():
        size = f"{_size(step):,}"
        lines.append(
            [name, step["run"], percent(_accuracy(step)), f"{step['params']:,}", f"{step['sparsity']:.3f}", size]
        )
    return ["step", "what", "validation accuracy", "parameters", "sparsity", "bytes"], lines


def _quantised_cells(steps: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    lines = [
        [
            name,
            step["method"],
            percent(step["accuracy"]),
            f"{100 * step['change']:+.2f}",
            f"{step['size_bytes'] / 2**20:.3f}",
            f"{step['compression']:.2f}×",
            f"{step['latency_ms']:.3f}",
            f"{step['float_latency_ms']:.3f}",
        ]
        for name, step in steps.items()
    ]
    titles = ["step", "method", "validation accuracy", "change, points", "size, MiB", "compression", "latency, ms"]
    return [*titles, "float latency, ms"], lines


def _accuracy(step: Row) -> float:
    """Of the checkpoint that later steps take: the best epoch's where there is one."""
    accuracy: float = step.get("best_val_accuracy", step["val_accuracy"])
    return accuracy


def _size(step: Row) -> int:
    """Bytes of what the step leaves: the packed file of QAT, else the checkpoint."""
    size: int = step.get("packed_bytes", step["checkpoint_bytes"])
    return size
