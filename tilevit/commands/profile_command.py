"""`tilevit profile`: what models cost, measured here and modelled on a machine, and how they differ from a baseline."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tilevit.commands.options import Device, Json, Seed, ValFraction, given_options
from tilevit.console import emit_json, say, table, tell
from tilevit.idle import refuse_idle
from tilevit.settings import MACHINES
from vit.errors import InputError, require_choice
from vit.recipe import VAL_FRACTION

FORMATS = ("table", "markdown", "csv", "json")


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    app.command("profile", rich_help_panel="Hardware")(profile)


def profile(
    ctx: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Checkpoints, packed models, TOML files with a [model] table, timm's."),
    ],
    compare: Annotated[
        str | None,
        typer.Option(metavar="BASELINE", help="Another model, and a second table with the change against it."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Data for the accuracy; without: costs only.")] = None,
    split: Annotated[str, typer.Option(help="Images the accuracy is of: val or test.")] = "val",
    hardware: Annotated[
        str | None,
        typer.Option(help=f"Machine for the modelled cycles and energy. {MACHINES} Default: zcu104."),
    ] = None,
    batch: Annotated[int, typer.Option(help="Images at a time in the throughput.", min=1, max=65536)] = 16,
    rounds: Annotated[int, typer.Option(help="Timed passes, after three others.", min=1, max=65536)] = 20,
    threads: Annotated[
        int | None, typer.Option(help="Threads of the timings; default: torch's.", min=1, max=1024)
    ] = None,
    format: Annotated[str, typer.Option(help="table, markdown, csv or json.")] = "table",
    val_fraction: ValFraction = VAL_FRACTION,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Accuracy, latency, throughput, size, memory, MACs, FLOPs, parameters, sparsity and power of models.

    Power is measured by NVML (of --device cuda) or RAPL where the machine has them, else modelled by the simulator; the
    table says which.
    A packed model runs on the integer engine. With --compare a second table has the change against the baseline in
    percent. Models are timed in turns.
    """
    import torch

    from tilevit import metrics
    from tilevit.models import load_model
    from vit import load_data, resolve_device

    form = "json" if json else require_choice("format", format, FORMATS)
    require_choice("split", split, ("val", "test"))
    given = given_options(ctx)
    if json:
        refuse_idle(given, ("format",), "with --json")
    if data is None:
        refuse_idle(given, ("split",), "without --data")
    specs = [*([] if compare is None else [compare]), *models]
    twice = next((spec for spec in specs if specs.count(spec) > 1), None)
    if twice is not None:
        raise InputError("model", twice, "each model once")
    splits = None if data is None else load_data(data, val_fraction=val_fraction, seed=seed)
    loaded = {spec: load_model(spec, splits, seed) for spec in specs}
    for spec, model in loaded.items():
        if splits is not None and model.kind == "new":
            raise InputError(
                "data", data, "absent for a model that is not trained", f"{spec} is not: see tilevit train"
            )
    torch.set_num_threads(threads or torch.get_num_threads())
    images = None if splits is None else getattr(splits, split)
    place = resolve_device(device)
    rows = metrics.measure(loaded, images, hardware=hardware, batch_size=batch, rounds=rounds, device=place)
    changed = {} if compare is None else metrics.changes(rows, compare)
    about = "not asked for: no --data"
    if images is not None:
        about = f"{len(images):,} {'validation' if split == 'val' else 'test'} images of {data}"
    if form == "json":
        emit_json(_plain(rows, changed, compare))
    elif form == "csv":
        print(metrics.as_csv(rows, changed), end="")
        say(metrics.conditions(rows, about))
    elif form == "markdown":
        print(metrics.markdown(*metrics.cells(rows)))
        if changed:
            print(f"Change against {compare}, %:\n\n{metrics.markdown(*metrics.change_cells(changed))}")
        print(metrics.conditions(rows, about))
    else:
        _show(rows, changed, compare)
        print(metrics.conditions(rows, about))


def _plain(rows: dict[str, Any], changed: dict[str, Any], compare: str | None) -> dict[str, Any]:
    """Of one model its row alone; of several {"models": {name: row}}, with the changes where there is a baseline."""
    if len(rows) == 1:
        return next(iter(rows.values()))
    return {"models": rows} | ({"baseline": compare, "change_percent": changed} if compare else {})


def _show(rows: dict[str, Any], changed: dict[str, Any], compare: str | None) -> None:
    from tilevit import metrics

    if len(rows) == 1:
        (name, row), *_ = rows.items()
        tell(name, {key: value for key, value in row.items() if value is not None}, False)
        return
    _turned("Models", *metrics.cells(rows))
    if changed:
        _turned(f"Change against {compare}, %", *metrics.change_cells(changed))


def _turned(title: str, titles: list[str], lines: list[list[str]]) -> None:
    """The table with a column a model, which fits a terminal."""
    names, *values = zip(*lines, strict=True)
    table(title, ["what", *names], [[what, *texts] for what, texts in zip(titles[1:], values, strict=True)])
