"""`tilevit search`: architectures against accuracy, parameters and simulated cycles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tilevit.commands.options import (
    Data,
    Device,
    Fresh,
    HardwareName,
    Json,
    Seed,
    ValFraction,
    given_options,
    listed,
    output_file,
    require_room,
)
from tilevit.commands.search_view import live_front, show_front
from tilevit.console import emit_json, percent, progress, say
from tilevit.idle import refuse_idle
from vit.errors import InputError, require_choice
from vit.recipe import VAL_FRACTION

if TYPE_CHECKING:
    from nas import SearchSpace


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    app.command("search", rich_help_panel="Step by step")(search)


def search(
    ctx: typer.Context,
    data: Data = "digits",
    space: Annotated[
        Path | None, typer.Option(help="TOML file of a SearchSpace; default: one that suits the images.")
    ] = None,
    objectives: Annotated[
        str,
        typer.Option(help="Comma-separated: accuracy, params, macs, cycles, sram_kib, energy_pj, bytes, dram_bytes."),
    ] = "accuracy,params,cycles",
    constraint: Annotated[
        list[str] | None, typer.Option(help='A bound such as "cycles <= 20000"; may be repeated.')
    ] = None,
    trials: Annotated[int, typer.Option(help="Candidates the study shall try.", min=1)] = 32,
    epochs: Annotated[int, typer.Option(help="Epochs a candidate is trained.", min=1)] = 8,
    sampler: Annotated[str, typer.Option(help="cost-aware, tpe, nsga2 or random.")] = "cost-aware",
    early_stopping: Annotated[
        str,
        typer.Option(
            help="Trainings that are stopped: none; volume, what is expected to add next to nothing to the front; "
            "front, what cannot reach it; halving, all but the best third after a ninth and a third of the epochs."
        ),
    ] = "none",
    supernet: Annotated[
        int,
        typer.Option(
            help="Train one network for this many epochs, of which candidates are parts, and none by itself; 0: off.",
            metavar="EPOCHS",
            min=0,
        ),
    ] = 0,
    workers: Annotated[int, typer.Option(help="Processes on this machine that share the study.", min=1)] = 1,
    hardware: HardwareName = "zcu104",
    out: Annotated[Path, typer.Option(help="Folder for the study, the front and its pictures.")] = Path(
        "outputs/search"
    ),
    storage: Annotated[
        str | None,
        typer.Option(
            help="postgresql://USER@HOST/DATABASE or grpc://HOST:PORT, which several machines may share; "
            "default: a journal in the folder."
        ),
    ] = None,
    dask: Annotated[
        str | None, typer.Option(help="tcp://HOST:PORT of a Dask scheduler, on whose workers candidates are trained.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume/--no-resume", help="Go on with the study that is there, or refuse if there is one."),
    ] = True,
    fresh: Fresh = False,
    export: Annotated[
        Path | None,
        output_file("TOML file for the winner; `tilevit train FILE` trains it, `tilevit simulate FILE` runs it."),
    ] = None,
    slack: Annotated[float, typer.Option(help="Accuracy the winner may give up for lower costs.", min=0, max=1)] = 0.0,
    val_fraction: ValFraction = VAL_FRACTION,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Search architectures; the study persists and goes on with the same command. Shows the Pareto front.

    The folder then holds the study, front.json, and as pictures the front, the hypervolume after each trial
    (progress.png), the parameter importances, and all candidates in parallel coordinates.
    """
    import nas
    from nas.fields import HARDWARE
    from nas.pareto import ended, finished
    from nas.storage import forget, holds_study
    from nas.task import NOTHING_TRAINED, Task
    from vit import Recipe, load_data
    from vit.files import write_json

    given, names = given_options(ctx), listed("objectives", objectives)
    if "accuracy" not in names:
        refuse_idle(given, ("export", "epochs", "slack"), "where accuracy is no objective")
    if supernet:
        refuse_idle(given, ("epochs",), "with --supernet, whose epochs are its own")
    if fresh:
        refuse_idle(given, ("resume",), "with --fresh")
    rules = {"none": None, "volume": nas.VolumeStopper, "front": nas.FrontStopper, "halving": nas.Halving}
    rule = rules[require_choice("early_stopping", early_stopping, tuple(rules))]
    require_room("out", out)
    splits = load_data(data, val_fraction=val_fraction, seed=seed)
    place = storage or out / "study" / "journal.log"
    if fresh:
        forget(place)
        (out / "supernet_state.safetensors").unlink(missing_ok=True)
    elif not resume and holds_study(place):
        raise InputError("resume", "no", "yes where a study is already", "--fresh starts over")
    places = (
        nas.SearchSpace.load(space)
        if space
        else nas.SearchSpace.for_image(splits.image_size, splits.in_channels, splits.num_classes)
    )
    if HARDWARE in {**places.choices, **places.fixed}:
        refuse_idle(given, ("hardware",), "with a space that names the hardware")
    shared: nas.Supernet | None = None
    if supernet:
        if rule or dask or "accuracy" not in names:
            allowed = "0 with --early-stopping, with --dask, or where accuracy is no objective"
            raise InputError("supernet", supernet, allowed, NOTHING_TRAINED)
        places = places if space else nas.shareable(places)
        # what a search refuses is refused before the supernet is trained for it
        Task(places, splits, hardware, names, constraint or (), seed, None, sampler, device)
        with progress("supernet", supernet) as tick:
            shared = nas.train_supernet(
                places,
                splits,
                Recipe.for_data(splits.name, epochs=supernet, seed=seed),
                out,
                device=device,
                on_epoch=lambda row: tick(f"largest candidate {percent(row['val_accuracy'])}"),
            )
        say("accuracies are those of the supernet's parts: `tilevit train` tells what a candidate reaches by itself")
    with live_front(trials, 1 if supernet else epochs) as show:
        study = nas.search(
            places,
            splits,
            hardware,
            objectives=names,
            constraints=constraint or (),
            trials=trials,
            storage=place,
            seed=seed,
            recipe=None if supernet else Recipe.for_data(splits.name, epochs=epochs, seed=seed),
            sampler=sampler,
            device=device,
            stopping=rule and rule(),
            supernet=shared,
            workers=workers,
            dask=dask,
            progress=show,
        )
    best = nas.front(study)
    result: dict[str, Any] = {
        "trials": len(ended(study)),
        "stopped": len(ended(study)) - len(finished(study)),
        "epochs": nas.epochs_trained(study),
        "accuracy_from": "supernet" if nas.inherits(study) else "training",
        "front": [{"candidate": dict(trial.params), **dict(zip(names, trial.values, strict=True))} for trial in best],
    }
    if "accuracy" in names:
        winner = nas.pick(study, slack=slack).params
        result["winner"] = places.config(winner).to_dict()
        if export:
            _export(export, result["winner"], places, winner, hardware)
            say(f"winner: {export}")
    write_json(out / "front.json", result)
    if len(names) > 1:
        nas.plot_front(study, out / "front.png")
        nas.plot_hypervolume(study, out / "progress.png")
    nas.plot_importances(study, out / "importances.png")
    nas.plot_parallel(study, out / "parallel.png")
    if json:
        emit_json(result)
        return
    show_front(study)


def _export(path: Path, model: dict[str, Any], space: SearchSpace, winner: dict[str, Any], hardware: str) -> None:
    """The winner as TOML, with the tiles and the machine its costs are of."""
    from tilevit.model_file import ACTIVATIONS, MACHINE, WEIGHTS
    from vit.files import toml_line, write_text

    quantisation, (machine, keys) = space.quantisation(winner), space.machine(winner)
    tables = {"model": model, "streaming": space.streaming(winner)}
    lines = []
    if quantisation is not None:
        lines.append(f"{toml_line(ACTIVATIONS, quantisation.activations)}\n")
        tables[WEIGHTS] = dict(quantisation.weights)
    tables["hardware"] = {MACHINE: machine or hardware, **keys}
    lines += [f"[{name}]\n" + "".join(f"{toml_line(*item)}\n" for item in t.items()) for name, t in tables.items()]
    write_text(path, "\n".join(lines))
