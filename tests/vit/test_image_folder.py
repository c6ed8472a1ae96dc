from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vit import image_folder
from vit.data import load_data
from vit.errors import InputError

MakeFolder = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_a_folder_becomes_splits(make_folder: MakeFolder, root: Path) -> None:
    splits = load_data(make_folder(("cat", "dog", "emu"), count=10), root=root)
    assert splits.class_names == ("cat", "dog", "emu")
    assert (len(splits.train), len(splits.val), len(splits.test)) == (24, 6, 30)
    assert (splits.in_channels, splits.image_size, splits.flip) == (3, 8, True)
    for image, label in zip(splits.train.images, splits.train.labels, strict=True):
        red, _, blue = image[:, 0, 0].tolist()
        assert (red, blue) == (40 + 80 * int(label), 0)
    assert set(splits.test.images[:, 2].unique().tolist()) == {200}


def test_nothing_of_the_test_split_is_decoded_before_it_is_touched(
    make_folder: MakeFolder, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = Image.open
    monkeypatch.setattr(image_folder.Image, "open", lambda path: opened.append(str(path)) or real(path))
    folder = make_folder()
    (folder / "test" / "dog" / "0.png").write_bytes(b"not a picture")
    splits = load_data(folder, root=root)
    assert opened
    assert all("/train/" in path for path in opened)
    for read in (splits.check_test, lambda: splits.test):
        with pytest.raises(InputError, match=r"test/dog/0\.png"):
            read()
    assert any("/test/" in path for path in opened)


def test_checking_the_test_images_gives_them_to_nobody_and_decodes_them_once(
    make_folder: MakeFolder, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = load_data(make_folder(), root=root)
    splits.check_test()
    assert not splits.test_was_read
    monkeypatch.setattr(image_folder.Image, "open", None)
    assert len(splits.test) == 8
    assert splits.test_was_read


def test_the_cache_is_used_and_follows_the_files(
    make_folder: MakeFolder, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder()
    first = load_data(folder, root=root)
    cached = list((root / ".cache").iterdir())
    assert len(cached) == 1
    with monkeypatch.context() as patched:
        patched.setattr(image_folder.Image, "open", None)
        assert torch.equal(load_data(folder, root=root).train.images, first.train.images)
        with pytest.raises(InputError, match="train/cat"):
            load_data(folder, root=root, image_size=4)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(folder / "train" / "cat" / "0.png")
    changed = load_data(folder, root=root)
    pixels = torch.cat([changed.train.images, changed.val.images])
    assert any(image[:, 0, 0].tolist() == [1, 2, 3] for image in pixels)
    cached[0].write_bytes(b"damaged")
    assert load_data(folder, root=root).num_classes == 2


def test_an_unwritable_cache_does_no_harm(make_folder: MakeFolder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert load_data(make_folder(), root=tmp_path / "file").num_classes == 2


@pytest.mark.parametrize("size", [(8, 8), (10, 6)])
def test_size_is_the_images_own_if_all_are_equal_squares(
    make_folder: MakeFolder, root: Path, size: tuple[int, int]
) -> None:
    folder = make_folder(size=size)
    assert load_data(folder, root=root).image_size == (8 if size == (8, 8) else 32)
    assert load_data(folder, root=root, image_size=16).test.images.shape[1:] == (3, 16, 16)


def test_every_mode_and_format_is_read(make_folder: MakeFolder, root: Path) -> None:
    folder = make_folder(count=2)
    train = folder / "train" / "cat"
    big = Image.new("RGB", (300, 300), (10, 200, 30))
    big.save(train / "a.jpg", quality=95)
    big.convert("P").save(train / "b.gif")
    big.convert("RGBA").save(train / "c.webp", lossless=True)
    big.convert("CMYK").save(train / "d.tiff")
    big.save(train / "e.bmp")
    (train / "deeper").mkdir()
    big.save(train / "deeper" / "f.ppm")
    (train / ".DS_Store").write_bytes(b"x")
    (train / "Thumbs.db").write_bytes(b"x")
    splits = load_data(folder, root=root, image_size=8)
    assert len(splits.train) + len(splits.val) == 4 + 6
    pixels = torch.cat([splits.train.images, splits.val.images]).float()
    green = [image for image in pixels if image[1].mean() > 150]
    assert len(green) == 6
    for image in green:
        torch.testing.assert_close(image.mean(dim=(1, 2)), torch.tensor([10.0, 200.0, 30.0]), atol=12, rtol=0)


def test_grey_stays_one_channel_only_if_all_are(tmp_path: Path, root: Path) -> None:
    folder = tmp_path / "grey"
    for part in ("train", "test"):
        for name in ("a", "b"):
            (folder / part / name).mkdir(parents=True)
            for i in range(3):
                Image.new("L", (4, 4), 100 + i).save(folder / part / name / f"{i}.png")
    deep = np.full((4, 4), 40_000, dtype=np.uint16)
    Image.fromarray(deep).save(folder / "train" / "a" / "sixteen.png")
    Image.new("RGB", (4, 4), (9, 9, 9)).save(folder / "test" / "a" / "colour.png")
    splits = load_data(folder, root=root)
    assert splits.in_channels == 1
    assert 40_000 // 257 in torch.cat([splits.train.images, splits.val.images]).unique()
    assert splits.test.images.shape[1] == 1
    assert 9 in splits.test.images.unique()
    Image.new("RGB", (4, 4), (9, 9, 9)).save(folder / "train" / "b" / "colour.png")
    assert load_data(folder, root=root).in_channels == 3


def test_a_photo_is_turned_the_way_its_camera_says(tmp_path: Path, root: Path) -> None:
    folder = tmp_path / "photos"
    for part in ("train", "test"):
        for name in ("a", "b"):
            (folder / part / name).mkdir(parents=True)
            for i in range(2):
                picture = Image.new("L", (16, 16), 0)
                picture.paste(255, (0, 0, 16, 8))  # bright at the top
                exif = Image.Exif()
                exif[0x0112] = 3  # rotated by half a turn
                picture.save(folder / part / name / f"{i}.jpg", exif=exif)
    image = load_data(folder, root=root).train.images[0, 0].float()
    assert image[:6].mean() < 50
    assert image[10:].mean() > 200


def emptied(folder: Path, *parts: str) -> None:
    for part in parts:
        shutil.rmtree(folder / part)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: emptied(f, "train"), "no train/"),
        (lambda f: emptied(f, "test"), "no test/"),
        (lambda f: emptied(f, "train/cat", "train/dog"), "it has none"),
        (lambda f: emptied(f, "train/cat", "test/cat"), "it has one, dog"),
        (
            lambda f: (f / "test" / "dog").rename(f / "test" / "dogs"),
            "'dog' is in train/ and not in test/ did you mean 'dogs'",
        ),
        (lambda f: (f / "test" / "emu").mkdir(), "'emu' is in test/ and not in train/"),
        (lambda f: [p.unlink() for p in (f / "train" / "dog").iterdir()], "train/dog.*it is empty"),
        (lambda f: (f / "train" / "dog" / "0.png").write_bytes(b"no picture"), r"train/dog/0\.png.*Pillow can read"),
        (lambda f: (f / "train" / "dog" / "notes.txt").write_text("hello"), r"notes\.txt"),
        (
            lambda f: (f / "train" / "dog" / "0.png").write_bytes((f / "train" / "dog" / "1.png").read_bytes()[:50]),
            r"train/dog/0\.png",
        ),
        (lambda f: (f / "train" / "dog" / "z.png").symlink_to("nowhere"), r"dog/z\.png"),
    ],
)
def test_bad_folders_are_refused_by_name(
    make_folder: MakeFolder, root: Path, spoil: Callable[[Path], object], message: str
) -> None:
    folder = make_folder()
    spoil(folder)
    with pytest.raises(InputError, match=message) as caught:
        load_data(folder, root=root)
    assert caught.value.field == "data"
    assert "\n" not in str(caught.value)
    assert not (root / ".cache").exists()


def test_large_pictures_are_decoded_by_threads_to_the_same_pixels(
    make_folder: MakeFolder, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(size=(20, 20))
    alone = load_data(folder, root=root / "one", image_size=8)
    monkeypatch.setattr(image_folder, "WORTH_A_THREAD", 1)
    monkeypatch.setattr(image_folder.os, "cpu_count", lambda: 3)
    together = load_data(folder, root=root / "two", image_size=8)
    assert torch.equal(alone.train.images, together.train.images)
    (folder / "train" / "dog" / "2.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"dog/2\.png"):
        load_data(folder, root=root / "three", image_size=8)
