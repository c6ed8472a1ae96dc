"""`tilevit train`, `distill` and `evaluate`: weights, and how good they are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tilevit.commands.options import (
    Data,
    Device,
    Fresh,
    Json,
    Model,
    RecipeFile,
    Seed,
    ValFraction,
    given_options,
    with_stats,
    working_in,
)
from tilevit.console import tell
from tilevit.idle import refuse_idle_in_step
from vit.errors import InputError, require_choice
from vit.recipe import VAL_FRACTION

Epochs = Annotated[
    int | None, typer.Option(help="Passes over the training images; default: what suits the data.", min=1)
]
BatchSize = Annotated[int | None, typer.Option(help="Images a step.", min=1)]
Rate = Annotated[float | None, typer.Option("--lr", help="Peak learning rate of AdamW.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    for command in (train, distill, evaluate):
        app.command(command.__name__, rich_help_panel="Step by step")(command)


def train(
    model: Model,
    data: Data = "digits",
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Start a timm model from timm's weights, where they can be had.")
    ] = False,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    recipe: RecipeFile = None,
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and stats.csv.")] = Path("outputs/train"),
    fresh: Fresh = False,
    val_fraction: ValFraction = VAL_FRACTION,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Train a model: a TOML file from `tilevit search --export`, a timm name, or a checkpoint to go on from.

    Stopped anywhere, the same command goes on where it was. Writes model.safetensors and stats.csv.
    """
    from tilevit import steps

    at = working_in(out, data, val_fraction, seed, device, fresh, "train")
    given = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "recipe": recipe}
    result = steps.train(at, model, pretrained=pretrained, **given)  # type: ignore[arg-type]
    tell("Trained", with_stats(result, at), json)


def distill(
    ctx: typer.Context,
    teacher: Annotated[
        str, typer.Option(help="Checkpoint of the teacher, or a timm name (then with pretrained weights).")
    ],
    model: Model,
    data: Data = "digits",
    temp: Annotated[float, typer.Option(help="Temperature of the softened probabilities.")] = 4.0,
    lam_kd: Annotated[float, typer.Option(help="Weight of temp² × KL(teacher, student).")] = 0.7,
    lam_f: Annotated[float, typer.Option(help="Weight of the mean squared difference of the features.")] = 0.2,
    lam_ce: Annotated[float, typer.Option(help="Weight of the cross-entropy with the labels.")] = 0.1,
    hard: Annotated[
        bool, typer.Option("--hard", help="Learn the teacher's class instead of its probabilities.")
    ] = False,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    recipe: RecipeFile = None,
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and stats.csv.")] = Path("outputs/distill"),
    fresh: Fresh = False,
    val_fraction: ValFraction = VAL_FRACTION,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Train a small student to answer like a teacher: lam_kd·T²·KL + lam_f·feature MSE + lam_ce·cross-entropy."""
    from tilevit import steps

    refuse_idle_in_step("distill", given_options(ctx))
    at = working_in(out, data, val_fraction, seed, device, fresh, "distill")
    result = steps.distill(
        at,
        model,
        teacher=teacher,
        temp=temp,
        lam_kd=lam_kd,
        lam_f=lam_f,
        lam_ce=lam_ce,
        hard=hard,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        recipe=recipe,
    )
    tell("Trained", with_stats(result, at), json)


def evaluate(
    model: Annotated[
        str, typer.Argument(help="A checkpoint, float or QAT, a packed model, or an ONNX file of ptq or export.")
    ],
    data: Data = "digits",
    split: Annotated[str, typer.Option(help="test, val or train.")] = "test",
    val_fraction: ValFraction = VAL_FRACTION,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Accuracy of a model in a file: a packed one on the integer engine, an ONNX file by onnxruntime on the CPU.

    Images are brought to the model's size and normalised as it was trained; where the data's own differ, that is said.
    """
    from tilevit.metrics import accuracy_of
    from tilevit.models import data_as_trained, load_model

    require_choice("split", split, ("test", "val", "train"))
    loaded = load_model(model)
    if loaded.kind == "new":
        allowed = "a checkpoint, a packed model or an ONNX file"
        raise InputError("model", model, allowed, "this one is not trained: see tilevit train")
    splits = data_as_trained(loaded, data, val_fraction, seed)
    images = getattr(splits, split)
    accuracy = accuracy_of(loaded, images, device)
    result = {"model": model, "kind": loaded.kind, "data": splits.name, "split": split, "images": len(images)}
    result |= {"image_size": splits.image_size, "mean": splits.mean, "std": splits.std, "accuracy": accuracy}
    tell("Evaluated", result, json)
