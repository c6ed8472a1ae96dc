"""`tilevit simulate`, `sweep` and `size-fifos`: what streaming costs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tilevit.commands.options import HardwareName, Json, Model, ValFraction, given_options, listed, output_file
from tilevit.console import emit_json, progress, say, table, tell
from tilevit.idle import refuse_idle
from tilevit.settings import LARGEST
from vit.errors import InputError, require_int
from vit.recipe import VAL_FRACTION

if TYPE_CHECKING:
    from fifo_sim import Hardware, Lowered, Pipeline, RtlReport, SimResult

Target = Annotated[
    str,
    typer.Argument(help="A pipeline as JSON, or a model: a checkpoint, a TOML file with a [model] table, a timm name."),
]
Tile = Annotated[int, typer.Option(help="Tokens a tile.", min=1)]
Fifo = Annotated[int, typer.Option(help="Depth of the FIFOs between stages, tiles.", min=1)]
Attention = Annotated[str, typer.Option(help="What a tile attends to: full, window or tile.")]
FOR_MODELS = ("hardware", "tile", "fifo", "attention", "images")
Images = Annotated[int, typer.Option(help="Images that follow one another without a gap.", min=1)]


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    for name, command in (("simulate", simulate), ("sweep", sweep), ("size-fifos", size_fifos)):
        app.command(name, rich_help_panel="Hardware")(command)


def simulate(
    ctx: typer.Context,
    target: Target,
    hardware: HardwareName = "zcu104",
    tile: Tile = 8,
    fifo: Fifo = 4,
    attention: Attention = "full",
    images: Images = 1,
    history: Annotated[bool, typer.Option(help="Tell the start and end of every firing (with --json).")] = True,
    check_rtl: Annotated[
        bool, typer.Option("--check-rtl", help="Run the pipeline's Verilog under iverilog and compare everything.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Put every stalled cycle down to a FIFO or port; say what would lift it.")
    ] = False,
    trace: Annotated[Path | None, output_file("Write the timeline for Perfetto and chrome://tracing.")] = None,
    gantt: Annotated[Path | None, output_file("Write the timeline as a picture (png, svg or pdf).")] = None,
    json: Json = False,
) -> None:
    """Simulate a pipeline, or a model on a machine, cycle for cycle: cycles, stalls by cause, FIFO occupancy.

    A pipeline file says everything itself; --hardware, --tile, --fifo, --attention and --images are for models. What
    is not given of the first four is as the model's TOML file has it in [hardware] and [streaming]; layers are as wide
    as it has them in [weights].
    A deadlock is a result, not an error: "cycles" is then null and "deadlock" true. With --check-rtl a difference
    leaves with exit code 1.
    """
    import fifo_sim
    from fifo_sim import simulate as simulated

    pipeline, lowered = _pipeline(ctx, target, hardware, tile, fifo, attention, images)
    result = simulated(pipeline, history=history and json)
    told: dict[str, Any] = {
        "cycles": result.cycles,
        "deadlock": result.deadlock,
        "max_occupancy": [int(peak) for peak in result.max_occupancy],
        "stalls": result.stalls,
    }
    if history:
        told |= {"starts": result.starts, "ends": result.ends}
    if lowered is not None:
        told |= {"memory": lowered.memory.to_dict(), "energy_pj": lowered.energy().to_dict()}
        told["latency_ms"] = lowered.latency_ms(result.cycles) if result.cycles is not None else None
    rtl = fifo_sim.check_rtl(pipeline) if check_rtl else None
    if rtl is not None:
        told["rtl"] = asdict(rtl)
    explanation = fifo_sim.explain(lowered or pipeline) if explain else None
    if explanation is not None:
        told["explanation"] = explanation.to_dict()
    if trace is not None:
        told["trace"] = asdict(fifo_sim.write_trace(pipeline, trace))
        say(f"trace: {trace}")
    if gantt is not None:
        fifo_sim.gantt(pipeline, gantt)
        say(f"picture: {gantt}")
    if json:
        emit_json(told)
    else:
        _show_simulation(target, pipeline, result, lowered, rtl)
        if explanation is not None:
            print(explanation)
    if rtl is not None and not rtl.equal:
        raise typer.Exit(1)


def _show_simulation(
    target: str, pipeline: Pipeline, result: SimResult, lowered: Lowered | None, rtl: RtlReport | None
) -> None:
    if result.deadlock:
        say("deadlock: nothing can ever happen again; the ledger counts up to the last cycle in which something did")
    causes = ("busy", "starved", "blocked", "resource", "drained")
    rows = [[name, *(ledger[cause] for cause in causes)] for name, ledger in result.stalls.items()]
    table(f"{target}: {'deadlock' if result.deadlock else f'{result.cycles:,} cycles'}", ["stage", *causes], rows)
    peaks = zip(pipeline.edges, result.max_occupancy, strict=True)
    table("FIFOs", ["FIFO", "depth", "fullest"], [[edge.name, edge.depth, int(peak)] for edge, peak in peaks])
    if lowered is not None:
        totals: dict[str, Any] = {"latency_ms": None if result.cycles is None else lowered.latency_ms(result.cycles)}
        totals |= {"sram_kib": lowered.memory.sram_kib, "dram_bytes": lowered.memory.total_dram_bytes}
        tell(f"On {lowered.hardware.name}", totals | {"energy_pj": lowered.energy().total_pj}, False)
    if rtl is not None:
        verdict = f"equal to the Verilog over {rtl.firings:,} firings and {rtl.cycles:,} clock cycles"
        say(verdict if rtl.equal else f"differs from the Verilog: {rtl.difference}")


def sweep(
    ctx: typer.Context,
    model: Model,
    tiles: Annotated[str, typer.Option(help="Comma-separated tile sizes, tokens.")] = "1,2,4,8,16",
    fifos: Annotated[str, typer.Option(help="Comma-separated FIFO depths, tiles.")] = "1,2,4,8",
    attention: Annotated[str, typer.Option(help="Comma-separated: full, window, tile.")] = "full,window,tile",
    hardware: HardwareName = "zcu104",
    data: Annotated[
        str | None, typer.Option(help="Data for the accuracy (validation images); without: costs only.")
    ] = None,
    images: Images = 1,
    dask: Annotated[
        str | None, typer.Option(help="tcp://HOST:PORT of a Dask scheduler, whose workers simulate.")
    ] = None,
    out: Annotated[Path | None, output_file("CSV file to write.")] = None,
    val_fraction: ValFraction = VAL_FRACTION,
    seed: Annotated[int, typer.Option(help="Seed of the validation split.", min=0)] = 0,
    json: Json = False,
) -> None:
    """Tile × FIFO × attention: cycles, stalls, SRAM, energy and, with --data, accuracy of each combination.

    Without --hardware the machine is the one in [hardware] of the model's TOML file, where it has one.
    """
    from fifo_sim import sweep as swept
    from nas import dask_map
    from tilevit.models import load_model

    sizes, depths, modes = listed("tiles", tiles, "int"), listed("fifos", fifos, "int"), listed("attention", attention)
    for name, values in (("tiles", sizes), ("fifos", depths)):
        for value in values:
            require_int(name, value, 1, LARGEST)
    splits = None
    if data is not None:
        from vit import load_data

        splits = load_data(data, val_fraction=val_fraction, seed=seed)
    loaded = load_model(model, splits)
    if splits is not None and loaded.kind == "new":
        raise InputError("data", data, "absent for a model that is not trained", "see tilevit train")
    machine = _machine(given_options(ctx), model, hardware)
    with (
        nullcontext(map) if dask is None else dask_map(dask) as mapper,
        progress("sweep", len(sizes) * len(depths) * len(modes)) as tick,
    ):
        rows = swept(
            loaded.counted() if splits is None else loaded.network(),
            machine,
            sizes,
            depths,
            attention=modes,
            data=None if splits is None else splits.val,
            images=images,
            progress=lambda row: tick(),
            mapper=mapper,
        )
    if out is not None:
        rows.to_csv(out)
        say(f"table: {out}")
    if json:
        emit_json(list(rows))
        return
    columns = {
        "attention": "attention",
        "tile": "tile",
        "fifo": "fifo",
        "cycles": "cycles",
        "starved_cycles": "starved",
        "blocked_cycles": "blocked",
        "sram_kib": "KiB",
        "energy_pj": "nJ",
    }
    if splits is not None:
        columns["accuracy"] = "accuracy"
    title = f"{model} on {machine.name} (starved, blocked: cycles of all stages)"
    table(title, list(columns.values()), [[_shown(row, column) for column in columns] for row in rows])


def _shown(row: dict[str, Any], column: str) -> object:
    """A cell of a sweep's table."""
    if not row["fits"] and column == "cycles":
        return "no fit"
    value = row[column]
    return value / 1000 if column == "energy_pj" and value is not None else value


