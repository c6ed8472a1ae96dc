"""What a stopped training needs to go on bit for bit: weights, masks, moments, averages, history; one safe file."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vit.checkpoint import canonical_state
from vit.errors import EarlierWork
from vit.image_set import DataSplits
from vit.masks import masks, prunable_layers, set_mask
from vit.recipe import Recipe
from vit.tensorfile import read_tensors, write_tensors

KIND = "training state"


@dataclass(frozen=True)
class TrainingState:
    """A training between two epochs, or at its end.

    Attributes:
        identity: `fingerprint` of what is trained.
        history: the rows of the epochs done.
        finished: whether `model` is the result; then there are no moments and averages.
        masked: names of the layers that have masks.
        model: the model's own state dict.
        optimiser, average: states of `Optimiser` and `WeightAverage`.
    """

    identity: dict[str, Any]
    history: list[dict[str, float]]
    finished: bool
    masked: list[str]
    model: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    average: dict[str, Tensor]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        identity: dict[str, Any],
        history: list[dict[str, float]],
        finished: bool,
        optimiser: dict[str, Tensor],
        average: dict[str, Tensor],
    ) -> TrainingState:
        """The state of this model, with these moments and averages."""
        return cls(identity, history, finished, list(masks(model)), model.state_dict(), optimiser, average)

    def save(self, path: Path) -> None:
        """Write the state to `path`, whole or not at all."""
        parts = {"model": self.model, "optimiser": self.optimiser, "average": self.average}
        arrays = {
            f"{part}/{name}": tensor.detach().cpu().numpy()
            for part, tensors in parts.items()
            for name, tensor in tensors.items()
        }
        metadata = {
            "identity": self.identity,
            "history": self.history,
            "finished": self.finished,
            "masked": self.masked,
        }
        write_tensors(path, arrays, metadata, kind=KIND)

    @classmethod
    def load(cls, path: Path, identity: dict[str, Any]) -> TrainingState:
        """The state in `path`.

        Raises:
            InputError: damaged.
            EarlierWork: the state of a training that differs from `identity`.
        """
        arrays, metadata = read_tensors(path, kind=KIND, field="out")
        for what, value in identity.items():
            if metadata["identity"].get(what) != value:
                allowed = "the folder of this training, or one without a training of this name"
                raise EarlierWork("out", str(path), allowed, f"it holds a training with another {what}")
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimiser": {}, "average": {}}
        for key, array in arrays.items():
            part, _, name = key.partition("/")
            parts[part][name] = torch.from_numpy(array)
        return cls(metadata["identity"], metadata["history"], metadata["finished"], metadata["masked"], **parts)

    def into(self, model: nn.Module) -> None:
        """Give the model these weights and masks."""
        layers = prunable_layers(model)
        for name in self.masked:
            weight: Tensor = layers[name].weight  # type: ignore[assignment]
            set_mask(layers[name], torch.ones_like(weight, dtype=torch.bool))
        model.load_state_dict(self.model)


def fingerprint(model: nn.Module, data: DataSplits, recipe: Recipe) -> dict[str, Any]:
    """What makes two trainings the same: the recipe, and checksums of the data and of the model before training."""
    tensors = {
        "data": {"images": data.train.images, "labels": data.train.labels, "held out": data.val.images},
        "model": canonical_state(model),
    }
    return {"recipe": recipe.to_dict(), **{what: _checksum(named) for what, named in tensors.items()}}


def _checksum(tensors: dict[str, Tensor]) -> str:
    total = 0
    for name in sorted(tensors):
        array = tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        total = zlib.crc32(f"{name} {tuple(tensors[name].shape)}".encode(), total)
        total = zlib.crc32(array.data, total)
    return f"{total:08x}"
