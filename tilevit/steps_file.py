"""A file of steps: what data to work on, and which steps to take in turn, each named and built on those before it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from tilevit import steps
from tilevit.idle import refuse_idle_in_step
from tilevit.settings import LARGEST_SEED, LARGEST_SIDE
from tilevit.steps_checks import check_values
from vit.errors import InputError, require_choice, require_float, require_int, require_known_keys
from vit.files import read_toml, toml_line
from vit.recipe import VAL_FRACTION

KINDS: dict[str, Callable[..., Any]] = {
    kind.__name__: kind
    for kind in (steps.train, steps.distill, steps.prune, steps.qat, steps.ptq, steps.evaluate, steps.profile)
}
BEST_AND_LATEST = {
    "{}": "{}_best.safetensors",
    "{}_best": "{}_best.safetensors",
    "{}_latest": "{}_latest.safetensors",
}
OUTPUTS = {  # what a step leaves, by the names that later steps may call it by; {} is the step's own
    "train": BEST_AND_LATEST,
    "distill": BEST_AND_LATEST,
    "prune": {"{}": "{}.safetensors"},
    "qat": {"{}": "{}.safetensors", "{}_packed": "{}_packed.safetensors"},
    "ptq": {"{}": "{}.onnx"},
}
REFERENCES = ("model", "teacher", "models", "compare")  # keys whose value may be what an earlier step left
SHARED = {"title": str, "data": str, "image_size": int, "val_fraction": float, "seed": int, "device": str}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
TYPE_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: ""}


@dataclass(frozen=True)
class Step:
    """One step: its name, its kind (a key of KINDS), and its options."""

    name: str
    run: str
    options: dict[str, Any] = field(default_factory=dict)

    def outputs(self) -> dict[str, str]:
        """{name that a later step may use: file in checkpoints/}."""
        return {name.format(self.name): file.format(self.name) for name, file in OUTPUTS.get(self.run, {}).items()}

    def to_dict(self) -> dict[str, Any]:
        """The step as a table of the file."""
        return {"name": self.name, "run": self.run, **self.options}


@dataclass(frozen=True)
class StepsConfig:
    """Everything in a file of steps, checked."""

    title: str = ""
    data: str = "digits"
    image_size: int = 0
    val_fraction: float = VAL_FRACTION
    seed: int = 0
    device: str = "cpu"
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        for key, kind in SHARED.items():
            _require_type(key, getattr(self, key), kind)
        require_int("image_size", self.image_size, 0, LARGEST_SIDE)
        require_int("seed", self.seed, 0, LARGEST_SEED)
        require_float("val_fraction", self.val_fraction, 0, 1, open_low=True, open_high=True)

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON and TOML values."""
        return {key: getattr(self, key) for key in SHARED} | {"steps": [step.to_dict() for step in self.steps]}

    def to_toml(self) -> str:
        """The settings as a TOML file that `--config` reads back."""
        lines = [toml_line(key, getattr(self, key)) for key in SHARED]
        for step in self.steps:
            lines += ["", "[[steps]]", *(toml_line(key, value) for key, value in step.to_dict().items())]
        return "\n".join(lines) + "\n"


def read_steps(file: Path, flags: Mapping[str, Any], *, reduced: bool = False) -> StepsConfig:
    """The steps in a TOML file.

    The keys of SHARED stand at its top, each step is a [[steps]] table with `name`, `run` and the options of the
    command of that name, and its checkpoints are called by its name in the steps after it. A [reduced] table at the
    top, and a key `reduced` in a step, hold what is different in reduced form; `reduced = false` leaves the step out.

    Args:
        flags: of the command line; they override the shared keys.
        reduced: in reduced form.

    Raises:
        InputError: an unknown or mistyped key, a step of no known kind, a name given twice, an option or a flag of no
            meaning here.
    """
    table = dict(read_toml(file, "config"))
    small, listed = _table("reduced", table.pop("reduced", None if reduced else {})), table.pop("steps", None)
    for name, given in ((f"{file}: key", table), (f"{file}: key of reduced", small)):
        require_known_keys(name, given, SHARED)
    for flag, value in flags.items():
        if flag not in SHARED:
            raise InputError(flag, value, f"absent with {file}", "it has steps: change it in the file")
    if not isinstance(listed, list) or not listed:
        raise InputError("steps", listed, "one [[steps]] table or more")
    found: list[Step] = []
    for number, entry in enumerate(listed, start=1):
        table_of_step = dict(_table(f"step {number}", entry))
        if table_of_step.get("reduced") is False:
            table_of_step.pop("reduced")
            if reduced:
                _step(table_of_step, number, found, reduced)  # checked all the same
                continue
        found.append(_step(table_of_step, number, found, reduced))
    return StepsConfig(**{**table, **(small if reduced else {}), **flags}, steps=tuple(found))


def _step(entry: Mapping[str, Any], number: int, before: list[Step], reduced: bool) -> Step:
    options = dict(entry)
    small = _table(f"step {number}: reduced", options.pop("reduced", {}))
    name, kind = (options.pop(key, None) for key in ("name", "run"))
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InputError(f"step {number}: name", name, "up to 64 letters, digits, - and _")
    taken = {taken for step in before for taken in (step.name, *step.outputs())}
    if name in taken:
        raise InputError(f"step {number}: name", name, "a name that no step before it has")
    kind = require_choice(f"step {name}: run", kind, KINDS)
    for source in (options, small):
        _check_options(name, kind, source)
    refuse_idle_in_step(kind, options, f"step {name}: ")
    chosen = {**options, **small} if reduced else options
    required = [key for key, spec in _parameters(kind).items() if spec.default is inspect.Parameter.empty]
    missing = next((key for key in required if key not in chosen), None)
    if missing is not None:
        raise InputError(f"step {name}", sorted(chosen), f"a table with the key {missing}")
    defaults = {key: spec.default for key, spec in _parameters(kind).items()}
    with named(name):
        check_values(kind, {**defaults, **chosen})
    return Step(name, kind, chosen)


@contextmanager
def named(step: str) -> Iterator[None]:
    """Within the block an InputError says in which step it is."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"step {step}: {error.field}", error.value, error.allowed, error.hint) from error


def _check_options(name: str, kind: str, options: Mapping[str, Any]) -> None:
    hints = get_type_hints(KINDS[kind])
    require_known_keys(f"step {name}: key", options, _parameters(kind))
    for key, value in options.items():
        _require_type(f"step {name}: {key}", value, hints[key])


def _parameters(kind: str) -> dict[str, inspect.Parameter]:
    """The options of a kind of step: what its function takes beside the place."""
    return {name: spec for name, spec in inspect.signature(KINDS[kind]).parameters.items() if name != "at"}


def _require_type(key: str, value: Any, hint: Any) -> None:
    """Refuse a value that is not of the annotated type; whole numbers are welcome where a float is meant."""
    allowed = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if not any(_fits(value, kind) for kind in allowed):
        raise InputError(key, value, " or ".join(text for kind in allowed if (text := _type_name(kind))))


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(item, get_args(kind)[0]) for item in value)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    plain = get_origin(kind) or kind
    return plain is not NoneType and isinstance(value, plain)


def _type_name(kind: Any) -> str:
    if get_origin(kind) is list:
        return f"a list of {TYPE_NAMES[get_args(kind)[0]]}"
    return TYPE_NAMES.get(kind, "" if kind is Path else "a table")


def _table(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(name, value, f"a table [{name}]" if name == "reduced" else "a table")
    return value
