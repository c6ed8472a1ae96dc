"""Augmentation of whole batches on their device; every random number comes from one NumPy generator on the host.

A training epoch seeds that generator by (seed, epoch): an epoch can be replayed alone, and a GPU sees what a CPU does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vit.torchvision_shim import import_torchvision

GROUP = 16  # images that share RandAugment's operations: torchvision draws once a call


def crop_and_flip(images: Tensor, padding: int, flip: bool, generator: np.random.Generator) -> Tensor:
    """Shift each image by up to `padding` pixels, black coming in, and mirror every second one, at random.

    Args:
        images: (B, C, H, W), any dtype in which 0 is black.
    """
    batch, _, height, width = images.shape
    if padding:
        down, right = torch.from_numpy(generator.integers(0, 2 * padding + 1, (2, batch))).to(images.device)
        windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
        images = windows[torch.arange(batch, device=images.device), :, down, right]  # (B, C, H, W)
    if flip:
        mirrored = torch.from_numpy(generator.random(batch) < 0.5).to(images.device)
        images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
    return images


class RandAugment:
    """torchvision's RandAugment (Cubuk et al. 2020) on uint8 batches, drawn anew for every 16 images."""

    def __init__(self, operations: int, magnitude: int) -> None:
        import_torchvision()
        from torchvision.transforms import v2

        self.transform: Any = v2.RandAugment(num_ops=operations, magnitude=magnitude)

    def __call__(self, images: Tensor, generator: np.random.Generator) -> Tensor:
        """uint8 (B, C, H, W) with 1 or 3 channels -> the same shape."""
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's global generator
            torch.default_generator.manual_seed(int(generator.integers(2**63)))
            return torch.cat([self.transform(group) for group in torch.split(images, GROUP)])


def mix(
    images: Tensor, targets: Tensor, mixup: float, cutmix: float, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Blend each image with the one at the mirrored place of the batch, and its target in the same proportion.

    With both given, each batch takes one of the two with even odds, as in timm.

    Args:
        images: (B, C, H, W) floats; changed in place.
        targets: class probabilities (B, classes).
        mixup: alpha of mixup (Zhang et al. 2018), 0 for none.
        cutmix: alpha of CutMix (Yun et al. 2019), 0 for none: a rectangle is pasted in instead.
    """
    take_cutmix = cutmix > 0 and (mixup == 0 or generator.random() < 0.5)
    alpha = cutmix if take_cutmix else mixup
    if alpha == 0:
        return images, targets
    kept = float(generator.beta(alpha, alpha))
    if take_cutmix:
        top, bottom = _span(images.shape[2], kept, generator)
        left, right = _span(images.shape[3], kept, generator)
        images[:, :, top:bottom, left:right] = images[:, :, top:bottom, left:right].flip(0)
        kept = 1 - (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])
    else:
        images.lerp_(images.flip(0), 1 - kept)
    return images, torch.lerp(targets.flip(0), targets, kept)


def _span(length: int, kept: float, generator: np.random.Generator) -> tuple[int, int]:
    """One side of CutMix's rectangle, of length * sqrt(1 - kept) about a uniform centre, cut at the borders."""
    half = int(length * np.sqrt(1 - kept)) // 2
    centre = int(generator.integers(length))
    return max(0, centre - half), min(length, centre + half)
