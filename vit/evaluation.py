"""Accuracy and loss of a model on labelled images."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vit.device import resolve_device
from vit.errors import InputError, first_line, require_int
from vit.image_set import DataSplits, ImageSet
from vit.preprocessing import as_trained


@dataclass(frozen=True)
class Evaluation:
    """What a model does on a set of images.

    Attributes:
        accuracy: fraction of images whose largest logit is the label's.
        loss: mean cross-entropy in nats, without smoothing.
        predictions: int64 (N,) on the CPU, the class of the largest logit.
    """

    accuracy: float
    loss: float
    predictions: Tensor = field(repr=False, compare=False)


def evaluate(
    model: nn.Module, images: ImageSet, *, batch_size: int = 256, device: str | torch.device | None = None
) -> Evaluation:
    """The model's accuracy and loss in evaluation mode; afterwards it is in the mode it was in.

    The images are normalised as those were that the model was trained on, where it says how (`vit.preprocessing`).

    Args:
        batch_size: images at a time, which bounds the memory and does not change the result.
        device: where to compute; the model is moved there. None is where the model is.

    Raises:
        InputError: a batch size below 1, or a device that is not there.
    """
    require_int("batch_size", batch_size)
    images = as_trained(model, images)
    if device is not None:
        model.to(resolve_device(device))
    place = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    was_training = model.training
    model.eval()
    losses, predictions = [], []
    try:
        with torch.inference_mode():
            for batch, labels in images.batches(batch_size, place):
                logits = model(batch).float()
                losses.append(F.cross_entropy(logits, labels, reduction="sum"))
                predictions.append(logits.argmax(dim=1))
    finally:
        model.train(was_training)
    predicted = torch.cat(predictions).cpu()
    correct = int((predicted == images.labels.cpu()).sum())
    return Evaluation(correct / len(images), float(torch.stack(losses).sum()) / len(images), predicted)


def require_fitting(model: nn.Module, data: DataSplits) -> None:
    """Raise an InputError unless the model takes the data's images and gives one logit a class."""
    place = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    images, _ = next(data.val.batches(1, place))
    channels, size = data.in_channels, data.image_size
    allowed = f"a model for {channels} x {size} x {size} images of {data.num_classes} classes"
    copied = copy.deepcopy(model).eval()  # a quantiser may set its scales by the first images it sees
    try:
        with torch.inference_mode():
            shape = tuple(copied(images).shape)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise InputError("model", type(model).__name__, allowed, first_line(error)) from error
    if shape != (1, data.num_classes):
        raise InputError("model", type(model).__name__, allowed, f"it gives logits of shape {list(shape[1:])}")
