"""What a search may choose from: values for each field of the architecture and of the hardware it streams through."""

from __future__ import annotations

import itertools
import math
import random
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from nas.fields import (
    ACTIVATIONS,
    HARDWARE,
    STREAMING,
    WEIGHTS,
    key_of,
    pattern_of,
    require_fields,
    require_value,
    require_values,
)
from quant.config import FLOAT, QuantConfig, fits
from vit.config import STEMS, ViTConfig
from vit.errors import InputError, require_int, require_known_keys
from vit.files import read_text, toml_line, write_text
from vit.layers import layers_of

DEFAULTS = {**STREAMING, WEIGHTS: FLOAT, ACTIVATIONS: "int8"}  # of fields that are no part of ViTConfig
LAYERED = ("image_size", "patch_size", "depth", "stem", "pool")  # fields that say which layers there are

Params = dict[str, Any]
When = Mapping[str, Mapping[str, Sequence[Any]]]


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
    """Choices for fields of ViTConfig, of its quantisation, of the tiles it streams in, and of the hardware.

    A candidate is a dict with one value for each field in `choices`. Candidates that break a rule between fields (heads
    divides dim, patch_size divides image_size, a power-of-two patch under the conv stem, an MLP of at least one unit)
    are not part of the space: they are neither counted, nor enumerated, nor sampled. Likewise a field without a choice
    in a candidate has its first value there: one whose condition in `when` does not hold, and `weights.PATTERN` where
    the candidate has no such layer.

    Attributes:
        choices: the values of each searched field, in order. Fields are those of ViTConfig; tile, fifo and attention;
            `weights`, the weight scheme of all layers ("pot4" ... "int8", or "float"), and `weights.PATTERN`, that of
            the layers a pattern fits, the first that does; `activations` of quantised layers; `hardware`, a preset or
            TOML file; and `hardware.KEY`, a key of fifo_sim.Hardware in place of the machine's own.
        fixed: what does not vary: image_size, in_channels, num_classes, and any field not in `choices`. What is in
            neither takes ViTConfig's default, tile 8, fifo 4, attention "full", weights "float" (as wide as the machine
            has them), activations "int8".
        when: {field: {other field: values}}: `field` has a choice only where each other one has one of its values.

    Raises:
        InputError: an unknown field, a value it cannot have, no or repeated values, or no candidate that keeps the
            rules (told with how many each rule refuses), or 2^63 candidates and more.

    >>> space = SearchSpace({"dim": [32, 48], "heads": [2, 3]}, {"image_size": 8, "patch_size": 2})
    >>> len(space), space.combinations
    (3, 4)
    >>> [(p["dim"], p["heads"]) for p in space]
    [(32, 2), (48, 2), (48, 3)]
    >>> len(SearchSpace({"depth": [1, 2], "weights.blocks.1": ["pot4", "int8"]}))
    3
    """

    choices: Mapping[str, Sequence[Any]]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    when: When = field(default_factory=dict)
    _ruled: tuple[Params, ...] = field(init=False, repr=False, compare=False)
    _sizes: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.choices, Mapping) or not self.choices:
            raise InputError("space", self.choices, "a table of fields with a list of values each")
        require_fields("space", self.choices)
        object.__setattr__(
            self, "choices", {name: require_values(name, values) for name, values in self.choices.items()}
        )
        require_fields("space.fixed", self.fixed, ("image_size", "in_channels", "num_classes"))
        for name, value in self.fixed.items():
            if name in self.choices:
                raise InputError("space.fixed", name, "a field that is not searched", "remove one of the two")
            require_value(name, value)
        object.__setattr__(self, "fixed", dict(self.fixed))
        object.__setattr__(self, "when", dict(self._conditions()))
        object.__setattr__(self, "_ruled", tuple(self._combinations_of_ruled_fields()))
        self._require_layers()
        sizes = (math.prod(len(self._domain(name, ruled)) for name in self._free) for ruled in self._ruled)
        object.__setattr__(self, "_sizes", tuple(sizes))
        if sum(self._sizes) > sys.maxsize:  # more than len() can tell
            raise InputError("space", sum(self._sizes), "choices for fewer than 2^63 candidates")

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
        return sum(self._sizes)

    @property
    def combinations(self) -> int:
        """Combinations of values, those that break a rule included."""
        return math.prod(len(values) for values in self.choices.values())

    def __iter__(self) -> Iterator[Params]:
        """Every candidate, in an order that depends on `choices` alone."""
        for ruled in self._ruled:
            for values in itertools.product(*(self._domain(name, ruled) for name in self._free)):
                yield self._ordered(ruled | dict(zip(self._free, values, strict=True)))

    def sample(self, count: int, seed: int = 0) -> list[Params]:
        """`count` candidates, each drawn from the whole space with equal chances (repeats are possible)."""
        rng = random.Random(seed)
        ruled = rng.choices(self._ruled, self._sizes, k=count)
        return [
            self._ordered(begun | {name: rng.choice(self._domain(name, begun)) for name in self._free})
            for begun in ruled
        ]

    def broken_rules(self, params: Mapping[str, Any]) -> list[str]:
        """Names of the rules between fields that a candidate breaks; empty for one of the space."""
        broken = [rule.name for rule in RULES if not rule.holds(*(self.value(params, name) for name in rule.fields))]
        if not broken:  # else it may have no layers that could be asked for
            idle = (name for name in self._conditional if name in params and not self.has_choice(params, name))
            broken = [f"{name} has no choice" for name in idle if params[name] != self.choices[name][0]]
        return broken

    def has_choice(self, params: Mapping[str, Any], name: str) -> bool:
        """Whether a candidate may choose the value of this field; where not, it has its first one."""
        conditions = self.when.get(name, {})
        if not all(self.value(params, other) in values for other, values in conditions.items()):
            return False
        pattern = pattern_of(name)
        return not pattern or _is_there(pattern, *self._layered(params))

    def value(self, params: Mapping[str, Any], name: str) -> Any:
        """The value of a field in a candidate, searched or not."""
        if name in params:
            return params[name]
        return self.fixed.get(name, DEFAULTS.get(name, getattr(ViTConfig, name, None)))

    def config(self, params: Mapping[str, Any]) -> ViTConfig:
        """The architecture of a candidate."""
        names = [f.name for f in fields(ViTConfig) if f.name in params or f.name in self.fixed]
        return ViTConfig(**{name: self.value(params, name) for name in names})

    def streaming(self, params: Mapping[str, Any]) -> Params:
        """Tile, FIFO depth and attention mode of a candidate."""
        return {name: self.value(params, name) for name in STREAMING}

    def quantisation(self, params: Mapping[str, Any]) -> QuantConfig | None:
        """How a candidate is quantised; None where all its layers stay float."""
        patterns = {pattern_of(name): self.value(params, name) for name in (*self.choices, *self.fixed)}
        layered = self._layered(params)
        schemes = {name: scheme for name, scheme in patterns.items() if name and _is_there(name, *layered)}
        chosen = QuantConfig({**schemes, "*": self.value(params, WEIGHTS)}, activations=self.value(params, ACTIVATIONS))
        if all(chosen.scheme_of(layer) == FLOAT for layer in _layers(*layered)):
            return None
        return chosen

    def machine(self, params: Mapping[str, Any]) -> tuple[str | None, Params]:
        """The machine that a candidate names, if any, and the keys of Hardware that it sets, with their values."""
        set_here = (name for name in (*self.choices, *self.fixed) if key_of(name) and self._is_set(params, name))
        return self.value(params, HARDWARE), {key_of(name): self.value(params, name) for name in set_here}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: {"choices": {field: [values]}, "fixed": {field: value}}, and "when" if there is any."""
        tables: dict[str, Any] = {"choices": {name: list(values) for name, values in self.choices.items()}}
        tables["fixed"] = dict(self.fixed)
        if self.when:
            tables["when"] = {name: {n: list(v) for n, v in others.items()} for name, others in self.when.items()}
        return tables

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SearchSpace:
        """The space in a mapping as `to_dict` gives it; an InputError for anything else."""
        if not isinstance(values, Mapping):
            raise InputError("space", values, "a table with choices, fixed and when")
        require_known_keys("space", values, ("choices", "fixed", "when"))
        fixed = values.get("fixed", {})
        if not isinstance(fixed, Mapping):
            raise InputError("space.fixed", fixed, "a table of fields and values")
        choices = values.get("choices", {})
        for name, value in (*(choices.items() if isinstance(choices, Mapping) else ()), *fixed.items()):
            if isinstance(value, Mapping):  # TOML takes a name apart at its dots
                raise InputError("space", name, "names with dots between quotes", f'"{_dotted(name, value)}" = ...')
        return cls(choices, fixed, values.get("when", {}))

    def save(self, path: str | Path) -> None:
        """Write the space as TOML, with tables [choices], [fixed] and, if there is any, [when]."""
        tables = self.to_dict()
        lines = [f"[{table}]\n" + "".join(f"{toml_line(k, v)}\n" for k, v in tables[table].items()) for table in tables]
        write_text(path, "\n".join(lines))

    @classmethod
    def load(cls, path: str | Path) -> SearchSpace:
        """The space in a TOML file that `save` wrote, or that a person did."""
        try:
            return cls.from_dict(tomllib.loads(read_text(path, "space")))
        except tomllib.TOMLDecodeError as error:
            raise InputError("space", str(path), "a TOML file", f"it does not parse: {error}") from error

    @cached_property
    def _free(self) -> list[str]:
        """Searched fields that nothing looks at: their values go with any others, where they have a choice."""
        return [name for name in self.choices if name not in self._looked_at]

    @cached_property
    def _looked_at(self) -> set[str]:
        """Fields that a rule or a condition looks at."""
        rules = {name for rule in RULES for name in rule.fields}
        conditions = {other for others in self.when.values() for other in others}
        return rules | conditions | set(LAYERED if any(map(pattern_of, self.choices)) else ())

    @cached_property
    def _conditional(self) -> list[str]:
        return [name for name in self.choices if name in self.when or pattern_of(name)]

    def _conditions(self) -> Iterator[tuple[str, dict[str, tuple[Any, ...]]]]:
        """`when`, checked."""
        if not isinstance(self.when, Mapping):
            raise InputError("space.when", self.when, "a table of fields, with a table of fields and values each")
        for name, others in self.when.items():
            where = f"space.when.{name}"
            if name not in self.choices:
                raise InputError("space.when", name, "a field that is searched")
            if not isinstance(others, Mapping) or not others or name in others:
                raise InputError(where, others, "a table of other fields, with a list of values each")
            require_fields(where, others)
            for other, values in others.items():
                missing = set(require_values(other, values)) - set(self.choices.get(other, (self.value({}, other),)))
                if missing:
                    raise InputError(f"{where}.{other}", list(values), "values that the field can have in this space")
            yield name, {other: tuple(values) for other, values in others.items()}

    def _require_layers(self) -> None:
        """Refuse a pattern that fits no layer of any candidate."""
        for name in (*self.choices, *self.fixed):
            pattern = pattern_of(name)
            if pattern and not any(_is_there(pattern, *self._layered(ruled)) for ruled in self._ruled):
                raise InputError("space", name, "a pattern of layers, such as weights.blocks.*.mlp or weights.head")

    def _layered(self, params: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(self.value(params, name) for name in LAYERED)

    def _domain(self, name: str, params: Mapping[str, Any]) -> Sequence[Any]:
        """The values of a free field beside the others of a candidate."""
        values = self.choices[name]
        return values if name not in self._conditional or self.has_choice(params, name) else values[:1]

    def _is_set(self, params: Mapping[str, Any], name: str) -> bool:
        return name in self.fixed or self.has_choice(params, name)

    def _combinations_of_ruled_fields(self) -> Iterator[Params]:
        names, kept = [name for name in self.choices if name in self._looked_at], 0
        refused: Counter[str] = Counter()
        for values in itertools.product(*(self.choices[name] for name in names)):
            params = dict(zip(names, values, strict=True))
            broken = self.broken_rules(params)
            refused.update(broken)
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


def _dotted(name: str, value: Any) -> str:
    """The name that leads to the first value in a tree of tables."""
    first = next(iter(value.items()), None) if isinstance(value, Mapping) else None
    return name if first is None else f"{name}.{_dotted(*first)}"


@lru_cache(maxsize=4096)
def _is_there(pattern: str, *layered: Any) -> bool:
    """Whether the pattern fits a layer of the candidates with these values of the LAYERED fields."""
    return any(fits(layer, pattern) for layer in _layers(*layered))


@lru_cache(maxsize=4096)
def _layers(*layered: Any) -> tuple[str, ...]:
    """Names of the layers that have weights, in candidates with these values of the LAYERED fields."""
    config = ViTConfig(**dict(zip(LAYERED, layered, strict=True)))
    return tuple(layer.name for layer in layers_of(config) if layer.params)
