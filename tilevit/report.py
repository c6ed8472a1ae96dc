"""report.html and plots/: a run as one self-contained page, from nothing but what lies in its folder."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tilevit.console import cell, percent
from vit.errors import InputError
from vit.files import read_json, read_text, write_text, written_aside

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; margin: .8rem 0; font-size: 13.5px; }
th, td { padding: .25rem .7rem; text-align: left; }
th { border-bottom: 2px solid #999; } td { border-bottom: 1px solid #eee; } td.number { text-align: right; }
img { max-width: 100%; } figure { margin: 1rem 0; } figcaption { color: #666; font-size: 13px; }
code { background: #f4f4f4; }
"""


def write_report(folder: str | Path) -> Path:
    """Write plots/*.png and report.html of a finished run; returns the page's path.

    Raises:
        InputError: the folder has no results.json or stats.csv, or they are damaged.
    """
    from tilevit.plots import figures

    folder = Path(folder)
    results = read_json(folder / "results.json", "run")
    stats = list(csv.DictReader(io.StringIO(read_text(folder / "stats.csv", "run"))))
    pictures = []
    try:
        for name, caption, figure in figures(results, stats):
            with written_aside(folder / "plots" / f"{name}.png") as temporary:
                figure.savefig(temporary, format="png")
            pictures.append((caption, (folder / "plots" / f"{name}.png").read_bytes()))
        page = _page(results, pictures)
    except (KeyError, TypeError, StopIteration) as error:
        raise InputError("run", str(folder), "the folder of a finished run", f"results.json lacks {error}") from error
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _page(results: Mapping[str, Any], pictures: Sequence[tuple[str, bytes]]) -> str:
    data, simulation, test = results["data"], results["simulation"], results["test"]
    parts = [
        f"<p>Data <b>{_text(data['name'])}</b>: {data['train']:,} training, {data['val']:,} validation and "
        f"{data['test']:,} test images of {data['image_size']}×{data['image_size']}×{data['channels']}. "
        f"Seed {results['config']['seed']}. Every choice was made on validation images; the test split was read once, "
        "for the table just below.</p>",
        "<h2>Test accuracy</h2>",
        _table(["model", "test accuracy"], [[name, percent(value)] for name, value in test["accuracy"].items()]),
        "<h2>After each stage</h2>",
        _table(
            ["stage", "validation accuracy", "sparsity", "size, bytes"],
            [[r["name"], percent(r["val_accuracy"]), r["sparsity"], r["size_bytes"]] for r in results["stages"]],
        ),
        f"<h2>Streaming on {_text(simulation['hardware'])}</h2>",
        _table(
            ["tile", "FIFO", "attention", "cycles", "latency, ms", "SRAM, KiB", "DRAM, bytes", "energy, µJ"],
            [
                [simulation[k] for k in ("tile", "fifo", "attention", "cycles", "latency_ms", "sram_kib", "dram_bytes")]
                + [simulation["energy_pj"]["total"] / 1e6]
            ],
        ),
        "<h2>Pictures</h2>",
        *(_figure(caption, png) for caption, png in pictures),
        "<h2>Memory and energy by item</h2>",
        _table(["SRAM item", "bytes"], list(simulation["memory_bytes"].items())),
        _table(["energy item", "pJ an image"], list(simulation["energy_pj"].items())),
        "<h2>The winner</h2>",
        _table(["field", "value"], list(results["model"]["config"].items())),
        "<h2>Settings and versions</h2>",
        _table(["key", "value"], [*results["config"].items(), *results["environment"].items()]),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>tilevit report</title>'
        f"<style>{STYLE}</style></head><body><h1>tilevit: from images to streaming hardware</h1>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    head = "".join(f"<th>{_text(h)}</th>" for h in headers)
    body = "".join("<tr>" + "".join(_cell(v) for v in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: object) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"<td{' class=number' if number else ''}>{_text(cell(value))}</td>"


def _figure(caption: str, png: bytes) -> str:
    source = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
    return f'<figure><img alt="{_text(caption)}" src="{source}"><figcaption>{_text(caption)}</figcaption></figure>'


def _text(value: object) -> str:
    return html.escape(str(value))
