"""What the training commands share: a recipe from defaults, file and flags; one resumable training in a folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from prune import sparsity
from tilevit.console import progress
from vit import DataSplits, Recipe, evaluate, fit, save_checkpoint
from vit.errors import InputError, require_known_keys
from vit.files import read_toml, write_text
from vit.training import FitResult

STATS_COLUMNS = ("stage", "epoch", "train_loss", "val_accuracy", "val_loss", "lr", "seconds")


def training_recipe(data: str, file: Path | None, **flags: Any) -> Recipe:
    """The recipe that suits the data, overridden by the file's [recipe] table, then by the flags that are given."""
    table: Any = {}
    if file is not None:
        tables = read_toml(file, "recipe")
        require_known_keys(f"{file}: table", tables, ["model", "recipe", "streaming"])
        table = tables.get("recipe", {})
        if not isinstance(table, Mapping):
            raise InputError("recipe", str(file), "a TOML file with a [recipe] table")
    given = {name: value for name, value in flags.items() if value is not None}
    return Recipe.for_data(data, **{**table, **given})


def trained(
    model: nn.Module,
    data: DataSplits,
    recipe: Recipe | None,
    out: Path,
    *,
    device: str,
    fresh: bool,
    train: Callable[..., FitResult] = fit,
    name: str = "train",
    save: Callable[[Path, nn.Module], None] = save_checkpoint,
) -> dict[str, Any]:
    """Train in place in the folder `out`, going on where it was stopped, and save; the result as JSON values.

    Args:
        recipe: None saves the model as it is.
        fresh: forget what an earlier training of this name left in `out`.
        train: `fit`, or a function with its signature (distillation with the teacher bound).
        save: writes model.safetensors.

    Raises:
        InputError: `out` holds a training with other settings, or cannot be written.
    """
    state, checkpoint, stats = out / f"{name}_state.safetensors", out / "model.safetensors", out / "stats.csv"
    if fresh:
        for file in (state, checkpoint, stats):
            file.unlink(missing_ok=True)
    history: Sequence[Mapping[str, float]] = ()
    if recipe is not None:
        with progress(name, recipe.epochs) as tick:
            result = train(
                model,
                data,
                recipe,
                out=out,
                device=device,
                on_epoch=lambda row: tick(f"validation {row['val_accuracy']:.3f}"),
                name=name,
            )
        history = result.history
        model.to("cpu")
    save(checkpoint, model)
    write_text(stats, stats_csv({name: history}))
    return {
        "val_accuracy": evaluate(model, data.val).accuracy,
        "epochs": len(history),
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "sparsity": sparsity(model)["total"],
        "checkpoint": str(checkpoint),
        "stats": str(stats),
    }


def stats_csv(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """One row an epoch over all trainings, {name: history}, as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, STATS_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for stage, history in histories.items():
        writer.writerows({"stage": stage, **row} for row in history)
    return text.getvalue()
