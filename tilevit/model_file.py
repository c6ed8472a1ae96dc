"""A network in a TOML file, with what `tilevit search --export` says of it beside its architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit.errors import InputError, require_known_keys
from vit.files import read_toml

if TYPE_CHECKING:
    from fifo_sim import Hardware

TABLES = ("model", "recipe", "streaming", "weights", "hardware")
MACHINE = "machine"  # key of [hardware]: a preset or a TOML file; the others set keys of fifo_sim.Hardware
STREAMING = ("tile", "fifo", "attention")


def model_table(path: str | Path) -> dict[str, Any]:
    """The [model] table of a TOML file: fields of ViTConfig."""
    table = _tables(path).get("model")
    if not isinstance(table, dict):
        raise InputError("model", str(path), "a TOML file with a [model] table of ViTConfig fields")
    return table


def streaming_table(path: str | Path) -> dict[str, Any]:
    """What the [streaming] table says of tile, fifo and attention; empty where there is none.

    Raises:
        InputError: another key, or a value out of its range.
    """
    from fifo_sim.vit_graph import require_streaming

    table = _table(path, "streaming", STREAMING)
    require_streaming(**{"tile": 8, "fifo": 4, "attention": "full", **table})
    return table


def machine_of(path: str | Path, usual: str) -> Hardware:
    """The machine in the [hardware] table, the usual one where it names none, with the keys that are set there.

    Raises:
        InputError: an unknown machine or key, or a value out of its range.
    """
    from fifo_sim import Hardware
    from nas.fields import hardware_keys

    keys = _table(path, "hardware", (MACHINE, *hardware_keys()))
    return replace(Hardware.load(keys.pop(MACHINE, usual)), **keys)


def _table(path: str | Path, name: str, known: tuple[str, ...]) -> dict[str, Any]:
    table = _tables(path).get(name, {})
    if not isinstance(table, Mapping):
        raise InputError(name, str(path), f"a TOML file whose [{name}] is a table")
    require_known_keys(f"{path}: key of [{name}]", table, known)
    return dict(table)


def _tables(path: str | Path) -> dict[str, Any]:
    tables = read_toml(path, "model")
    require_known_keys(f"{path}: table", tables, TABLES)
    return tables
