"""`tilevit run` and `tilevit report`: the whole pipeline, and its page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tilevit.commands.options import Fresh, Json, Out, settings_flags
from tilevit.console import emit_json, percent, table


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command("run", rich_help_panel="The whole pipeline")(settings_flags(run))
    app.command("report", rich_help_panel="The whole pipeline")(report)


def run(
    flags: dict[str, Any],
    config: Annotated[Path | None, typer.Option(help="TOML file of settings; flags override it.")] = None,
    out: Out = None,
    reduced: Annotated[
        bool, typer.Option("--reduced", help="The file's reduced form: the same steps, small enough for any machine.")
    ] = False,
    fresh: Fresh = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the settings as a TOML file to start from, and leave.")
    ] = False,
    json: Json = False,
) -> None:
    """From images to a streaming report: search, train, prune, quantise, pack, simulate, sweep, test.

    Settings come from the defaults for the data, then --config, then the flags. Stopped anywhere, the same command goes
    on where it was. The folder (default: outputs/NAME-OF-DATA) then holds report.html, results.json, stats.csv,
    plots/, checkpoints/, packed.safetensors and config.toml.

    A --config with [[steps]], such as examples/pocket_vit.toml, takes those steps instead (default folder:
    outputs/NAME-OF-FILE) and leaves results.md in place of the report.
    """
    from tilevit.settings import holds_steps, resolve

    if config is not None and holds_steps(config):
        _take_steps(config, flags, reduced, out, fresh, print_config, json)
        return
    settings = resolve(config, flags, reduced=reduced)
    if print_config:
        if json:
            emit_json(settings.to_dict())
        else:
            print(settings.to_toml(), end="")
        return
    from tilevit.run import run_pipeline

    folder = out or Path("outputs") / Path(settings.data).name
    results = run_pipeline(settings, folder, fresh=fresh)
    if json:
        emit_json(results)
        return
    rows = [(r["name"], percent(r["val_accuracy"]), r["sparsity"], r["size_bytes"]) for r in results["stages"]]
    table("After each stage", ["stage", "validation accuracy", "sparsity", "size, bytes"], rows)
    accuracy = results["test"]["accuracy"]
    table("Test split, read once", ["model", "accuracy"], [(name, percent(value)) for name, value in accuracy.items()])
    where = ("report.html", "results.json", "stats.csv", "plots", "checkpoints", "packed.safetensors", "config.toml")
    table("Where everything is", ["what", "path"], [(Path(name).stem, str(folder / name)) for name in where])


def _take_steps(
    config: Path, flags: dict[str, Any], reduced: bool, out: Path | None, fresh: bool, print_config: bool, json: bool
) -> None:
    from tilevit.steps_file import read_steps

    settings = read_steps(config, flags, reduced=reduced)
    if print_config:
        if json:
            emit_json(settings.to_dict())
        else:
            print(settings.to_toml(), end="")
        return
    from tilevit.steps_report import page
    from tilevit.steps_run import run_steps

    results = run_steps(settings, out or Path("outputs") / (config.stem + "_reduced" * reduced), fresh=fresh)
    if json:
        emit_json(results)
    else:
        print(page(results), end="")


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    json: Json = False,
) -> None:
    """Write report.html (of a run of steps: results.md) and plots/ of a finished run again from its results."""
    from tilevit.report import write_report
    from vit.files import read_json

    found = read_json(folder / "results.json", "run")
    if isinstance(found, dict) and "steps" in found:
        from tilevit.steps_report import write_page

        page = write_page(folder)
    else:
        page = write_report(folder)
    if json:
        emit_json({"report": str(page)})
    else:
        print(page)