def size_fifos(
    ctx: typer.Context,
    target: Target,
    goal: Annotated[
        str | None, typer.Option("--target", help='"deadlock-free", "full-speed" (the default), or a number of cycles.')
    ] = None,
    hardware: HardwareName = "zcu104",
    tile: Tile = 8,
    fifo: Fifo = 4,
    attention: Attention = "full",
    images: Images = 1,
    seconds: Annotated[float, typer.Option(help="About how long to search for a proof.", min=0.01)] = 10.0,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="The whole front of bytes against cycles in place of one target.")
    ] = False,
    json: Json = False,
) -> None:
    """The FIFO depths of smallest total bytes that reach a target, proven smallest or with the gap still open."""
    from fifo_sim import min_depths, pareto_depths

    if pareto and goal is not None:
        raise InputError("target", goal, "left out with --pareto", "the front has every target")
    goal = goal or "full-speed"
    pipeline, lowered = _pipeline(ctx, target, hardware, tile, fifo, attention, images)
    names = [edge.name for edge in pipeline.edges]
    if pareto:
        front = pareto_depths(lowered or pipeline, seconds=seconds)
        points = [{"total_bytes": b, "cycles": c, "depths": list(depths)} for b, c, depths in front]
        if json:
            emit_json({"fifos": names, "front": points, "proven": front.proven})
            return
        table("FIFO bytes against cycles", ["bytes", "cycles"], [[p["total_bytes"], p["cycles"]] for p in points])
        say("proven: this is the whole front" if front.proven else "not proven: the time ended before the whole front")
        return
    found = min_depths(lowered or pipeline, int(goal) if goal.isdecimal() else goal, seconds=seconds)
    told = {"target": goal, "cycles": found.cycles, "total_bytes": found.total_bytes}
    told |= {"proven": found.proven, "gap_bytes": found.gap}
    if json:
        emit_json({"fifos": names, "depths": list(found), **told})
        return
    table("FIFO depths", ["FIFO", "depth"], [[name, depth] for name, depth in zip(names, found, strict=True)])
    tell("Sizing", told, False)


