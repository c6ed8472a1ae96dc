"""What a search may choose from: values for each field of the architecture and of the hardware it streams through."""

from __future__ import annotations

import itertools
import json
import math
import random
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from vit.config import POOLS, STEMS, ViTConfig
from vit.errors import InputError, require_choice, require_float, require_int, require_known_keys
from vit.files import read_text, write_text

ATTENTIONS = ("full", "window", "tile")
STREAMING = {"tile": 8, "fifo": 4, "attention": "full"}  # the fields that are no part of ViTConfig, and their defaults
INTEGERS = ("patch_size", "dim", "depth", "heads", "head_dim", "tile", "fifo")
SEARCHABLE = ("dim", "depth", "heads", "mlp_ratio", "patch_size", "stem", "pool", "drop_path", "head_dim", *STREAMING)

Params = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """A condition between fields; `fields` are the ones it looks at, `holds` gets their values in that order."""

    name: str
    fields: tuple[str, ...]
    holds: Callable[..., bool]


RULES = (
    Rule(
        "heads divides dim",
        ("heads", "dim", "head_dim"),
        lambda heads, dim, head_dim: bool(head_dim or not dim % heads),
    ),
    Rule("patch_size divides image_size", ("patch_size", "image_size"), lambda patch, image: not image % patch),
    Rule(
        "patch_size is a power of two >= 2 with stem conv",
        ("patch_size", "stem"),
        lambda patch, stem: stem != "conv" or (patch >= 2 and not patch & (patch - 1)),
    ),
    Rule("mlp_ratio leaves a hidden unit", ("mlp_ratio", "dim"), lambda ratio, dim: int(ratio * dim) >= 1),
)


