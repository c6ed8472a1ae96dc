"""Image sets by name: scikit-learn's digits, CIFAR-10, or a folder of images."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vit.errors import InputError, did_you_mean, require_float, require_int
from vit.image_folder import ImageFolder
from vit.image_set import DataSplits, ImageSet, channel_statistics, resized, stratified_split
from vit.recipe import VAL_FRACTION
from vit.torchvision_shim import import_torchvision

NAMES = ("digits", "cifar10")
Part = tuple[Tensor, Tensor]  # images uint8 (N, C, H, W), labels int64 (N,)

DIGITS_TEST_FRACTION = 0.2
DIGITS_TEST_SEED = 0  # the test split is the same whatever seed splits off the validation images

# https://www.cs.toronto.edu/~kriz/cifar.html, the binary version: the Python one is a pickle.
CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR_FOLDER = "cifar-10-batches-bin"
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR_RECORD = 1 + 3 * 32 * 32  # bytes: the label, then the red, green and blue planes


def load_data(
    spec: str | Path,
    *,
    image_size: int | None = None,
    val_fraction: float = VAL_FRACTION,
    seed: int = 0,
    root: str | Path = "data",
) -> DataSplits:
    """Training, validation and test images, decoded once and kept as uint8 tensors.

    Args:
        spec: "digits" (1,797 handwritten digits of scikit-learn, 8x8 grey; a fixed stratified fifth is the test set),
            "cifar10" (downloaded to `root` when it is not there), or a folder with train/<class>/* and test/<class>/*
            of images in any format and size.
        image_size: height and width to bring every image to. None leaves digits and CIFAR-10 as they are and takes
            a folder's own size where all its training images are equal squares, else 32.
        val_fraction: part of the training data, of every class alike, that becomes the validation set.
        seed: draws the validation images.
        root: where CIFAR-10 and the cache of decoded folders are kept.

    Raises:
        InputError: unknown spec, missing folder, fewer than two classes, classes that differ between train and test,
            an unreadable image (named), or a download that failed.
    """
    if image_size is not None:
        require_int("image_size", image_size)
    require_float("val_fraction", val_fraction, 0, 1, open_low=True, open_high=True)
    require_int("seed", seed, low=0)
    spec = str(spec)
    if spec == "digits":
        names = tuple(str(digit) for digit in range(10))
        return _splits("digits", names, lambda part: _digits(part, image_size), val_fraction, seed, flip=False)
    if spec == "cifar10":
        read: Callable[[str], Part] = lambda part: _cifar10(part, image_size, Path(root))  # noqa: E731
        return _splits("cifar10", CIFAR_CLASSES, read, val_fraction, seed, flip=True)
    if not spec or not Path(spec).is_dir():
        allowed = ", ".join(NAMES) + " or a folder with train/<class>/ and test/<class>/"
        raise InputError("data", spec, allowed, did_you_mean(spec, NAMES) or "there is no such folder")
    folder = ImageFolder(Path(spec), image_size, cache=Path(root) / ".cache")
    return _splits(spec, folder.class_names, folder.read, val_fraction, seed, flip=True)


def _splits(
    name: str, class_names: tuple[str, ...], read: Callable[[str], Part], val_fraction: float, seed: int, *, flip: bool
) -> DataSplits:
    images, labels = read("train")
    try:
        kept, aside = stratified_split(labels.numpy(), val_fraction, seed)
    except InputError as error:
        raise InputError(error.field, name, error.allowed, f"it has {error.value}, one a class") from error
    mean, std = channel_statistics(images[torch.from_numpy(kept)])

    def read_test() -> ImageSet:  # which must not hold on to all images: the splits are copies
        return ImageSet(*read("test"), class_names, mean, std)

    whole = ImageSet(images, labels, class_names, mean, std)
    return DataSplits(name, whole.take(kept), whole.take(aside), read_test, flip=flip)


def _digits(part: str, image_size: int | None) -> Part:
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)  # values 0..16
    chosen = dict(
        zip(("train", "test"), stratified_split(labels, DIGITS_TEST_FRACTION, DIGITS_TEST_SEED), strict=True)
    )[part]
    pixels = np.rint(values[chosen].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    return resized(torch.from_numpy(pixels), image_size), torch.from_numpy(labels[chosen].astype(np.int64))


def _cifar10(part: str, image_size: int | None, root: Path) -> Part:
    folder = root / CIFAR_FOLDER
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] if part == "train" else ["test_batch.bin"]
    if not all((folder / name).is_file() for name in names):
        _download_cifar10(root)
    try:
        bytes_read = np.concatenate([np.fromfile(folder / name, dtype=np.uint8) for name in names])
    except OSError as error:
        raise InputError("data", str(folder), "readable files", f"the system says: {error.strerror}") from error
    if not bytes_read.size or bytes_read.size % CIFAR_RECORD:
        raise InputError("data", str(folder), "the files of CIFAR-10's binary version", "delete it to download again")
    records = bytes_read.reshape(-1, CIFAR_RECORD)
    labels = torch.from_numpy(records[:, 0].astype(np.int64))
    if int(labels.max()) >= len(CIFAR_CLASSES):
        raise InputError("data", str(folder), "labels from 0 to 9", "delete it to download again")
    return resized(torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).copy()), image_size), labels


def _download_cifar10(root: Path) -> None:
    import_torchvision()
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            download_and_extract_archive(CIFAR_URL, str(root), md5=CIFAR_MD5)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong checksum is a RuntimeError
        allowed = f"a data set that is in {root / CIFAR_FOLDER} or can be downloaded"
        raise InputError("data", "cifar10", allowed, f"{CIFAR_URL}: {error}") from error
