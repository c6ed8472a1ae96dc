"""What images go through before a model sees them: it travels on the model, and with it in its checkpoint.

A model is trained on images of one size, normalised by the mean and deviation of its training images. Whoever shows it
other images later, validation images drawn by another seed, or another folder, must normalise them by the same numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from vit.config import ViTConfig
from vit.image_set import DataSplits, ImageSet

Images = TypeVar("Images", ImageSet, DataSplits)


@dataclass(frozen=True)
class Normalisation:
    """Mean and deviation of each channel, as fractions of 255, that a model's images are normalised by."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raise a ValueError unless they can be computed with."""
        finite = all(math.isfinite(value) for value in (*self.mean, *self.std))
        if len(self.mean) != len(self.std) or not finite or min(self.std, default=0) <= 0:
            raise ValueError(f"no mean and deviation of channels: {self.mean}, {self.std}")

    def __str__(self) -> str:
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return f"mean {mean}, deviation {std}"


def normalisation_of(model: Any) -> Normalisation | None:
    """What the model was trained with; None of one that is not trained, or that another loop trained."""
    found = getattr(model, "normalisation", None)
    return found if isinstance(found, Normalisation) else None


def note_normalisation(model: Any, normalisation: Normalisation) -> None:
    """Let the model, its copies and its checkpoints say what it is trained with."""
    model.normalisation = normalisation


def as_trained(model: nn.Module, images: Images) -> Images:
    """The images, or splits, normalised as those were that the model was trained on; as they are where it does not say.

    Those with another number of channels are left alone: the model will refuse them.
    """
    own = other_normalisation(model, images)
    return images if own is None else images.normalised_by(own.mean, own.std)


def other_normalisation(model: nn.Module, images: ImageSet | DataSplits) -> Normalisation | None:
    """What the model was trained with where that differs from these images'; None where it can take them as they are.

    None, too, where they have another number of channels.
    """
    own = normalisation_of(model)
    if own is None or own == Normalisation(images.mean, images.std) or len(own.mean) != len(images.mean):
        return None
    return own


def image_size_of(model: Any) -> int | None:
    """Height and width that the model says it takes, pixels; None of one that does not say."""
    config, spec = getattr(model, "config", None), getattr(model, "timm_spec", None)
    if isinstance(config, ViTConfig):
        return config.image_size
    if spec is not None:
        return int(spec["image_size"])
    fixed = getattr(getattr(model, "patch_embed", None), "img_size", None)
    return None if fixed is None else int(fixed[0])
