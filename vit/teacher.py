"""What a model says of images, logits and features in one pass; and teachers, wherever they come from."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vit.checkpoint import FLOAT, load_checkpoint
from vit.errors import InputError, did_you_mean, first_line
from vit.image_set import DataSplits
from vit.preprocessing import Normalisation, image_size_of, other_normalisation
from vit.torchvision_shim import import_timm
from vit.zoo import create_model, model_spec

Affine = tuple[list[float], list[float]]


class Answer(NamedTuple):
    """What a model says of a batch.

    Attributes:
        logits: (B, classes), the model's output.
        by_head: logits of each classifier: of the class token and then of the distillation token where a model has
            both (DeiT), and of nothing else than `logits` where it has one.
        features: (B, width), pooled and normalised, as they enter the classifier (the mean of what enters two);
            None where no classifier is known.
    """

    logits: Tensor
    by_head: tuple[Tensor, ...]
    features: Tensor | None


def answer(model: nn.Module, images: Tensor) -> Answer:
    """One forward pass: (B, C, H, W) -> what the model says, in the mode it is in.

    Features are known of a VisionTransformer, of timm's models, and of any model whose classifier is called `head`.
    """
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def listen(_: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        inputs.append(given[0].flatten(1))
        outputs.append(result)

    handles = [head.register_forward_hook(listen) for head in _heads(model)]
    try:
        logits = model(images)
    finally:
        for handle in handles:
            handle.remove()
    features = torch.stack(inputs).mean(dim=0) if len(inputs) > 1 else inputs[0] if inputs else None
    return Answer(logits, tuple(outputs) if len(outputs) > 1 else (logits,), features)


class Teacher:
    """A trained model that is asked and not changed, fed with the images a student sees.

    Attributes:
        model: in evaluation mode.
        size: height and width it takes, pixels; images of another size are resized. None takes them as they come.
        affine: (scale, shift) of each of its channels, from images normalised by the data to images normalised as it
            was trained; None where that is the same.
    """

    def __init__(self, model: nn.Module, size: int | None, affine: Affine | None = None) -> None:
        self.model, self.size, self.affine = model.eval(), size, affine

    @classmethod
    def of(cls, spec: nn.Module | str | Path, data: DataSplits) -> Teacher:
        """The teacher for this data from a module, the path of a checkpoint, or a timm name (pretrained).

        A module or checkpoint gets images normalised as it was trained, or as the data's are where it does not say;
        timm's weights get them normalised as timm says, and grey ones as three equal channels.

        Raises:
            InputError: unknown, a damaged checkpoint or one of a quantised model, or pretrained weights that cannot be
                had.
        """
        if isinstance(spec, nn.Module):
            return cls(spec, image_size_of(spec), _own_affine(spec, data))
        if not isinstance(spec, (str, Path)):
            raise InputError("teacher", spec, "a module, the path of a checkpoint, or a timm name")
        if Path(spec).exists() or Path(spec).suffix == ".safetensors":
            model = _of_float(spec)
            return cls(model, image_size_of(model), _own_affine(model, data))
        model = _pretrained(str(spec))
        card: Any = model.pretrained_cfg
        given = Normalisation(_in_colour(data.mean), _in_colour(data.std))
        return cls(model, card["input_size"][-1], _affine(given, Normalisation(card["mean"], card["std"])))

    @property
    def description(self) -> dict[str, Any]:
        """What its answers depend on beside its weights, as JSON values."""
        try:
            shape = json.dumps(model_spec(self.model), default=str)
        except InputError:  # a module of somebody else
            shape = type(self.model).__qualname__
        return {"shape": shape, "size": self.size, "affine": self.affine and [*self.affine]}

    def to(self, device: torch.device) -> Teacher:
        """Move the model to `device`."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Answer:
        """What the teacher says of the student's images (B, C, H, W)."""
        return answer(self.model, self.prepared(images))

    def prepared(self, images: Tensor) -> Tensor:
        """The student's images as the teacher takes them: bilinear with antialiasing, then its own normalisation."""
        if self.size is not None and images.shape[2:] != (self.size, self.size):
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        if self.affine is not None:
            scale, shift = torch.tensor(self.affine, device=images.device).view(2, 1, -1, 1, 1)
            images = images * scale + shift  # one channel becomes as many as there are scales
        return images


def require_timm_name(name: str) -> None:
    """Raise an InputError where timm has no architecture of this name to be a teacher."""
    timm = import_timm()
    if not timm.is_model(name):
        allowed = "a module, the path of a checkpoint, or a timm architecture"
        raise InputError("teacher", name, allowed, did_you_mean(name, timm.list_models()))