@dataclass(frozen=True)
class SearchSpace:
    """Choices for fields of ViTConfig and for tile, FIFO depth and attention mode of the streaming hardware.

    A candidate is a dict with one value for each field in `choices`. Candidates that break a rule between fields (heads
    divides dim, patch_size divides image_size, a power-of-two patch under the conv stem, an MLP of at least one unit)
    are not part of the space: they are neither counted, nor enumerated, nor sampled.

    Attributes:
        choices: the values of each searched field, in order; fields are those of SEARCHABLE.
        fixed: what does not vary: image_size, in_channels, num_classes, and any field not in `choices`. What is in
            neither takes ViTConfig's default, tile 8, fifo 4, attention "full".

    Raises:
        InputError: an unknown field, a value it cannot have, no or repeated values, or no candidate that keeps the
            rules (told with how many each rule refuses).

    >>> space = SearchSpace({"dim": [32, 48], "heads": [2, 3]}, {"image_size": 8, "patch_size": 2})
    >>> len(space), space.combinations
    (3, 4)
    >>> [(p["dim"], p["heads"]) for p in space]
    [(32, 2), (48, 2), (48, 3)]
    """

    choices: Mapping[str, Sequence[Any]]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    _ruled: tuple[Params, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.choices, Mapping) or not self.choices:
            raise InputError("space", self.choices, "a table of fields with a list of values each")
        require_known_keys("space", self.choices, SEARCHABLE)
        object.__setattr__(self, "choices", {name: _checked(name, values) for name, values in self.choices.items()})
        known = [f.name for f in fields(ViTConfig) if not f.name.startswith("block_")]
        require_known_keys("space.fixed", self.fixed, [*known, *STREAMING])
        for name, value in self.fixed.items():
            if name in self.choices:
                raise InputError("space.fixed", name, "a field that is not searched", "remove one of the two")
            _check_value(name, value)
        object.__setattr__(self, "fixed", dict(self.fixed))
        object.__setattr__(self, "_ruled", tuple(self._combinations_of_ruled_fields()))

    @classmethod
    def for_image(cls, image_size: int, in_channels: int = 3, num_classes: int = 10, **choices: Any) -> SearchSpace:
        """A space that suits images of this size: 2k to 6M parameters on grids of 2 to 8 tokens along each axis.

        Args:
            image_size: pixels along each side.
            in_channels, num_classes: of the data.
            choices: values for single fields in place of the default ones; a single value fixes the field.
        """
        require_int("image_size", image_size, low=2)
        small = image_size <= 16
        grids = [grid for grid in ((2, 4) if small else (4, 7, 8)) if image_size % grid == 0]
        default: dict[str, Any] = {
            "dim": [16, 32, 48, 64, 96] if small else [64, 96, 128, 192, 256],
            "depth": [1, 2, 3, 4] if small else [2, 3, 4, 6, 8],
            "heads": [1, 2, 4] if small else [2, 3, 4, 6, 8],
            "mlp_ratio": [1.0, 2.0, 4.0] if small else [1.0, 2.0, 3.0, 4.0],
            "patch_size": sorted(image_size // grid for grid in grids) or [image_size],
            "stem": list(STEMS),
        }
        named = {name: v if isinstance(v, (list, tuple)) else [v] for name, v in (default | choices).items()}
        shape = {"image_size": image_size, "in_channels": in_channels, "num_classes": num_classes}
        fixed = shape | {name: values[0] for name, values in named.items() if len(values) == 1}
        if all(name in fixed for name in named):  # a space of one candidate is a space
            del fixed["dim"]
        return cls({name: values for name, values in named.items() if name not in fixed}, fixed)

    def __len__(self) -> int:
        """Candidates that keep the rules."""
        return len(self._ruled) * math.prod(len(self.choices[name]) for name in self._free)

    @property
    def combinations(self) -> int:
        """Combinations of values, those that break a rule included."""
        return math.prod(len(values) for values in self.choices.values())

    def __iter__(self) -> Iterator[Params]:
        """Every candidate, in an order that depends on `choices` alone."""
        free = self._free
        for ruled in self._ruled:
            for values in itertools.product(*(self.choices[name] for name in free)):
                yield self._ordered(ruled | dict(zip(free, values, strict=True)))

    def sample(self, count: int, seed: int = 0) -> list[Params]:
        """`count` candidates, each drawn from the whole space with equal chances (repeats are possible)."""
        rng = random.Random(seed)
        return [
            self._ordered(rng.choice(self._ruled) | {name: rng.choice(self.choices[name]) for name in self._free})
            for _ in range(count)
        ]

    def broken_rules(self, params: Mapping[str, Any]) -> list[str]:
        """Names of the rules between fields that a candidate breaks; empty for one of the space."""
        return [rule.name for rule in RULES if not rule.holds(*(self.value(params, name) for name in rule.fields))]

    def value(self, params: Mapping[str, Any], name: str) -> Any:
        """The value of a field in a candidate, searched or not."""
        if name in params:
            return params[name]
        return self.fixed.get(name, STREAMING.get(name, getattr(ViTConfig, name, None)))

    def config(self, params: Mapping[str, Any]) -> ViTConfig:
        """The architecture of a candidate."""
        names = [f.name for f in fields(ViTConfig) if f.name in params or f.name in self.fixed]
        return ViTConfig(**{name: self.value(params, name) for name in names})

    def streaming(self, params: Mapping[str, Any]) -> Params:
        """Tile, FIFO depth and attention mode of a candidate."""
        return {name: self.value(params, name) for name in STREAMING}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: {"choices": {field: [values]}, "fixed": {field: value}}."""
        return {"choices": {name: list(values) for name, values in self.choices.items()}, "fixed": dict(self.fixed)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SearchSpace:
        """The space in a mapping as `to_dict` gives it; an InputError for anything else."""
        if not isinstance(values, Mapping):
            raise InputError("space", values, "a table with choices and fixed")
        require_known_keys("space", values, ("choices", "fixed"))
        fixed = values.get("fixed", {})
        if not isinstance(fixed, Mapping):
            raise InputError("space.fixed", fixed, "a table of fields and values")
        return cls(values.get("choices", {}), fixed)

    def save(self, path: str | Path) -> None:
        """Write the space as TOML, with tables [choices] and [fixed]."""
        tables = self.to_dict()
        lines = [
            f"[{table}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in tables[table].items()) for table in tables
        ]
        write_text(path, "\n".join(lines))

    @classmethod
    def load(cls, path: str | Path) -> SearchSpace:
        """The space in a TOML file that `save` wrote, or that a person did."""
        try:
            return cls.from_dict(tomllib.loads(read_text(path, "space")))
        except tomllib.TOMLDecodeError as error:
            raise InputError("space", str(path), "a TOML file", f"it does not parse: {error}") from error

    @property
    def _free(self) -> list[str]:
        """Searched fields that no rule looks at: any value goes with any other."""
        return [name for name in self.choices if name not in self._ruled_fields]

    @property
    def _ruled_fields(self) -> list[str]:
        looked_at = {name for rule in RULES for name in rule.fields}
        return [name for name in self.choices if name in looked_at]

    def _combinations_of_ruled_fields(self) -> Iterator[Params]:
        names, kept, refused = self._ruled_fields, 0, dict.fromkeys((rule.name for rule in RULES), 0)
        for values in itertools.product(*(self.choices[name] for name in names)):
            params = dict(zip(names, values, strict=True))
            broken = self.broken_rules(params)
            for name in broken:
                refused[name] += 1
            if not broken:
                kept += 1
                yield params
        if not kept:
            raise InputError(
                "space", self.to_dict(), "choices of which at least one combination keeps the rules", told(refused)
            )

    def _ordered(self, params: Params) -> Params:
        return {name: params[name] for name in self.choices}


def told(refused: Mapping[str, int]) -> str:
    """'X refuses 3, Y refuses 2': what each condition refuses, the strictest first."""
    ranked = sorted((item for item in refused.items() if item[1]), key=lambda item: -item[1])
    return ", ".join(f"{name} refuses {count}" for name, count in ranked)


def _checked(name: str, values: Sequence[Any]) -> tuple[Any, ...]:
    if not isinstance(values, (list, tuple)) or not values:
        raise InputError(f"space.{name}", values, "a list of at least one value")
    found = tuple(_check_value(name, value) for value in values)
    if len(set(found)) != len(found):
        raise InputError(f"space.{name}", values, "a list of values that differ")
    return found


def _check_value(name: str, value: Any) -> Any:
    where = f"space.{name}"
    if name in ("mlp_ratio", "drop_path"):
        return require_float(where, value, 0, 64 if name == "mlp_ratio" else 1, open_low=name == "mlp_ratio")
    if name in ("stem", "pool", "attention"):
        return require_choice(where, value, {"stem": STEMS, "pool": POOLS, "attention": ATTENTIONS}[name])
    return require_int(where, value)
