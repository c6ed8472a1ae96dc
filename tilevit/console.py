"""What a person sees: progress with an ETA on stderr, tables, and results alone on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

Tick = Callable[..., None]


def say(text: str) -> None:
    """One line to stderr, where progress goes; stdout belongs to results."""
    print(text, file=sys.stderr, flush=True)


def emit_json(value: Any) -> None:
    """A result, alone on stdout, as JSON."""
    json.dump(value, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


@contextmanager
def progress(label: str, total: int) -> Iterator[Tick]:
    """A progress bar with an ETA; yields `tick(note="", steps=1)`. Without a terminal: one line at the first step."""
    if not sys.stderr.isatty():
        told = False

        def first(note: str = "", steps: int = 1) -> None:
            nonlocal told
            if not told:
                say(f"{label} ({total} steps)")
            told = True

        yield first
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(label, total=total, note="")

        def tick(note: str = "", steps: int = 1) -> None:
            bars.update(task, advance=steps, note=note)

        yield tick


def table(title: str, headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout: numbers to the right, text to the left."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title, title_justify="left")
    for i, header in enumerate(headers):
        numeric = bool(rows) and all(isinstance(row[i], (int, float)) for row in rows)
        shown.add_column(header, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(cell(value) for value in row))
    Console().print(shown)


def tell(title: str, result: Mapping[str, Any], as_json: bool) -> None:
    """A result of single values: alone as JSON, or as a table of two columns."""
    if as_json:
        emit_json(dict(result))
        return
    rows = [[key, percent(value) if key.endswith("accuracy") else cell(value)] for key, value in result.items()]
    table(title, ["what", "value"], rows)


def cell(value: object) -> str:
    """A value as a table shows it: thousands grouped, floats at four significant digits."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return str(value)


def percent(fraction: float) -> str:
    """0.9712 -> '97.12 %'."""
    return f"{100 * fraction:.2f} %"
