"""`tilevit prune`, `qat`, `ptq` and `export`: the same network, smaller."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tilevit.commands.options import Data, Device, Fresh, Json, Model, Seed, ValFraction, output_file
from tilevit.console import tell
from vit.errors import InputError, did_you_mean, require_choice
from vit.recipe import VAL_FRACTION

if TYPE_CHECKING:
    from torch import nn

FORMATS = ("packed", "onnx", "qonnx", "verilog")
CALIBRATION_IMAGES = 256

Epochs = Annotated[int, typer.Option(help="Epochs of training afterwards, with what was removed held at zero.", min=0)]
Rate = Annotated[float, typer.Option("--lr", help="Peak learning rate of that training.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    for command in (prune, qat, ptq, export):
        app.command(command.__name__, rich_help_panel="Step by step")(command)


def prune(
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
    epochs: Epochs = 0,
    lr: Rate = 1e-3,
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint.")] = Path("outputs/prune"),
    fresh: Fresh = False,
    val_fraction: ValFraction = VAL_FRACTION,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Remove weights: by magnitude (--sparsity), by pattern (--nm), or whole heads, MLP units and channels."""
    from prune import magnitude_prune, nm_prune
    from prune import sparsity as measured
    from tilevit.models import load_model
    from tilevit.training import trained
    from vit import Recipe, load_data

    ways = [sparsity is not None, nm is not None, bool(heads or mlp or channels)]
    if sum(ways) != 1:
        raise InputError("prune", f"{sum(ways)} ways given", "one of --sparsity, --nm, or --heads/--mlp/--channels")
    splits = load_data(data, val_fraction=val_fraction, seed=seed)
    network = load_model(model, splits, seed).network(quantised=False)
    removed: dict[str, float] = {}
    if sparsity is not None:
        network = magnitude_prune(network, sparsity, scope)
        if measured(network)["total"] == 1:
            raise InputError("sparsity", sparsity, "a share that leaves a weight of this model")
    elif nm is not None:
        network = nm_prune(network, *_pattern(nm))
    else:
        network, removed = _cut(network, {"heads": heads, "mlp": mlp, "channels": channels}, round_to)
    recipe = Recipe.for_data(splits.name, epochs=epochs, lr=lr, seed=seed) if epochs else None
    result = trained(network, splits, recipe, out, device=device, fresh=fresh, name="finetune")
    tell("Pruned", result | removed, json)


def qat(
    model: Model,
    data: Data = "digits",
    weights: Annotated[str, typer.Option(help="pot4, pot6, apot4, apot6, int4, int6 or int8.")] = "pot4",
    activations: Annotated[str, typer.Option(help="int8, int6 or int4.")] = "int8",
    skip: Annotated[
        list[str] | None, typer.Option(help="Layer to leave in float, such as head; may be repeated.")
    ] = None,
    epochs: Epochs = 10,
    lr: Rate = 5e-4,
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and packed.safetensors.")] = Path("outputs/qat"),
    fresh: Fresh = False,
    val_fraction: ValFraction = VAL_FRACTION,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Quantisation-aware training, then the packed model of the integer engine. Pruned weights stay exactly zero."""
    import torch

    from quant import QuantConfig, convert, prepare_qat, save_qat
    from tilevit.models import load_model
    from tilevit.run import packed_accuracy
    from tilevit.training import trained
    from vit import Recipe, load_data
    from vit.masks import prunable_layers

    config = QuantConfig(weights=weights, activations=activations, skip=tuple(skip or ()))
    splits = load_data(data, val_fraction=val_fraction, seed=seed)
    network = load_model(model, splits, seed).network(quantised=False)
    layers = list(prunable_layers(network))
    for pattern in config.skip:
        if not any(QuantConfig(skip=(pattern,)).scheme_of(layer) == "float" for layer in layers):
            raise InputError("skip", pattern, "a layer of this model or a pattern", did_you_mean(pattern, layers))
    images = splits.train.take(torch.arange(min(CALIBRATION_IMAGES, len(splits.train)))).floats()
    prepared = prepare_qat(network, config, calibration=images)
    recipe = Recipe.for_data(splits.name, epochs=epochs, lr=lr, seed=seed) if epochs else None
    result = trained(prepared, splits, recipe, out, device=device, fresh=fresh, name="qat", save=save_qat)
    packed = convert(prepared, mean=splits.mean, std=splits.std)
    packed.save(out / "packed.safetensors")
    result |= {"packed": str(out / "packed.safetensors"), "packed_bytes": (out / "packed.safetensors").stat().st_size}
    result["packed_val_accuracy"], _ = packed_accuracy(packed, splits.val)
    tell("Quantised", result, json)


def ptq(
    model: Model,
    data: Data = "digits",
    method: Annotated[str, typer.Option(help="fp16, int8-dynamic, int8-static or int4-weight.")] = "int8-dynamic",
    out: Annotated[Path, typer.Option(help="Folder for the ONNX file.")] = Path("outputs/ptq"),
    val_fraction: ValFraction = VAL_FRACTION,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Quantise after training, through onnxruntime: accuracy, change, size and latency beside the float model."""
    from quant import ptq as quantised
    from tilevit.models import load_model
    from vit import load_data

    splits = load_data(data, val_fraction=val_fraction, seed=seed)
    result = quantised(load_model(model, splits, seed).network(quantised=False), method, splits, out=out)
    tell("Quantised after training", result.to_dict(), json)


def export(
    model: Model,
    out: Annotated[Path, output_file("File to write.")],
    format: Annotated[
        str, typer.Option(help="packed or qonnx (both from a QAT checkpoint), onnx, or verilog (from a pipeline file).")
    ] = "onnx",
    data: Annotated[
        str | None, typer.Option(help="Data whose mean and deviation a packed model normalises by.")
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


def _cut(network: nn.Module, shares: dict[str, float], round_to: int) -> tuple[nn.Module, dict[str, float]]:
    """The smaller model, and the share of each kind that was removed, which rounding moves from what was asked.

    Raises:
        InputError: a share that would leave less than one head a block, or less than `round_to` units or channels.
    """
    from prune import structured_prune

    smaller = structured_prune(network, **shares, round_to=round_to)
    before, after = _widths(network), _widths(smaller)
    removed = {name: 1 - sum(after[name]) / sum(before[name]) for name in shares}
    for name, share in shares.items():
        if name == "heads":
            rounding, why = 0.5, "every block keeps one"
        else:
            rounding, why = 0.5 * round_to * len(before[name]), f"--round-to {round_to} keeps that many"
        if (share - removed[name]) * sum(before[name]) > rounding + 1e-6:
            raise InputError(name, share, f"at most {removed[name]:.4g} for this model", why)
    return smaller, {f"{name}_removed": share for name, share in removed.items()}


def _widths(network: nn.Module) -> dict[str, list[int]]:
    """Heads and MLP units of each block, and channels of a token."""
    from prune.anatomy import blocks, dim_of, heads_of

    parts = blocks(network)
    return {
        "heads": [heads_of(block) for block in parts],
        "mlp": [block.mlp.fc1.out_features for block in parts],
        "channels": [dim_of(network)],
    }


def _pattern(text: str) -> tuple[int, int]:
    n, _, m = text.partition(":")
    if not (n.isdecimal() and m.isdecimal()):
        raise InputError("nm", text, "N:M, such as 2:4")
    return int(n), int(m)
