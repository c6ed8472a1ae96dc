"""Record the learning curves of random searches, for benchmarks that replay them.

    python benchmarks/nas_curves.py [--data digits|FOLDER] [--seeds 0,1,2,3,4] [--trials 64] [--epochs 16]
        [--val-fraction 0.15] [--out PLACE]

Each seed is a search of its own that trains random candidates to the end, in a journal of its own; what is there
already is not trained again. Accuracies of few validation images differ by chance: `--val-fraction 0.5` of digits gives
719 where the default gives 216. Of a folder of images, 1,000 train and 500 validate, on candidates of at most 4 blocks
of width 64 with 16 tokens: seconds each on one core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from optuna import Study

from nas import Progress, SearchSpace, search
from vit import Recipe
from vit.data import load_data
from vit.image_set import DataSplits, ImageSet

OBJECTIVES = ("accuracy", "params", "cycles")
TRAIN, VAL = 1000, 500  # images taken of a folder


def record(data: DataSplits, seed: int, trials: int, epochs: int, journal: Path | None) -> Study:
    """A search that trains random candidates to the end."""
    space = SearchSpace.for_image(data.image_size, data.in_channels, data.num_classes)
    if data.image_size > 16:
        small: dict[str, list[int]] = {"dim": [16, 24, 32, 48, 64], "depth": [1, 2, 3, 4], "heads": [1, 2, 4]}
        grid: dict[str, list[object]] = {
            "patch_size": [data.image_size // 4],
            "mlp_ratio": [1.0, 2.0, 4.0],
            "stem": ["patch"],
        }
        space = SearchSpace.for_image(data.image_size, data.in_channels, data.num_classes, **small, **grid)

    def tell(state: Progress) -> None:
        if state.values:
            print(f"\rseed {seed}: trained {state.done}/{state.total}", end="", file=sys.stderr, flush=True)

    study = search(
        space,
        data,
        "zcu104",
        OBJECTIVES,
        trials=trials,
        storage=journal,
        seed=seed,
        recipe=Recipe.for_data(data.name, epochs=epochs, seed=seed),
        sampler="random",
        progress=tell,
    )
    print(file=sys.stderr)
    return study


def some_of(data: DataSplits) -> DataSplits:
    """The bundled digits whole; of a folder as many images as train in seconds, the same ones each time."""
    if data.name == "digits":
        return data

    def draw(images: ImageSet, count: int) -> ImageSet:
        return images.take(np.random.default_rng(0).permutation(len(images))[:count])

    def no_test() -> ImageSet:
        raise AssertionError("a search reads no test images")

    return DataSplits(data.name, draw(data.train, TRAIN), draw(data.val, VAL), no_test, flip=data.flip)


def main() -> None:
    """Train what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--val-fraction", type=float, default=0.15)
    parser.add_argument("--out", type=Path, default=Path("outputs/curves"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = some_of(load_data(options.data, val_fraction=options.val_fraction))
    for seed in map(int, options.seeds.split(",")):
        journal = options.out / f"{Path(data.name).name}-{options.epochs}-{seed}.journal"
        record(data, seed, options.trials, options.epochs, journal)


if __name__ == "__main__":
    main()
