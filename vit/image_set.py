"""Labelled images as uint8 tensors, and the three sets an experiment is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vit.errors import InputError

CHUNK = 4096  # images converted to floats at a time, to bound the memory


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with their classes, and the statistics they are normalised by.

    Attributes:
        images: uint8 (N, C, H, W), contiguous.
        labels: int64 (N,), indices into class_names.
        class_names: one a class.
        mean, std: of each channel over the training images, as fractions of 255.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor | np.ndarray) -> ImageSet:
        """The set of these images alone, in this order."""
        chosen = torch.as_tensor(indices, device=self.labels.device)
        return replace(self, images=self.images[chosen], labels=self.labels[chosen])

    def to(self, device: str | torch.device) -> ImageSet:
        """The same set on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def normalised_by(self, mean: tuple[float, ...], std: tuple[float, ...]) -> ImageSet:
        """The same images, to be normalised by other statistics."""
        return replace(self, mean=mean, std=std)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> float32 with mean 0 and deviation 1 a channel: what a model takes."""
        scale = torch.tensor([1 / (255 * s) for s in self.std], device=images.device).view(1, -1, 1, 1)
        shift = torch.tensor([-m / s for m, s in zip(self.mean, self.std, strict=True)], device=images.device)
        return torch.addcmul(shift.view(1, -1, 1, 1), images.to(torch.float32), scale)

    def floats(self) -> Tensor:
        """All images normalised, float32 (N, C, H, W). For sets that fit in memory four times."""
        return self.normalise(self.images)

    def batches(self, batch_size: int, device: str | torch.device = "cpu") -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images (B, C, H, W) and labels (B,) on `device`, in order; the last batch may be smaller."""
        for start in range(0, len(self), batch_size):
            part = slice(start, start + batch_size)
            yield self.normalise(self.images[part].to(device)), self.labels[part].to(device)


class DataSplits:
    """Training, validation and test images. The test set is read when `test` is first touched, and not before.

    Attributes:
        name: "digits", "cifar10" or the folder.
        train, val: disjoint parts of the training data, both stratified.
        flip: whether a mirrored image still shows the same class, as far as is known.
    """

    def __init__(
        self, name: str, train: ImageSet, val: ImageSet, read_test: Callable[[], ImageSet], *, flip: bool
    ) -> None:
        self.name, self.train, self.val, self.flip = name, train, val, flip
        self._read_test = read_test

    @cached_property
    def test(self) -> ImageSet:
        """The test images: for the final evaluation only."""
        return self._read_test()

    def normalised_by(self, mean: tuple[float, ...], std: tuple[float, ...]) -> DataSplits:
        """The same images, to be normalised by other statistics."""
        train, val = (part.normalised_by(mean, std) for part in (self.train, self.val))
        return DataSplits(self.name, train, val, lambda: self._read_test().normalised_by(mean, std), flip=self.flip)

    def check_test(self) -> None:
        """Decode the test images and keep nothing: one that cannot be read is told before the hours of work, not after.

        A folder's decoded images go into its cache, so `test` does not decode them again.

        Raises:
            InputError: an unreadable image, named, or test data that is not there.
        """
        self._read_test()

    @property
    def test_was_read(self) -> bool:
        """Whether anything has the test images from `test`; `check_test` gives them to nobody."""
        return "test" in self.__dict__

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.train.class_names

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def in_channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def image_size(self) -> int:
        """Height and width, pixels."""
        return self.train.images.shape[2]

    @property
    def mean(self) -> tuple[float, ...]:
        return self.train.mean

    @property
    def std(self) -> tuple[float, ...]:
        return self.train.std


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel of uint8 (N, C, H, W), as fractions of 255; a deviation is at least 1/255."""
    total = torch.zeros(2, images.shape[1], dtype=torch.int64)
    for chunk in torch.split(images, CHUNK):
        values = chunk.to(torch.int32)
        total += torch.stack([values.sum(dim=(0, 2, 3)), values.square().sum(dim=(0, 2, 3))])
    mean, square = total.double() / (images.numel() / images.shape[1]) / torch.tensor([[255.0], [255.0**2]])
    std = (square - mean**2).clamp(min=0).sqrt().clamp(min=1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the images kept and of those set aside, both ascending: `fraction` of every class, drawn by `seed`.

    A class of two images or more gives at least one and keeps at least one; a class of one image keeps it.
    """
    generator = np.random.default_rng(seed)
    aside: list[int] = []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        aside.extend(members[:count])
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[aside] = True
    if not aside:
        raise InputError("data", f"{len(labels)} images", "at least two training images in some class")
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def resized(images: Tensor, size: int | None) -> Tensor:
    """uint8 (N, C, H, W) -> (N, C, size, size), bilinear with antialiasing; as it is if `size` is None or the same."""
    if size is None or images.shape[2:] == (size, size):
        return images
    parts = [
        F.interpolate(chunk.float(), (size, size), mode="bilinear", antialias=True).round().clamp(0, 255).byte()
        for chunk in torch.split(images, CHUNK)
    ]
    return torch.cat(parts)
