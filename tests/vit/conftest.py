"""What the tests of this floor share: one thread, a tiny data set in memory, and a folder of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vit.image_set import DataSplits, ImageSet


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums are added up in the same order whatever machine runs the tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def never_read() -> ImageSet:
    """In place of a test split that must not be touched."""
    raise AssertionError("the test split was read")


@pytest.fixture
def stripes() -> DataSplits:
    """60 training and 30 validation images of 8x8 pixels in three classes: a bright bar at one of three heights."""
    generator = np.random.default_rng(0)
    labels = np.tile(np.arange(3), 30)
    pixels = generator.integers(0, 60, (90, 1, 8, 8)).astype(np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[0, 1 + 2 * label : 3 + 2 * label] += 150
    whole = ImageSet(torch.from_numpy(pixels), torch.from_numpy(labels), ("low", "middle", "high"), (0.3,), (0.25,))
    return DataSplits("stripes", whole.take(np.arange(60)), whole.take(np.arange(60, 90)), never_read, flip=False)


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a folder of PNG pictures, `count` a class and part, each of its own colour."""

    def make(classes: tuple[str, ...] = ("cat", "dog"), count: int = 4, size: tuple[int, int] = (8, 8)) -> Path:
        root = tmp_path / "pictures"
        for part in ("train", "test"):
            for label, name in enumerate(classes):
                (root / part / name).mkdir(parents=True)
                for i in range(count):
                    colour = (40 + 80 * label, 10 * i, 200 if part == "test" else 0)
                    Image.new("RGB", size, colour).save(root / part / name / f"{i}.png")
        return root

    return make
