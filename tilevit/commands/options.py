"""Options that several commands share, each written once, and the flags that come from `RunConfig`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tilevit.settings import MACHINES, RunConfig
from vit.errors import InputError

if TYPE_CHECKING:
    from tilevit.training import Place

Json = Annotated[bool, typer.Option("--json", help="Print the result alone on stdout, as JSON.")]
Out = Annotated[Path | None, typer.Option(help="Folder for what is written.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]


def _require_device(value: str) -> str:
    if value != "cpu":
        from vit import resolve_device

        resolve_device(value)
    return value


Device = Annotated[str, typer.Option(help='"cpu", "cuda" or "auto".', callback=_require_device)]
Data = Annotated[
    str, typer.Option(help='"digits" (bundled), "cifar10", or a folder with train/CLASS/* and test/CLASS/*.')
]
ValFraction = Annotated[float, typer.Option(help="Share of the training images held out for validation, in (0, 1).")]
Model = Annotated[str, typer.Argument(help="A checkpoint, a TOML file with a [model] table, or a timm name.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Forget earlier work in the folder and start over.")]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="TOML file with a [recipe] table of Recipe fields.")]
HardwareName = Annotated[str, typer.Option("--hardware", help=MACHINES)]


def working_in(out: Path, data: str, val_fraction: float, seed: int, device: str, fresh: bool, name: str) -> Place:
    """The place of a step of this name in a folder of its own."""
    from tilevit.training import Place
    from vit import load_data

    require_room("out", out)
    splits = load_data(data, val_fraction=val_fraction, seed=seed)
    return Place(splits, out, out / "model.safetensors", seed=seed, device=device, fresh=fresh, name=name)


def with_stats(result: dict[str, Any], at: Place) -> dict[str, Any]:
    """The result with its history in stats.csv."""
    from tilevit.training import stats_csv
    from vit.files import write_text

    stats = at.out / "stats.csv"
    write_text(stats, stats_csv({at.name: result["history"]}))
    return {key: value for key, value in result.items() if key != "history"} | {"stats": str(stats)}


def given_options(ctx: typer.Context) -> dict[str, Any]:
    """{name: value} of the options on the command line, without those left at their defaults."""
    return {name: value for name, value in ctx.params.items() if _was_given(ctx, name)}


def _was_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def output_file(help: str) -> Any:
    """An option that names a file: that it can be written is known before any work is done."""
    return typer.Option(help=help, metavar="FILE", callback=_require_place)


_PARSERS: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str}
_PARSED = {"int": "whole numbers", "float": "numbers"}


def settings_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give `command(..., flags)` one option for each RunConfig field; `flags` receives those that were given."""

    def with_flags(**values: Any) -> Any:
        flags = {spec.name: _parsed(spec.name, str(spec.type), values.pop(spec.name)) for spec in fields(RunConfig)}
        return command(**values, flags={name: value for name, value in flags.items() if value is not None})

    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "flags"]
    generated = [
        inspect.Parameter(
            spec.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                _flag_type(str(spec.type)) | None,
                typer.Option(
                    help=f"{spec.metadata['help']}{_default_text(spec.default)}",
                    rich_help_panel=spec.metadata["group"],
                    metavar=_metavar(str(spec.type)),
                ),
            ],
        )
        for spec in fields(RunConfig)
    ]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + generated
    with_flags.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_flags.__annotations__ = {p.name: p.annotation for p in parameters}
    with_flags.__name__, with_flags.__doc__ = command.__name__, command.__doc__
    return with_flags


def _flag_type(kind: str) -> type:
    return {"int": int, "float": float}.get(kind, str)


def _metavar(kind: str) -> str:
    if kind.startswith("tuple["):
        return "A,B,..."
    return {"int": "N", "float": "X"}.get(kind, "TEXT")


def _default_text(default: Any) -> str:
    shown = ",".join(str(item) for item in default) if isinstance(default, tuple) else str(default)
    return f" Digits: {shown}."


def _parsed(name: str, kind: str, value: Any) -> Any:
    if value is None or not kind.startswith("tuple["):
        return value
    return listed(name, value, kind[len("tuple[") : -len(", ...]")])


def listed(name: str, text: str, kind: str = "str") -> list[Any]:
    """The values in a comma-separated option; kind is "int", "float" or "str".

    Raises:
        InputError: a part is not of that kind.
    """
    try:
        return [_PARSERS[kind](part.strip()) for part in text.split(",")]
    except ValueError:
        raise InputError(name, text, f"{_PARSED[kind]} separated by commas") from None


def require_room(name: str, path: Path, kind: str = "folder") -> None:
    """Refuse a place for a folder, or for a file, that cannot be written; folders on the way to it may be missing.

    Raises:
        InputError: the nearest folder that is there is none, or nothing can be put into it.
    """
    shown = str(path)
    if kind == "file" and path.exists() and not path.is_file():
        raise InputError(name, shown, "a file", "this is a folder" if path.is_dir() else "this is a device or a pipe")
    place = path.absolute() if kind == "folder" else path.absolute().parent
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    if not there.is_dir():
        raise InputError(name, shown, f"a {kind} in a folder", f"{there} is none")
    try:
        with TemporaryFile(dir=there):  # permissions do not tell: root has them where nothing can be written
            pass
    except OSError as error:
        hint = f"the system says of {there}: {error.strerror}"
        raise InputError(name, shown, f"a {kind} that can be written", hint) from error


def _require_place(param: typer.CallbackParam, value: Path | None) -> Path | None:
    if value is not None:
        require_room(str(param.name), value, "file")
    return value