def probe(role: str, ask: Callable[[Tensor], Answer], images: Tensor, classes: int | None, *, features: bool) -> int:
    """The width of a model's features, 0 if it shows none, once what it says of a few images is known to fit.

    Args:
        role: "student" or "teacher", for the error.
        ask: from images (B, C, H, W) to an Answer.
        classes: how many it must tell apart; None for any number.
        features: whether it must show them.

    Raises:
        InputError: it does not take these images, has other classes, shows no features, or says NaN.
    """
    try:
        with torch.no_grad():
            said = ask(images)
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        shape = " x ".join(str(length) for length in images.shape[1:])
        allowed = f"a model that takes images of {shape}"
        raise InputError(role, "a model that fails on them", allowed, first_line(error)) from error
    if classes is not None and (said.logits.ndim != 2 or said.logits.shape[1] != classes):
        hint = "train it on this data first, or learn from its features alone: lam_kd = 0" if role == "teacher" else ""
        raise InputError(role, f"logits of shape {list(said.logits.shape[1:])}", f"a model of {classes} classes", hint)
    if features and said.features is None:
        allowed = "a VisionTransformer or a timm model, whose features are known"
        raise InputError(role, "a model without a known classifier", allowed, "lam_f = 0 needs no features")
    if not torch.isfinite(said.logits).all():
        raise InputError(role, "logits that are not finite", "a model that says numbers")
    return 0 if said.features is None else said.features.shape[1]


def take_pretrained(model: nn.Module) -> str:
    """Give a fresh timm model the weights that timm has for it, fitted to its size; '' or why they cannot be had."""
    try:
        spec = model_spec(model)
        if "timm" not in spec:
            return "it is not timm's"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # of a classifier for other classes: each time the same, so that a training may go on
            with _quiet_hub():
                model.load_state_dict(create_model({**spec, "pretrained": True}).state_dict())
    except Exception as error:  # timm, the hub and its HTTP client each have their own
        return _reason(error)
    return ""


def _heads(model: nn.Module) -> tuple[nn.Module, ...]:
    """The classifiers: one, or two where a distillation token has its own."""
    named: Any = model
    found = named.get_classifier() if hasattr(model, "get_classifier") else getattr(model, "head", None)
    candidates = found if isinstance(found, tuple) else (found,)
    return tuple(head for head in candidates if isinstance(head, nn.Module))


def _affine(given: Normalisation, wanted: Normalisation) -> Affine:
    """Scale and shift of each channel, from images normalised in one way to images normalised in the other."""
    scale = [have / want for have, want in zip(given.std, wanted.std, strict=True)]
    means = zip(given.mean, wanted.mean, wanted.std, strict=True)
    return scale, [(have - want) / std for have, want, std in means]


def _own_affine(model: nn.Module, data: DataSplits) -> Affine | None:
    own = other_normalisation(model, data)
    return None if own is None else _affine(Normalisation(data.mean, data.std), own)


def _of_float(path: str | Path) -> nn.Module:
    """The model in a checkpoint; of a quantised one it would be the float weights behind it, which say other things."""
    checkpoint = load_checkpoint(path)
    if checkpoint.kind != FLOAT:
        hint = f"this one is of kind {checkpoint.kind}: give the checkpoint that it was made from"
        raise InputError("teacher", str(path), "the checkpoint of a float model", hint)
    return checkpoint.model


def _pretrained(name: str) -> nn.Module:
    require_timm_name(name)
    timm = import_timm()
    try:
        with _quiet_hub():
            model: nn.Module = timm.create_model(name, pretrained=True)
    except Exception as error:  # timm, the hub and its HTTP client each have their own
        allowed = "a timm architecture whose pretrained weights can be loaded"
        raise InputError("teacher", name, allowed, f"{_reason(error)}; or give the path of a checkpoint") from error
    return model


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Without the two lines that the client of the model hub writes for each of a dozen attempts: the last is told."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _reason(error: Exception) -> str:
    return first_line(error).rstrip(".")


def _in_colour(values: tuple[float, ...]) -> tuple[float, ...]:
    """A statistic of grey images as one of three equal channels; of coloured ones as it is."""
    if len(values) not in (1, 3):
        hint = "train a teacher on this data and give its checkpoint"
        raise InputError("teacher", f"for {len(values)} channels", "a timm teacher for images of 1 or 3", hint)
    return values * 3 if len(values) == 1 else values
