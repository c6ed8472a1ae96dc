"""A tiny search: 60 images of two classes, networks of a few hundred weights."""

from __future__ import annotations

import torch

from nas import SearchSpace
from vit.image_set import DataSplits, ImageSet
from vit.recipe import Recipe


def toy_space() -> SearchSpace:
    return SearchSpace(
        {"dim": [4, 6, 8], "depth": [1, 2], "heads": [1, 2], "mlp_ratio": [0.5, 1.0, 2.0]},
        {"image_size": 4, "patch_size": 2, "in_channels": 1, "num_classes": 2},
    )


def toy_recipe() -> Recipe:
    return Recipe(epochs=2, batch_size=20, lr=1e-2)


def toy_data(shift: int = 0) -> DataSplits:
    """Bright and dark images; touching the test split is an error."""
    generator = torch.Generator().manual_seed(shift)
    labels = torch.arange(60) % 2
    noise = torch.randint(0, 120, (60, 1, 4, 4), generator=generator)
    images = (noise + 80 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    whole = ImageSet(images, labels, ("dark", "bright"), (0.4,), (0.2,))

    def read_test() -> ImageSet:
        raise AssertionError("the search read the test split")

    return DataSplits("toy", whole.take(range(40)), whole.take(range(40, 60)), read_test, flip=False)
