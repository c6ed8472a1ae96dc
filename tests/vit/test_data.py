from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vit import data as data_module
from vit.data import CIFAR_FOLDER, _digits, load_data
from vit.errors import InputError
from vit.image_set import ImageSet, channel_statistics, stratified_split
from vit.recipe import VAL_FRACTION


def test_digits_are_the_1797_of_scikit_learn() -> None:
    splits = load_data("digits")
    assert (splits.in_channels, splits.image_size, splits.num_classes, splits.flip) == (1, 8, 10, False)
    assert not splits.test_was_read
    assert len(splits.train) + len(splits.val) + len(splits.test) == 1797
    assert splits.test_was_read
    assert len(splits.test) == pytest.approx(0.2 * 1797, abs=5)
    assert len(splits.val) == pytest.approx(0.8 * VAL_FRACTION * 1797, abs=5)
    for part in (splits.train, splits.val, splits.test):
        assert (part.images.dtype, part.labels.dtype) == (torch.uint8, torch.int64)
        assert part.images.is_contiguous()
        counts = part.labels.bincount()
        assert counts.max() - counts.min() <= 0.2 * counts.max()
    assert int(splits.train.images.max()) == 255
    images = torch.cat([part.images for part in (splits.train, splits.val, splits.test)])
    assert len({image.numpy().tobytes() for image in images}) == 1797  # every digit once


def test_the_seed_moves_the_validation_images_and_never_the_test_images() -> None:
    one, same, other = (load_data("digits", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.val.images, same.val.images)
    assert not torch.equal(one.val.images, other.val.images)
    assert torch.equal(one.test.images, other.test.images)
    more = load_data("digits", val_fraction=0.5)
    assert len(more.val) == pytest.approx(len(more.train), abs=10)


def test_images_are_held_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The splits are copies; what they were taken from must go."""
    read = []

    def digits(part: str, image_size: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = _digits(part, image_size)
        read.append(weakref.ref(images))
        return images, labels

    monkeypatch.setattr("vit.data._digits", digits)
    splits = load_data("digits")
    assert [images() for images in read] == [None]
    assert len(splits.test) == 359


def test_images_can_be_resized() -> None:
    splits = load_data("digits", image_size=12)
    assert splits.train.images.shape[2:] == splits.test.images.shape[2:] == (12, 12)
    assert splits.train.images.dtype == torch.uint8


def test_normalised_training_images_have_mean_0_and_deviation_1() -> None:
    train = load_data("digits").train
    floats = train.floats()
    assert float(floats.mean()) == pytest.approx(0, abs=1e-5)
    assert float(floats.std()) == pytest.approx(1, abs=1e-3)
    expected = (train.images.double() / 255 - train.mean[0]) / train.std[0]
    torch.testing.assert_close(floats.double(), expected, atol=1e-5, rtol=0)
    batches = list(train.batches(500))
    assert [len(labels) for _, labels in batches] == [500, 500, len(train) - 1000]
    assert torch.equal(torch.cat([images for images, _ in batches]), floats)
    assert torch.equal(torch.cat([labels for _, labels in batches]), train.labels)


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))))
def test_statistics_equal_numpys(pixels: np.ndarray) -> None:
    mean, std = channel_statistics(torch.from_numpy(pixels))
    values = pixels / 255
    assert mean == pytest.approx(tuple(values.mean(axis=(0, 2, 3))), abs=1e-9)
    assert std == pytest.approx(tuple(np.maximum(values.std(axis=(0, 2, 3)), 1 / 255)), abs=1e-6)


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32),
)
def test_a_split_is_disjoint_and_stratified(counts: list[int], fraction: float, seed: int) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    if max(counts) == 1:
        with pytest.raises(InputError, match="two training images"):
            stratified_split(labels, fraction, seed)
        return
    kept, aside = stratified_split(labels, fraction, seed)
    assert np.array_equal(np.sort(np.concatenate([kept, aside])), np.arange(len(labels)))
    for label, count in enumerate(counts):
        given_away = int((labels[aside] == label).sum())
        assert abs(given_away - count * fraction) <= 1
        assert given_away < count
        assert given_away >= 1 or count == 1


def test_take_keeps_the_order() -> None:
    images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1)
    chosen = ImageSet(images, torch.arange(4), ("a",) * 4, (0.5,), (0.5,)).take(np.array([3, 1]))
    assert chosen.images.flatten().tolist() == chosen.labels.tolist() == [3, 1]


def write_cifar(root: Path, per_file: int = 20) -> np.ndarray:
    """Six files in CIFAR-10's binary layout; returns the records of the first."""
    folder = root / CIFAR_FOLDER
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    first = np.empty(0)
    for name in [*(f"data_batch_{i}.bin" for i in range(5, 0, -1)), "test_batch.bin"]:
        records = generator.integers(0, 256, (per_file, 3073)).astype(np.uint8)
        records[:, 0] = np.arange(per_file) % 10
        records.tofile(folder / name)
        first = records if name == "data_batch_1.bin" else first
    return first


def test_cifar10_is_read_from_its_binary_files(tmp_path: Path) -> None:
    records = write_cifar(tmp_path)
    splits = load_data("cifar10", root=tmp_path)
    assert (len(splits.train), len(splits.val), splits.flip) == (80, 20, True)
    assert splits.train.images.shape[1:] == (3, 32, 32)
    assert splits.class_names[3] == "cat"
    everything = torch.cat([splits.train.images, splits.val.images])
    red_first = torch.from_numpy(records[0, 1:].reshape(3, 32, 32))
    assert any(torch.equal(image, red_first) for image in everything)
    (tmp_path / CIFAR_FOLDER / "test_batch.bin").write_bytes(b"x" * 3000)
    with pytest.raises(InputError, match="delete it to download again"):
        _ = splits.test


def test_cifar10_without_a_network_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_module.import_torchvision()
    utils = sys.modules["torchvision.datasets.utils"]

    def offline(url: str, root: str, md5: str) -> None:
        raise OSError("no network")

    monkeypatch.setattr(utils, "download_and_extract_archive", offline)
    with pytest.raises(InputError, match="no network") as caught:
        load_data("cifar10", root=tmp_path)
    assert caught.value.field == "data"


def test_a_download_is_unpacked_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_module.import_torchvision()
    monkeypatch.setattr(
        sys.modules["torchvision.datasets.utils"],
        "download_and_extract_archive",
        lambda url, root, md5: write_cifar(Path(root)),
    )
    assert len(load_data("cifar10", root=tmp_path).test) == 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_data("digit"), "did you mean 'digits'"),
        (lambda: load_data("/no/such/folder"), "no such folder"),
        (lambda: load_data("digits", image_size=0), "image_size"),
        (lambda: load_data("digits", val_fraction=1.0), "val_fraction"),
        (lambda: load_data("digits", seed=-1), "seed"),
    ],
)
def test_bad_requests_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
