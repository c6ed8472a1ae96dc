from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vit.augment import RandAugment, crop_and_flip, mix


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(padding=st.integers(0, 3), flip=st.booleans(), seed=st.integers(0, 1000))
def test_every_image_is_one_of_its_shifts_and_mirrors(padding: int, flip: bool, seed: int) -> None:
    images = torch.from_numpy(generator(seed).integers(1, 256, (6, 2, 5, 4)).astype(np.uint8))
    found = crop_and_flip(images, padding, flip, generator(seed))
    assert found.dtype == torch.uint8
    for image, result in zip(images.numpy(), found.numpy(), strict=True):
        framed = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
        shifts = [framed[:, i : i + 5, j : j + 4] for i in range(2 * padding + 1) for j in range(2 * padding + 1)]
        allowed = shifts + [shift[:, :, ::-1] for shift in shifts if flip]
        assert any(np.array_equal(result, one) for one in allowed)


def test_shifts_are_uniform_and_half_of_the_images_are_mirrored() -> None:
    images = torch.zeros(3000, 1, 3, 3, dtype=torch.uint8)
    images[:, 0, 1, 1] = 1
    shifted = crop_and_flip(images, 1, False, generator()).sum(dim=0)[0]
    assert shifted.min() > 250  # 3000 / 9 expected at each place
    assert shifted.max() < 420
    images[:, 0, 1] = torch.tensor([1, 0, 0], dtype=torch.uint8)
    mirrored = crop_and_flip(images, 0, True, generator())[:, 0, 1, 2].sum()
    assert 1350 < mirrored < 1650


def test_mixup_blends_images_and_targets_alike() -> None:
    images, targets = torch.rand(4, 1, 2, 2), torch.eye(4)
    mixed, soft = mix(images.clone(), targets, 0.5, 0.0, generator(1))
    kept = soft[0, 0]
    assert 0 < kept < 1
    torch.testing.assert_close(soft, kept * targets + (1 - kept) * targets.flip(0))
    torch.testing.assert_close(mixed, kept * images + (1 - kept) * images.flip(0))


@given(st.integers(0, 500))
def test_cutmix_pastes_a_rectangle_as_large_as_the_target_says(seed: int) -> None:
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 6, 5).clone()
    mixed, soft = mix(images.clone(), torch.eye(4), 0.0, 1.0, generator(seed))
    foreign = mixed != images
    rows, columns = foreign[0, 0].any(dim=1).sum(), foreign[0, 0].any(dim=0).sum()
    assert int(foreign[0].sum()) == int(rows * columns)
    assert torch.equal(foreign, foreign[:1].expand_as(foreign))
    assert torch.equal(mixed[foreign], images.flip(0)[foreign])
    torch.testing.assert_close(float(soft[0, 3]), int(rows * columns) / 30, atol=1e-6, rtol=0)


def test_with_both_each_takes_half_of_the_batches() -> None:
    rng = generator()
    pasted = 0
    for _ in range(400):
        images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 4, 4).clone()
        mixed, _ = mix(images, torch.eye(4), 1.0, 1.0, rng)
        pasted += bool(torch.equal(mixed, mixed.round()))
    assert 140 < pasted < 260
    images = torch.rand(2, 1, 2, 2)
    assert torch.equal(mix(images.clone(), torch.eye(2), 0.0, 0.0, rng)[0], images)


@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_follows_its_generator_and_no_other(channels: int) -> None:
    images = torch.from_numpy(generator().integers(0, 256, (40, channels, 16, 16)).astype(np.uint8))
    augment = RandAugment(2, 9)
    torch.manual_seed(1)
    first = augment(images, generator(3))
    before = torch.get_rng_state()
    again = augment(images, generator(3))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, again)
    assert (first.shape, first.dtype) == (images.shape, torch.uint8)
    assert not torch.equal(first, augment(images, generator(4)))
