"""`tilevit prune`, `qat`, `ptq` and `export`: the same network, smaller."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tilevit.commands.options import (
    Data,
    Device,
    Fresh,
    HardwareName,
    Json,
    Model,
    RecipeFile,
    Seed,
    ValFraction,
    given_options,
    listed,
    output_file,
    with_stats,
    working_in,
)
from tilevit.console import tell
from tilevit.idle import refuse_idle_in_step
from vit.errors import InputError, require_choice
from vit.recipe import VAL_FRACTION

FORMATS = ("packed", "onnx", "qonnx", "verilog")

Epochs = Annotated[
    int | None,
    typer.Option(help="Epochs of training afterwards (pruning 0, QAT 10); what was removed stays at zero.", min=0),
]
Rate = Annotated[float | None, typer.Option("--lr", help="Peak learning rate of that training (1e-3; QAT 5e-4).")]


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    for command in (prune, qat, ptq, export):
        app.command(command.__name__, rich_help_panel="Step by step")(command)


def prune(
    ctx: typer.Context,
    model: Model,
    data: Data = "digits",
    sparsity: Annotated[
        float | None, typer.Option(help="Share of the weights to mask by magnitude, in [0, 1).")
    ] = None,
    scope: Annotated[str, typer.Option(help="Where magnitudes are compared: global, layer or erk.")] = "global",
    nm: Annotated[str | None, typer.Option(help="N:M pattern, such as 2:4: N weights stay of every M.")] = None,
    heads: Annotated[float, typer.Option(help="Share of the attention heads to cut out for good.")] = 0.0,
    mlp: Annotated[float, typer.Option(help="Share of the MLP units to cut out for good.")] = 0.0,
    channels: Annotated[float, typer.Option(help="Share of the token channels to cut out for good.")] = 0.0,
    round_to: Annotated[int, typer.Option(help="Widths that are cut stay multiples of this.", min=1)] = 8,
    importance: Annotated[
        str, typer.Option(help="Which units are cut: by magnitude, by taylor, or by a learned gate.")
    ] = "magnitude",
    gate_epochs: Annotated[int, typer.Option(help="Epochs in which gates are learned.", min=1)] = 10,
    gate_penalty: Annotated[float, typer.Option(help="Weight of the sum of the gates in the loss.")] = 1e-2,
    epochs: Epochs = None,
    lr: Rate = None,
    recipe: RecipeFile = None,
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint.")] = Path("outputs/prune"),
    fresh: Fresh = False,
    val_fraction: ValFraction = VAL_FRACTION,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Remove weights: by magnitude (--sparsity), by pattern (--nm), or whole heads, MLP units and channels."""
    from tilevit import steps

    refuse_idle_in_step("prune", given_options(ctx))
    at = working_in(out, data, val_fraction, seed, device, fresh, "finetune")
    result = steps.prune(
        at,
        model,
        sparsity=sparsity,
        scope=scope,
        nm=nm,
        heads=heads,
        mlp=mlp,
        channels=channels,
        round_to=round_to,
        importance=importance,
        gate_epochs=gate_epochs,
        gate_penalty=gate_penalty,
        epochs=epochs,
        lr=lr,
        recipe=recipe,
    )
    tell("Pruned", with_stats(result, at), json)


