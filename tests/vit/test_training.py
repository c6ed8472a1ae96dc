from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vit.checkpoint import canonical_state
from vit.errors import InputError
from vit.evaluation import evaluate
from vit.image_set import DataSplits
from vit.masks import masks, set_mask
from vit.optimise import learning_rate
from vit.recipe import Recipe
from vit.training import Batch, Row, fit
from vit.zoo import create_model

SHAPE: dict[str, Any] = {
    "image_size": 8, "patch_size": 4, "in_channels": 1, "num_classes": 3, "dim": 16, "depth": 2, "heads": 2,
    "drop_path": 0.2,
}  # fmt: skip
EVERYTHING: dict[str, Any] = {"epochs": 4, "batch_size": 16, "mixup": 0.5, "cutmix": 0.5, "crop_padding": 1, "ema": 0.9}


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return create_model(SHAPE)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    first, second = canonical_state(one), canonical_state(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def untimed(rows: list[Row]) -> list[Row]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


class Stopped(Exception):
    """In place of the user's Ctrl-C."""


def test_a_model_learns_and_is_left_ready_to_use(stripes: DataSplits) -> None:
    model = fresh()
    rows: list[Row] = []
    result = fit(model, stripes, Recipe(epochs=10, batch_size=8, lr=3e-3, crop_padding=0), on_epoch=rows.append)
    assert result.val_accuracy > 0.9
    assert rows == result.history
    assert [row["epoch"] for row in rows] == list(range(1, 11))
    assert set(rows[0]) == {"epoch", "train_loss", "val_accuracy", "val_loss", "lr", "seconds"}
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert rows[4]["lr"] == learning_rate(5 * 8 - 1, 80, Recipe(lr=3e-3))
    assert result.best_val_accuracy == max(row["val_accuracy"] for row in rows)
    assert not model.training
    measured = evaluate(model, stripes.val)  # the weights returned are the ones that were validated
    assert (measured.accuracy, measured.loss) == (result.val_accuracy, result.val_loss)
    assert not stripes.test_was_read


def test_the_plain_loop_gives_the_same_weights(stripes: DataSplits) -> None:
    """Without options, `fit` is the loop that everybody writes."""
    recipe = Recipe(
        epochs=2, batch_size=20, ema=0.0, clip_grad=0.0, crop_padding=0, label_smoothing=0.0, weight_decay=0.0
    )
    model = create_model({**SHAPE, "drop_path": 0.0})
    reference = copy.deepcopy(model)
    fit(model, stripes, recipe)
    optimiser = torch.optim.AdamW(reference.parameters(), weight_decay=0.0, fused=True)
    step = 0
    for epoch in range(2):
        order = np.random.default_rng([0, epoch]).permutation(60)
        for chosen in np.split(order, 3):
            optimiser.param_groups[0]["lr"] = learning_rate(step, 6, recipe)
            batch = stripes.train.take(chosen)
            optimiser.zero_grad()
            F.cross_entropy(reference(batch.floats()), batch.labels).backward()
            optimiser.step()
            step += 1
    for one, other in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_the_same_seed_gives_the_same_bits_and_leaves_torchs_generator_alone(stripes: DataSplits) -> None:
    one, same, other = fresh(), fresh(), fresh()
    before = torch.get_rng_state()
    first = fit(one, stripes, Recipe(**EVERYTHING))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    second = fit(same, stripes, Recipe(**EVERYTHING))
    fit(other, stripes, Recipe(**EVERYTHING, seed=1))
    assert same_weights(one, same)
    assert untimed(first.history) == untimed(second.history)
    assert not same_weights(one, other)


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_stopped_training_ends_as_if_it_had_not_been(stripes: DataSplits, tmp_path: Path, stop_after: int) -> None:
    whole = fresh()
    expected = fit(whole, stripes, Recipe(**EVERYTHING))

    def stop(row: Row) -> None:
        if row["epoch"] == stop_after:
            raise Stopped

    with pytest.raises(Stopped):
        fit(fresh(), stripes, Recipe(**EVERYTHING), tmp_path, on_epoch=stop)
    resumed, rows = fresh(), []
    result = fit(resumed, stripes, Recipe(**EVERYTHING), tmp_path, on_epoch=rows.append)
    assert same_weights(resumed, whole)
    assert untimed(result.history) == untimed(expected.history) == untimed(rows)
    assert rows == result.history


def test_a_finished_training_is_loaded_not_run(stripes: DataSplits, tmp_path: Path) -> None:
    model = fresh()
    result = fit(model, stripes, Recipe(**EVERYTHING), tmp_path, name="float")
    assert [path.name for path in tmp_path.iterdir()] == ["float_state.safetensors"]

    def never(model: nn.Module, batch: Batch) -> Tensor:
        raise AssertionError("trained again")

    again = fresh()
    assert fit(again, stripes, Recipe(**EVERYTHING), tmp_path, name="float", loss=never) == result
    assert same_weights(again, model)


def test_another_training_in_the_same_folder_is_refused(stripes: DataSplits, tmp_path: Path) -> None:
    recipe = Recipe(**EVERYTHING)
    fit(fresh(), stripes, recipe, tmp_path)
    before = (tmp_path / "train_state.safetensors").read_bytes()
    other = DataSplits("other", stripes.val, stripes.train, lambda: stripes.val, flip=False)
    calls = {
        "recipe": lambda: fit(fresh(), stripes, Recipe(**EVERYTHING, seed=5), tmp_path),
        "data": lambda: fit(fresh(), other, recipe, tmp_path),
        "model": lambda: fit(create_model(SHAPE), stripes, recipe, tmp_path),
    }
    for what, call in calls.items():
        with pytest.raises(InputError, match=f"another {what}") as caught:
            call()
        assert caught.value.field == "out"
    assert (tmp_path / "train_state.safetensors").read_bytes() == before
    (tmp_path / "train_state.safetensors").write_bytes(before[:-9])
    with pytest.raises(InputError, match="damaged"):
        fit(fresh(), stripes, recipe, tmp_path)


def prune_in_steps(model: nn.Module, step: int, total: int) -> None:
    """A schedule: from the fourth step on, ever fewer of the first layer's weights."""
    layer = model.get_submodule("blocks.0.mlp.fc1")
    if step >= 4:
        threshold = layer.weight.abs().flatten().quantile(0.5 * step / total)
        set_mask(layer, layer.weight.abs() > threshold)


def test_masks_hold_and_a_pruning_schedule_resumes(stripes: DataSplits, tmp_path: Path) -> None:
    def pruned() -> nn.Module:
        model = fresh()
        torch.manual_seed(1)
        set_mask(model.head, torch.rand_like(model.head.weight) > 0.5)
        return model

    def stop(row: Row) -> None:
        if row["epoch"] == 2:
            raise Stopped

    recipe, whole, resumed = Recipe(**EVERYTHING), pruned(), pruned()
    fixed = masks(whole)["head"].clone()
    fit(whole, stripes, recipe, on_step=prune_in_steps)
    with pytest.raises(Stopped):
        fit(pruned(), stripes, recipe, tmp_path, on_step=prune_in_steps, on_epoch=stop)
    fit(resumed, stripes, recipe, tmp_path, on_step=prune_in_steps)
    assert same_weights(whole, resumed)
    assert torch.equal(masks(whole)["head"], fixed)
    for name, mask in masks(whole).items():
        layer = whole.get_submodule(name)
        assert (layer.weight[~mask] == 0).all()
        assert (layer.parametrizations.weight.original[~mask] == 0).all()  # nothing waits behind the mask
    assert float(masks(whole)["blocks.0.mlp.fc1"].float().mean()) == pytest.approx(0.5, abs=0.01)
    again = pruned()
    fit(again, stripes, recipe, tmp_path, on_step=prune_in_steps)
    assert same_weights(again, whole)


def test_a_killed_process_goes_on_where_it_was(stripes: DataSplits, tmp_path: Path) -> None:
    """SIGKILL in the middle of an epoch, in a process of its own."""
    script = f"""
import os, signal, sys, torch
torch.set_num_threads(1)
from tests.vit import test_training as t
from tests.vit.conftest import stripes
def die(model, step, total):
    if step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
t.fit(t.fresh(), stripes.__wrapped__(), t.Recipe(**t.EVERYTHING), {str(tmp_path)!r}, on_step=die)
"""
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    whole, resumed = fresh(), fresh()
    fit(whole, stripes, Recipe(**EVERYTHING))
    fit(resumed, stripes, Recipe(**EVERYTHING), tmp_path)
    assert same_weights(whole, resumed)


def test_an_epoch_is_cut_into_equal_batches_of_every_image_once(stripes: DataSplits) -> None:
    seen: list[Tensor] = []

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        seen.append(batch.indices)
        assert torch.equal(batch.labels, stripes.train.labels[batch.indices])
        assert batch.epoch == 0
        return F.cross_entropy(model(batch.images), batch.targets)

    steps: list[tuple[int, int]] = []
    recipe = Recipe(epochs=1, batch_size=13, crop_padding=0)
    fit(fresh(), stripes, recipe, loss=loss, on_step=lambda model, step, total: steps.append((step, total)))
    assert [len(batch) for batch in seen] == [12] * 5
    assert sorted(torch.cat(seen).tolist()) == list(range(60))
    assert steps == [(step, 5) for step in range(1, 6)]


def test_frozen_parameters_and_running_statistics(stripes: DataSplits) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    model[0].weight.requires_grad_(False)
    kernel, mean = model[0].weight.clone(), model[1].running_mean.clone()
    fit(model, stripes, Recipe(epochs=2, batch_size=16))
    assert torch.equal(model[0].weight, kernel)
    assert not torch.equal(model[1].running_mean, mean)


def test_randaugment_trains_and_repeats(stripes: DataSplits) -> None:
    recipe = Recipe(epochs=1, batch_size=32, randaugment=2, flip=True)
    one, same = fresh(), fresh()
    fit(one, stripes, recipe)
    fit(same, stripes, recipe)
    assert same_weights(one, same)


@pytest.mark.parametrize("change", [{"num_classes": 4}, {"in_channels": 3}, {"image_size": 12}])
def test_a_model_for_other_data_is_refused(stripes: DataSplits, change: dict[str, int]) -> None:
    with pytest.raises(InputError, match="a model for 1 x 8 x 8 images of 3 classes") as caught:
        fit(create_model({**SHAPE, **change}), stripes, Recipe(epochs=1))
    assert "\n" not in str(caught.value)


def test_the_model_first_sees_training_images(stripes: DataSplits) -> None:
    """A quantiser sets its scales by the first images: they must be a whole training batch."""

    class FirstSeen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.first = fresh(), 0

        def forward(self, images: Tensor) -> Tensor:
            self.first = self.first or len(images)
            return self.inner(images)

    model = FirstSeen()
    fit(model, stripes, Recipe(epochs=1, batch_size=20))
    assert model.first == 20


def test_a_diverging_training_names_the_rate(stripes: DataSplits) -> None:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return model(batch.images).mean() * float("nan")

    with pytest.raises(InputError, match=r"lr = 0\.001.*the loss is nan in epoch 1"):
        fit(fresh(), stripes, Recipe(epochs=1), loss=loss)


def test_the_best_epoch_is_told_with_its_weights_in_place_also_after_an_interruption(
    stripes: DataSplits, tmp_path: Path
) -> None:
    recipe = Recipe(epochs=4, batch_size=20, lr=5e-3)
    seen: list[float] = []

    def check(model: nn.Module, row: Row) -> None:
        assert evaluate(model, stripes.val).accuracy == row["val_accuracy"]
        seen.append(row["epoch"])

    def stop(row: Row) -> None:
        if row["epoch"] == 2:
            raise Stopped

    history = fit(fresh(), stripes, recipe, on_best=check).history
    accuracy = [row["val_accuracy"] for row in history]
    whole = [i + 1 for i in range(4) if accuracy[i] > max([-1.0, *accuracy[:i]])]
    assert seen == whole
    seen.clear()
    with pytest.raises(Stopped):
        fit(fresh(), stripes, recipe, tmp_path, on_best=check, on_epoch=stop)
    fit(fresh(), stripes, recipe, tmp_path, on_best=check)
    assert seen == whole
