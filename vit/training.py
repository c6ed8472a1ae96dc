"""The training loop: one call, deterministic by seed, that goes on where it was stopped."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vit.augment import RandAugment, crop_and_flip, mix
from vit.device import resolve_device
from vit.errors import InputError
from vit.evaluation import evaluate, require_fitting
from vit.image_set import DataSplits
from vit.masks import masks, prunable_layers, set_mask
from vit.optimise import Optimiser, WeightAverage, learning_rate
from vit.preprocessing import Normalisation, as_trained, note_normalisation
from vit.recipe import Recipe
from vit.resume import TrainingState, fingerprint

FASTEST = torch.channels_last  # a convolutional stem trains a fifth faster, a patch stem as before
Row = dict[str, float]  # epoch, train_loss, val_accuracy, val_loss, lr, seconds


@dataclass(frozen=True)
class Batch:
    """What one step trains on, on the training device.

    Attributes:
        images: normalised and augmented, (B, C, H, W).
        labels: int64 (B,), of the images before mixing.
        targets: class probabilities (B, classes) where images are mixed, else the labels.
        indices: int64 (B,), places of the images in the training set.
        epoch: counted from 0; with the recipe's seed it says how the images were augmented.
        label_smoothing: of the recipe.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor
    indices: Tensor
    epoch: int
    label_smoothing: float


Loss = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class FitResult:
    """What a training was like; the model itself has been changed in place.

    Attributes:
        history: one row an epoch: epoch (from 1), train_loss, val_accuracy, val_loss, lr (of the epoch's last step),
            seconds.
        best_val_accuracy: the highest of any epoch.
        val_accuracy, val_loss: of the weights returned.
        seconds: of all epochs, those before an interruption included.
    """

    history: list[Row] = field(repr=False)
    best_val_accuracy: float
    val_accuracy: float
    val_loss: float
    seconds: float


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy with the recipe's label smoothing: the default loss."""
    return F.cross_entropy(model(batch.images), batch.targets, label_smoothing=batch.label_smoothing)


def fit(
    model: nn.Module,
    data: DataSplits,
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    loss: Loss | None = None,
    identity: Mapping[str, Any] | None = None,
    on_epoch: Callable[[Row], None] | None = None,
    on_step: Callable[[nn.Module, int, int], None] | None = None,
    on_best: Callable[[nn.Module, Row], None] | None = None,
    name: str = "train",
) -> FitResult:
    """Train the model in place on `data.train`, watching `data.val`; `data.test` is not touched.

    A model that was trained before keeps the mean and deviation by which its images were normalised then; any other
    takes those of the data, and says so from now on (`vit.preprocessing`).

    Same model, data, recipe, device and number of threads give the same weights, bit for bit, also when the training
    was killed and started again with the same `out`. A training that is complete in `out` is loaded, not run again.

    Args:
        model: left on `device`, in evaluation mode, with the averaged weights where the recipe averages. Masks hold.
        out: folder for `<name>_state.safetensors`, from which a stopped training goes on.
        device: "cpu", "cuda", "cuda:N" or "auto".
        loss: of (model, batch), in place of cross-entropy; called once a step.
        identity: JSON values that the loss depends on, by what they are; a training in `out` must have had the same.
        on_epoch: called with each row of the history, those of epochs done before an interruption included.
        on_best: called with (model, row) after each epoch of higher validation accuracy than all before it, with the
            weights that were validated in the model.
        on_step: called with (model, steps done, steps in all) after each step, for schedules that change the model.
        name: of the state file; trainings that share a folder need different ones.

    Raises:
        InputError: a model for other images or classes, an absent device, `out` holds another training of this name, or
            a loss that is no longer finite.
    """
    place = resolve_device(device)
    data = as_trained(model, data)
    require_fitting(model.to(place), data)
    note_normalisation(model, Normalisation(data.mean, data.std))
    state_file = None if out is None else Path(out) / f"{name}_state.safetensors"
    same = {**(identity or {}), **fingerprint(model, data, recipe)} if state_file else {}  # told in this order
    trainer = _Trainer(model, data, recipe, place, loss or cross_entropy, on_step, on_best)
    history: list[Row] = []
    finished = False
    if state_file is not None and state_file.exists():
        state = TrainingState.load(state_file, same)
        trainer.restore(state)
        trainer.best = max(row["val_accuracy"] for row in state.history)
        history, finished = state.history, state.finished
        if on_epoch is not None:
            for row in history:
                on_epoch(row)
    with _reproducible(place):
        for epoch in range(len(history), recipe.epochs):
            history.append(trainer.epoch(epoch))
            finished = epoch + 1 == recipe.epochs
            if finished:
                trainer.finish()
            if state_file is not None:
                trainer.state(same, history, finished).save(state_file)
            if on_epoch is not None:
                on_epoch(history[-1])
    model.eval()
    best = max(row["val_accuracy"] for row in history)
    seconds = sum(row["seconds"] for row in history)
    return FitResult(history, best, history[-1]["val_accuracy"], history[-1]["val_loss"], seconds)


