"""The fields a search may choose values for: of the architecture, its quantisation, the tiles, and the hardware.

Besides the names in SEARCHABLE there are two families: `weights.PATTERN`, the weight scheme of the layers that the
pattern fits (as in `quant.QuantConfig`), and `hardware.KEY`, a key of `fifo_sim.Hardware`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from vit.config import POOLS, STEMS
from vit.errors import InputError, did_you_mean, require_choice, require_float, require_int

ATTENTIONS = ("full", "window", "tile")
STREAMING = {"tile": 8, "fifo": 4, "attention": "full"}  # the fields of the tiles, and their defaults
ARCHITECTURE = ("dim", "depth", "heads", "mlp_ratio", "patch_size", "stem", "pool", "drop_path", "head_dim")
WEIGHTS, ACTIVATIONS, HARDWARE = "weights", "activations", "hardware"
SEARCHABLE = (*ARCHITECTURE, *STREAMING, WEIGHTS, ACTIVATIONS, HARDWARE)
FAMILIES = (f"{WEIGHTS}.PATTERN", f"{HARDWARE}.KEY")
SHARES = {"mlp_ratio": (0, 64), "drop_path": (0, 1)}  # without 0, and without 1


def require_fields(where: str, names: Iterable[Any], also: Iterable[str] = ()) -> None:
    """Refuse a name that is neither a field nor one of `also`, with what was probably meant."""
    known = [*SEARCHABLE, *also]
    for name in names:
        if not isinstance(name, str) or not (name in known or pattern_of(name) or key_of(name)):
            hint = did_you_mean(name, known)
            raise InputError(where, name, f"one of {', '.join((*known, *FAMILIES))}", hint)


def pattern_of(name: str) -> str:
    """The layers that a field such as weights.blocks.*.mlp is about; empty for any other field."""
    family, _, pattern = name.partition(".")
    return pattern if family == WEIGHTS else ""


def key_of(name: str) -> str:
    """The key of Hardware that a field such as hardware.sram_kib sets; empty for any other field."""
    family, _, key = name.partition(".")
    if family != HARDWARE or not key:
        return ""
    return require_choice(name, key, hardware_keys())


def require_value(name: str, value: Any) -> Any:
    """A value of a field, checked as far as it can be alone."""
    from quant.config import ACTIVATIONS as WIDTHS
    from quant.config import FLOAT
    from quant.level_sets import SCHEMES

    where = f"space.{name}"
    if name in SHARES:
        return require_float(where, value, *SHARES[name], open_low=name == "mlp_ratio", open_high=name == "drop_path")
    if name == WEIGHTS or pattern_of(name):
        return require_choice(where, value, (*SCHEMES, FLOAT))
    choices = {"stem": STEMS, "pool": POOLS, "attention": ATTENTIONS, ACTIVATIONS: WIDTHS}
    if name in choices:
        return require_choice(where, value, choices[name])
    if name == HARDWARE:
        if not isinstance(value, str) or not value:
            raise InputError(where, value, "names of presets or TOML files")
        return value
    if key_of(name):
        if (isinstance(value, float) and not math.isfinite(value)) or not isinstance(value, (bool, int, float, str)):
            raise InputError(where, value, "numbers, names, true or false, as Hardware has them")
        return value
    return require_int(where, value)


def require_values(name: str, values: Any) -> tuple[Any, ...]:
    """The values of a searched field: at least one, each of its kind, no two the same."""
    if not isinstance(values, (list, tuple)) or not values:
        raise InputError(f"space.{name}", values, "a list of at least one value")
    found = tuple(require_value(name, value) for value in values)
    if len(set(found)) != len(found):
        raise InputError(f"space.{name}", values, "a list of values that differ")
    return found


def hardware_keys() -> tuple[str, ...]:
    """The keys of Hardware that can be set one by one."""
    from dataclasses import fields

    from fifo_sim import Hardware

    return tuple(field.name for field in fields(Hardware) if field.name not in ("name", "style", "energy"))
