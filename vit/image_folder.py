"""A folder of images: train/<class>/* and test/<class>/*, decoded once through Pillow and cached as one tensor file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vit.errors import InputError, did_you_mean
from vit.tensorfile import read_tensors, write_tensors

DEFAULT_SIZE = 32  # of images whose own sizes differ
GREY_MODES = ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I")
WORTH_A_THREAD = 256 * 256  # pixels; decoding a smaller image takes less time than handing it to a thread
LITTER = ("thumbs.db", "desktop.ini")  # what file managers leave behind, besides hidden files
T = TypeVar("T")


class ImageFolder:
    """The two parts of an image folder. Reading "test" follows the size and channels of "train", and never the reverse.

    Each image is brought to a square by resizing both axes, so that nothing is cut off. All images are grey only if
    all training images are; otherwise all are RGB.

    Raises:
        InputError: train/ or test/ is missing, fewer than two classes, a class without images, or classes that differ.
    """

    def __init__(self, root: Path, image_size: int | None, cache: Path) -> None:
        self.root, self.image_size, self.cache = root, image_size, cache
        self.channels: int | None = None
        self.class_names = _class_names(root / "train")
        if len(self.class_names) < 2:
            found = f"it has one, {self.class_names[0]}" if self.class_names else "it has none"
            raise InputError("data", str(root / "train"), "a folder of two classes or more, one subfolder each", found)
        _check_same(self.class_names, _class_names(root / "test"), root)
        self.files = {part: _image_files(root / part, self.class_names) for part in ("train", "test")}

    def read(self, part: str) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, C, size, size) and labels int64 (N,) of "train" or "test".

        Raises:
            InputError: an unreadable image, named.
        """
        assert part == "train" or self.channels is not None, "train is read first: it sets the shape of the test images"
        cached = self.cache / f"{self.root.name}-{part}-{self._key(part)}.safetensors"
        try:
            images = read_tensors(cached, kind="image cache", field="cache")[0]["images"]
        except InputError:  # absent or damaged
            images = self._decoded(part)
            with suppress(InputError):  # a cache that cannot be written costs time only
                write_tensors(cached, {"images": images}, {}, kind="image cache")
        self.channels, self.image_size = images.shape[1], images.shape[2]
        return torch.from_numpy(images), torch.tensor([label for _, label in self.files[part]], dtype=torch.int64)

    def _decoded(self, part: str) -> np.ndarray:
        """uint8 (N, channels, size, size)."""
        paths = [os.path.join(self.root, part, path) for path, _ in self.files[part]]
        headers = list(_for_each(paths, _header, workers=1))
        shapes = {(width, height) for width, height, _ in headers}
        width, height = max(shapes)
        size = self.image_size or (width if len(shapes) == 1 and width == height else DEFAULT_SIZE)
        channels = self.channels or (1 if all(grey for _, _, grey in headers) else 3)
        images = np.empty((len(paths), channels, size, size), dtype=np.uint8)
        workers = (os.cpu_count() or 1) if width * height > WORTH_A_THREAD else 1

        def pixels(image: Image.Image) -> np.ndarray:
            return _pixels(image, size, channels)

        for i, values in enumerate(_for_each(paths, pixels, workers)):
            images[i] = values
        return images

    def _key(self, part: str) -> str:
        """What the decoded images depend on: the files, and the shape asked for."""
        listed: list[list[object]] = []
        for path, _ in self.files[part]:
            whole = os.path.join(self.root, part, path)
            try:
                status = os.stat(whole)
            except OSError as error:
                raise InputError("data", whole, "a readable image", f"the system says: {error.strerror}") from error
            listed.append([path, status.st_size, status.st_mtime_ns])
        text = json.dumps([listed, self.image_size, self.channels])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _class_names(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise InputError(
            "data", str(folder.parent), "a folder with train/<class>/ and test/<class>/", f"no {folder.name}/"
        )
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))


def _check_same(train: Sequence[str], test: Sequence[str], root: Path) -> None:
    for name in sorted(set(train) ^ set(test)):
        inside, outside, there = ("train", "test", test) if name in train else ("test", "train", train)
        near = did_you_mean(name, sorted(set(there) - set(train).intersection(test)))
        hint = f"{name!r} is in {inside}/ and not in {outside}/ {near}"
        raise InputError("data", str(root), "the same classes in train/ and test/", hint)


def _image_files(folder: Path, class_names: Sequence[str]) -> list[tuple[str, int]]:
    """Every file below each class's folder, as a path within `folder`, with the class's index; no hidden files."""
    found: list[tuple[str, int]] = []
    for label, name in enumerate(class_names):
        paths = sorted(
            os.path.join(inside, file)
            for parent, _, files in os.walk(folder / name, followlinks=True)
            for inside in [os.path.relpath(parent, folder)]
            for file in files
            if file[0] != "." and file.lower() not in LITTER
        )
        if not paths:
            raise InputError("data", str(folder / name), "a folder with images", "it is empty")
        found.extend((path, label) for path in paths)
    return found


def _header(image: Image.Image) -> tuple[int, int, bool]:
    """Width, height, and whether it is grey."""
    return image.width, image.height, image.mode in GREY_MODES


def _pixels(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """uint8 (channels, size, size) of an opened image."""
    image.draft("RGB" if channels == 3 else "L", (size, size))  # a large JPEG is decoded at a fraction of its size
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip it at 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"mode {image.mode} holds values outside 16 bits")
        image = Image.fromarray((values // 257).astype(np.uint8))
    image = image.convert("RGB" if channels == 3 else "L")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)


def _for_each(paths: Sequence[str], function: Callable[[Image.Image], T], workers: int) -> Iterator[T]:
    """`function` of every opened image, in order; an InputError names the first that cannot be read."""

    def opened(path: str) -> T:
        try:
            with Image.open(path) as image:
                return function(image)
        except Exception as error:  # decoders fail in many ways; whichever, the file is what must be mended
            raise InputError("data", path, "an image that Pillow can read", str(error)) from error

    if workers == 1:
        yield from map(opened, paths)
    else:
        with ThreadPoolExecutor(workers) as pool:
            yield from pool.map(opened, paths)