def _pipeline(
    ctx: typer.Context, target: str, hardware: str, tile: int, fifo: int, attention: str, images: int
) -> tuple[Pipeline, Lowered | None]:
    from fifo_sim import Pipeline, lower

    given = given_options(ctx)
    options: dict[str, Any] = {"tile": tile, "fifo": fifo, "attention": attention, "images": images}
    if Path(target).suffix == ".json":
        refuse_idle(given, FOR_MODELS, "with a pipeline file, which says everything itself")
        return Pipeline.from_json(target), None
    machine = _machine(given, target, hardware)
    if Path(target).suffix == ".toml":
        from fifo_sim.lowering import lay_out
        from nas.costs import layers_as
        from tilevit.model_file import model_table, quantisation_of, streaming_table
        from vit import ViTConfig

        config = ViTConfig.from_dict(model_table(target))
        options |= {name: value for name, value in streaming_table(target).items() if name not in given}
        lowered = lay_out(config, layers_as(config, quantisation_of(target)), machine, **options)
    else:
        from tilevit.models import load_model

        lowered = lower(load_model(target).counted(), machine, **options)
    return lowered.pipeline, lowered


def _machine(given: Mapping[str, Any], model: str, hardware: str) -> Hardware:
    """The machine in the model's TOML file unless an option says otherwise."""
    from fifo_sim import Hardware
    from tilevit.model_file import machine_of

    if "hardware" in given or Path(model).suffix != ".toml":
        return Hardware.load(hardware)
    return machine_of(model, hardware)