class _Trainer:
    """The moving parts of one `fit`."""

    def __init__(
        self,
        model: nn.Module,
        data: DataSplits,
        recipe: Recipe,
        device: torch.device,
        loss: Loss,
        on_step: Callable[[nn.Module, int, int], None] | None,
        on_best: Callable[[nn.Module, Row], None] | None,
    ) -> None:
        self.model, self.recipe, self.device, self.loss = model, recipe, device, loss
        self.on_step, self.on_best, self.best = on_step, on_best, -1.0
        self.train_set, self.val_set = data.train.to(device), data.val.to(device)
        self.steps_an_epoch = math.ceil(len(self.train_set) / recipe.batch_size)
        self.total_steps = self.steps_an_epoch * recipe.epochs
        self.classes = data.num_classes
        self.padding = data.image_size // 8 if recipe.crop_padding is None else recipe.crop_padding
        self.flip = data.flip if recipe.flip is None else recipe.flip
        self.randaugment = RandAugment(recipe.randaugment, recipe.randaugment_magnitude) if recipe.randaugment else None
        self.optimiser = Optimiser(model, recipe, self.total_steps)
        self.average = WeightAverage(model, recipe.ema) if recipe.ema else None
        bf16 = device.type == "cuda" and recipe.amp and torch.cuda.is_bf16_supported(including_emulation=False)
        self.autocast: Callable[[], Any] = (lambda: torch.autocast("cuda", torch.bfloat16)) if bf16 else nullcontext

    def epoch(self, epoch: int) -> Row:
        """One pass over the training images, then the validation images; the row of the history."""
        began = time.perf_counter()
        torch.manual_seed(_torch_seed(self.recipe.seed, epoch))
        self.model.train()
        total = torch.zeros((), device=self.device)
        step = epoch * self.steps_an_epoch
        for batch in self._batches(epoch):
            with self.autocast():
                loss = self.loss(self.model, batch)
            self.optimiser.step(loss, step)
            step += 1
            if self.on_step is not None:
                self.on_step(self.model, step, self.total_steps)
            if self.average is not None:
                self.average.update(step)
            total += loss.detach() * len(batch.labels)
        train_loss = float(total) / len(self.train_set)
        if not math.isfinite(train_loss):
            hint = f"the loss is {train_loss} in epoch {epoch + 1}: take a smaller one, or clip_grad"
            raise InputError("lr", self.recipe.lr, "a rate at which the loss stays finite", hint)
        with self.average.in_place() if self.average else nullcontext():
            result = evaluate(self.model, self.val_set)
            row = {
                "epoch": epoch + 1,
                "train_loss": train_loss,
                "val_accuracy": result.accuracy,
                "val_loss": result.loss,
                "lr": learning_rate(step - 1, self.total_steps, self.recipe),
                "seconds": time.perf_counter() - began,
            }
            if result.accuracy > self.best:
                self.best = result.accuracy
                if self.on_best is not None:
                    self.on_best(self.model, row)
        return row

    def _batches(self, epoch: int) -> Iterator[Batch]:
        """The epoch's batches: its order and augmentation depend on the seed and the epoch alone."""
        recipe = self.recipe
        generator = np.random.default_rng([recipe.seed, epoch])
        order = generator.permutation(len(self.train_set))
        for chosen in np.array_split(order, self.steps_an_epoch):
            indices = torch.from_numpy(chosen).to(self.device)
            images, labels = self.train_set.images[indices], self.train_set.labels[indices]
            images = crop_and_flip(images, self.padding, self.flip, generator)
            if self.randaugment is not None:
                images = self.randaugment(images, generator)
            images, targets = self.train_set.normalise(images).contiguous(memory_format=FASTEST), labels
            if recipe.mixup or recipe.cutmix:
                one_hot = F.one_hot(labels, self.classes).float()
                images, targets = mix(images, one_hot, recipe.mixup, recipe.cutmix, generator)
            yield Batch(images, labels, targets, indices, epoch, recipe.label_smoothing)

    def finish(self) -> None:
        """Leave the averaged weights in the model."""
        if self.average is not None:
            self.average.swap()
        layers = prunable_layers(self.model)
        for name, mask in masks(self.model).items():
            set_mask(layers[name], mask)  # weights averaged since before they were pruned become 0 themselves

    def state(self, identity: dict[str, Any], history: list[Row], finished: bool) -> TrainingState:
        """What `restore` needs; of a finished training, the model alone."""
        optimiser = {} if finished else self.optimiser.state()
        average = self.average.state() if self.average and not finished else {}
        return TrainingState.of(self.model, identity, history, finished, optimiser, average)

    def restore(self, state: TrainingState) -> None:
        """Go on from a saved state."""
        state.into(self.model)
        if not state.finished:
            self.optimiser.load(state.optimiser)
            if self.average is not None:
                self.average.load(state.average)


def _torch_seed(seed: int, epoch: int) -> int:
    """The seed of torch's own generators, for dropout and stochastic depth."""
    return int(np.random.SeedSequence([seed, epoch, 1]).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def _reproducible(device: torch.device) -> Iterator[None]:
    """Leave torch's generators as they were; on a GPU, choose deterministic kernels where there are any."""
    if device.type == "cpu":
        with torch.random.fork_rng(devices=[]):
            yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with torch.random.fork_rng(devices=[device]):
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
