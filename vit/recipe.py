"""How to train, as a value that can be stored, compared and validated. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from vit.errors import InputError, require_float, require_int, require_known_keys

VAL_FRACTION = 0.15  # of the training images, held out for every choice


@dataclass(frozen=True)
class Recipe:
    """Settings of `fit`.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step, at most: an epoch is cut into equal batches, so that none is tiny.
        lr: peak learning rate of AdamW, reached by linear warm-up and left along a cosine to zero.
        weight_decay: of weight matrices and kernels; norms, biases, positions, tokens and scales have none.
        warmup: part of all steps that warms up.
        label_smoothing: probability spread over all classes (Szegedy et al. 2016).
        mixup: alpha of mixup (Zhang et al. 2018); 0 is off.
        cutmix: alpha of CutMix (Yun et al. 2019); 0 is off. With both on, each batch takes one of them.
        randaugment: operations of RandAugment on each image (Cubuk et al. 2020); 0 is off.
        randaugment_magnitude: their strength, 0 to 30.
        crop_padding: pixels by which an image may be shifted; None is an eighth of its side.
        flip: mirror every second image; None leaves it to the data (no mirrored digits).
        ema: decay a step of the averaged weights, which are validated and returned; 0 is off. It starts lower and
            rises as (1 + step) / (10 + step).
        clip_grad: largest norm of the whole gradient; 0 is off.
        amp: bfloat16 autocast on a GPU that has it; nothing on a CPU, where it is slower.
        seed: of everything random in training: order, augmentation, dropout. Not of the model's first weights.
    """

    epochs: int = 100
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    label_smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    randaugment: int = 0
    randaugment_magnitude: int = 9
    crop_padding: int | None = None
    flip: bool | None = None
    ema: float = 0.99
    clip_grad: float = 1.0
    amp: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        require_int("epochs", self.epochs)
        require_int("batch_size", self.batch_size)
        require_int("randaugment", self.randaugment, low=0)
        require_int("randaugment_magnitude", self.randaugment_magnitude, 0, 30)
        require_int("seed", self.seed, low=0)
        if self.crop_padding is not None:
            require_int("crop_padding", self.crop_padding, low=0)
        for name, low, high, open_low, open_high in (
            ("lr", 0, 10, True, False),
            ("weight_decay", 0, 10, False, False),
            ("warmup", 0, 1, False, True),
            ("label_smoothing", 0, 1, False, True),
            ("mixup", 0, 100, False, False),
            ("cutmix", 0, 100, False, False),
            ("ema", 0, 1, False, True),
            ("clip_grad", 0, 1e6, False, False),
        ):
            value = require_float(name, getattr(self, name), low, high, open_low=open_low, open_high=open_high)
            object.__setattr__(self, name, value)
        for name in ("flip", "amp"):
            value = getattr(self, name)
            if not isinstance(value, bool) and not (name == "flip" and value is None):
                raise InputError(name, value, "true or false")

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON or TOML values; those left to the data are absent."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The recipe in a mapping as `to_dict` gives it; missing fields take their defaults.

        Raises:
            InputError: an unknown field (the nearest known one is suggested), or a value out of range.
        """
        if not isinstance(values, Mapping):
            raise InputError("recipe", values, "a table of Recipe fields")
        require_known_keys("recipe", values, [f.name for f in fields(cls)])
        return cls(**values)

    @classmethod
    def for_data(cls, name: str, **changes: Any) -> Recipe:
        """The recipe that suits the data set of this name, with `changes` applied; any other name gets the defaults."""
        return cls.from_dict({**PRESETS.get(name, {}), **changes})


PRESETS: dict[str, dict[str, Any]] = {
    # Not shifted: an 8x8 digit fills its image, and a pixel's shift moves half a patch.
    "digits": {"epochs": 30, "batch_size": 64, "lr": 3e-3, "crop_padding": 0, "cutmix": 1.0},
}