def qat(
    ctx: typer.Context,
    model: Model,
    data: Data = "digits",
    weights: Annotated[
        str,
        typer.Option(
            help="pot4, pot6, apot4, apot6, int4, int6 or int8; or a TOML file with a table [weights] of layer "
            "patterns and schemes, and activations, such as `tilevit search --export` writes."
        ),
    ] = "pot4",
    activations: Annotated[str, typer.Option(help="int8, int6 or int4.")] = "int8",
    probabilities: Annotated[
        str, typer.Option(help="Of attention: uniform, or log2 (0 and powers of two, 16 codes).")
    ] = "uniform",
    skip: Annotated[
        list[str] | None, typer.Option(help="Layer to leave in float, such as head; may be repeated.")
    ] = None,
    budget_kib: Annotated[
        float | None,
        typer.Option(help="Most KiB of the codes of all weights: the scheme of each layer is chosen for it."),
    ] = None,
    budget_nj: Annotated[
        float | None,
        typer.Option(help="The same for nJ an image, on --hardware at tiles of 8 and FIFOs of 4 with full attention."),
    ] = None,
    schemes: Annotated[
        str | None, typer.Option(help="Comma-separated, to choose from for a budget; default: pot4,apot4,apot6,int8.")
    ] = None,
    hardware: HardwareName = "zcu104",
    epochs: Epochs = None,
    lr: Rate = None,
    recipe: RecipeFile = None,
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and packed.safetensors.")] = Path("outputs/qat"),
    fresh: Fresh = False,
    val_fraction: ValFraction = VAL_FRACTION,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Quantisation-aware training, then the packed model of the integer engine. Pruned weights stay exactly zero.

    With a budget, sensitivity.csv tells what each layer loses by each scheme, and schemes.toml what was chosen.
    """
    from tilevit import steps

    refuse_idle_in_step("qat", given_options(ctx))
    at = working_in(out, data, val_fraction, seed, device, fresh, "qat")
    result = steps.qat(
        at,
        model,
        **_rounding(ctx, model, weights, activations),
        probabilities=probabilities,
        skip=skip,
        budget_kib=budget_kib,
        budget_nj=budget_nj,
        schemes=None if schemes is None else listed("schemes", schemes),
        hardware=hardware,
        epochs=epochs,
        lr=lr,
        recipe=recipe,
    )
    tell("Quantised", with_stats(result, at), json)


def ptq(
    model: Model,
    data: Data = "digits",
    method: Annotated[str, typer.Option(help="fp16, int8-dynamic, int8-static or int4-weight.")] = "int8-dynamic",
    calibration_images: Annotated[
        int, typer.Option(help="Training images that ranges and sensitivities are taken from.", min=1)
    ] = 128,
    out: Annotated[Path, typer.Option(help="Folder for the ONNX file.")] = Path("outputs/ptq"),
    val_fraction: ValFraction = VAL_FRACTION,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Quantise after training, through onnxruntime: accuracy, change, size and latency beside the float model."""
    from tilevit import steps

    at = working_in(out, data, val_fraction, seed, "cpu", False, "ptq")
    result = steps.ptq(at, model, method=method, calibration_images=calibration_images)
    tell("Quantised after training", result, json)


def export(
    model: Model,
    out: Annotated[Path, output_file("File to write.")],
    format: Annotated[
        str, typer.Option(help="packed or qonnx (both from a QAT checkpoint), onnx, or verilog (from a pipeline file).")
    ] = "onnx",
    data: Annotated[
        str | None,
        typer.Option(
            help="Data whose mean and deviation a packed model normalises by, in place of those it was trained with."
        ),
    ] = None,
    val_fraction: ValFraction = VAL_FRACTION,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Write a model for another tool to run."""
    from tilevit.models import load_model

    require_choice("format", format, FORMATS)
    if format == "verilog":
        from fifo_sim import Pipeline, to_verilog
        from vit.files import write_text

        write_text(out, to_verilog(Pipeline.from_json(model)))
    elif format == "onnx":
        from quant import export_onnx

        export_onnx(load_model(model).network(), out)
    elif format == "qonnx":
        from quant import export_qonnx

        loaded = load_model(model)
        export_qonnx(loaded.packed() if loaded.kind == "packed" else loaded.prepared(), out)
    else:
        from quant import convert
        from vit import load_data

        splits = load_data(data, val_fraction=val_fraction, seed=seed) if data else None
        convert(load_model(model).prepared(), splits and splits.mean, splits and splits.std).save(out)
    tell("Exported", {"file": str(out), "format": format, "size_bytes": out.stat().st_size}, json)


def _rounding(ctx: typer.Context, model: str, weights: str, activations: str) -> dict[str, Any]:
    """Weights and activations as `steps.qat` takes them: as given, else as the TOML file of schemes or model says."""
    from tilevit.model_file import quantisation_of

    given = given_options(ctx)
    file = weights if "weights" in given else model
    found = quantisation_of(file) if Path(file).suffix == ".toml" else None
    if found is None and file == weights and Path(file).suffix == ".toml":
        raise InputError("weights", weights, "a TOML file with a table [weights] of layer patterns and schemes")
    if found is None:
        return {"weights": weights, "activations": activations}
    return {"weights": found.weights, "activations": activations if "activations" in given else found.activations}
