"""What the training commands share: a recipe from defaults, file and flags; one resumable training in a folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from prune import sparsity
from tilevit.console import progress
from tilevit.model_file import TABLES
from vit import DataSplits, Recipe, evaluate, fit, save_checkpoint
from vit.errors import InputError, require_known_keys
from vit.files import read_toml
from vit.training import FitResult

AFTER_PRUNING: Mapping[str, Any] = {"epochs": 0, "lr": 1e-3}  # the training that follows, unless told otherwise
AFTER_QUANTISING: Mapping[str, Any] = {"epochs": 10, "lr": 5e-4}
STATS_COLUMNS = ("stage", "epoch", "train_loss", "val_accuracy", "val_loss", "lr", "seconds")


@dataclass(frozen=True)
class Place:
    """What a step works on, and where it leaves its files.

    Attributes:
        out: folder of the states from which a stopped training goes on.
        latest: the checkpoint at the end.
        best: that of the epoch of highest validation accuracy; None keeps none.
        fresh: forget what an earlier step of this name left.
        name: of the training, told with its progress; trainings that share a folder need different ones.
    """

    data: DataSplits
    out: Path
    latest: Path
    best: Path | None = None
    seed: int = 0
    device: str = "cpu"
    fresh: bool = False
    name: str = "train"

    @property
    def state(self) -> Path:
        """The file from which the training goes on."""
        return self.out / f"{self.name}_state.safetensors"


def training_recipe(at: Place, recipe: Path | Mapping[str, Any] | None, **given: Any) -> Recipe:
    """The recipe that suits the data, overridden by the table or the file's [recipe] table, then by what is given."""
    told = {name: value for name, value in given.items() if value is not None}
    return Recipe.for_data(at.data.name, **{**recipe_table(recipe), **told, "seed": at.seed})


def retraining_table(
    recipe: Path | Mapping[str, Any] | None, epochs: int | None, lr: float | None, usual: Mapping[str, Any]
) -> dict[str, Any]:
    """Fields of the recipe for after a model was made smaller: as given, else the recipe's, else `usual`.

    Its "epochs" may be 0: no such training.
    """
    given = {"epochs": epochs, "lr": lr}
    return {**usual, **recipe_table(recipe), **{name: value for name, value in given.items() if value is not None}}


def recipe_table(recipe: Path | Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The fields of Recipe in a table, or in the [recipe] table of a TOML file; none for None."""
    if not isinstance(recipe, Path):
        return recipe or {}
    tables = read_toml(recipe, "recipe")
    require_known_keys(f"{recipe}: table", tables, TABLES)
    table = tables.get("recipe", {})
    if not isinstance(table, Mapping):
        raise InputError("recipe", str(recipe), "a TOML file with a [recipe] table")
    return table


def trained(
    model: nn.Module,
    recipe: Recipe | None,
    at: Place,
    *,
    train: Callable[..., FitResult] = fit,
    save: Callable[[Path, nn.Module], None] = save_checkpoint,
) -> dict[str, Any]:
    """Train in place, going on where it was stopped, and save; the result as JSON values, the history among them.

    Args:
        recipe: None saves the model as it is.
        train: `fit`, or a function with its signature (distillation with the teacher bound).
        save: writes a checkpoint.

    Raises:
        InputError: the place holds a training with other settings, or cannot be written.
    """
    best = at.best if recipe is not None else None
    if at.fresh or (best is not None and not best.exists()):  # a best epoch that is gone comes from training alone
        for file in (at.state, at.latest, *([best] if best else [])):
            file.unlink(missing_ok=True)
    history: Sequence[Mapping[str, float]] = ()
    if recipe is not None:
        with progress(at.name, recipe.epochs) as tick:
            result = train(
                model,
                at.data,
                recipe,
                out=at.out,
                device=at.device,
                on_epoch=lambda row: tick(f"validation {row['val_accuracy']:.3f}"),
                on_best=None if best is None else lambda found, _: save(best, found),
                name=at.name,
            )
        history = result.history
        model.to("cpu")
    save(at.latest, model)
    told = {
        "val_accuracy": evaluate(model, at.data.val).accuracy,
        "epochs": len(history),
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "sparsity": sparsity(model)["total"],
        "checkpoint": str(at.latest),
        "checkpoint_bytes": at.latest.stat().st_size,
        "history": list(history),
    }
    if best is not None:
        told |= {"best": str(best), "best_val_accuracy": max(row["val_accuracy"] for row in history)}
    return told


def stats_csv(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """One row an epoch over all trainings, {name: history}, as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, STATS_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for stage, history in histories.items():
        writer.writerows({"stage": stage, **row} for row in history)
    return text.getvalue()
