"""A network in a TOML file, with what `tilevit search --export` says of it beside its architecture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.fields import STREAMING, hardware_keys
from quant.config import QuantConfig
from vit.errors import InputError, require_known_keys
from vit.files import read_toml

if TYPE_CHECKING:
    from fifo_sim import Hardware

ACTIVATIONS = "activations"  # a key beside the tables: the width of quantised layers' inputs
WEIGHTS = "weights"  # the table of layer patterns and weight schemes
TABLES = ("model", "recipe", "streaming", WEIGHTS, "hardware", ACTIVATIONS)
MACHINE = "machine"  # key of [hardware]: a preset or a TOML file; the others set keys of fifo_sim.Hardware


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
    require_streaming(**{**STREAMING, **table})
    return table


def quantisation_of(path: str | Path) -> QuantConfig | None:
    """How the network is quantised, by the table [weights] and the key activations; None where they are not there.

    Raises:
        InputError: an unknown scheme or width, or activations without [weights].
    """
    weights, tables = _table(path, WEIGHTS), _tables(path)
    for pattern, scheme in weights.items():
        if isinstance(scheme, Mapping):
            hint = f'a pattern with points stands in quotes: "{pattern}.{next(iter(scheme), "*")}" = ...'
            raise InputError(f"weights.{pattern}", dict(scheme), "a scheme for a pattern of layers", hint)
    if weights:
        return QuantConfig(weights, **{key: tables[key] for key in (ACTIVATIONS,) if key in tables})
    if ACTIVATIONS in tables:
        hint = "activations are rounded where weights are"
        raise InputError(ACTIVATIONS, tables[ACTIVATIONS], "left out without a table [weights]", hint)
    return None


def machine_of(path: str | Path, usual: str) -> Hardware:
    """The machine in the [hardware] table, the usual one where it names none, with the keys that are set there.

    Raises:
        InputError: an unknown machine or key, or a value out of its range.
    """
    from fifo_sim import Hardware

    keys = _table(path, "hardware", (MACHINE, *hardware_keys()))
    return replace(Hardware.load(keys.pop(MACHINE, usual)), **keys)


def _table(path: str | Path, name: str, known: Iterable[str] | None = None) -> dict[str, Any]:
    """A table of the file, whose keys are among those known; empty where it is not there."""
    table = _tables(path).get(name, {})
    if not isinstance(table, Mapping):
        raise InputError(name, str(path), f"a TOML file whose [{name}] is a table")
    if known is not None:
        require_known_keys(f"{path}: key of [{name}]", table, tuple(known))
    return dict(table)


def _tables(path: str | Path) -> dict[str, Any]:
    tables = read_toml(path, "model")
    require_known_keys(f"{path}: table", tables, TABLES)
    return tables
