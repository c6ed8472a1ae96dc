"""Supernet accuracy against stand-alone accuracy: rank correlation over candidates that were trained both ways.

    python benchmarks/nas_supernet.py [--data digits] [--networks 24] [--epochs 30] [--supernet-epochs 80] [--seeds 2]

Candidates are drawn from a space, without repeats. Each is trained alone with every seed (first weights, order and
augmentation); its stand-alone accuracy is the mean. The supernet is trained once a supernet seed. All accuracies are
those on the validation images; the test images are not read. Beside the supernet stand the parameter count, which it
has to beat, the supernet's validation loss, which has no ties, and what one stand-alone training tells of another with
a different seed: the noise of the accuracies. With the same --out, trainings that ended are not run again.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from nas import SearchSpace, rank_correlation, train_supernet
from nas.costs import config_params
from vit import Recipe, VisionTransformer, ViTConfig, evaluate, fit
from vit.data import load_data
from vit.image_set import DataSplits, ImageSet, stratified_split

BATCH = 64
SPACES = {  # by whether images are small
    True: {"dim": [8, 12, 16, 24, 32], "depth": [1, 2, 3, 4], "heads": [1, 2, 4], "mlp_ratio": [0.5, 1.0, 2.0, 4.0]},
    False: {"dim": [24, 32, 48, 64], "depth": [1, 2, 3, 4], "heads": [2, 4], "mlp_ratio": [0.5, 1.0, 2.0, 4.0]},
}


def space_for(data: DataSplits) -> SearchSpace:
    """Candidates that share weights: on grids of 4 x 4 patches, with the patch stem."""
    return SearchSpace.for_image(
        data.image_size,
        data.in_channels,
        data.num_classes,
        patch_size=data.image_size // 4,
        stem="patch",
        **SPACES[data.image_size <= 16],
    )


def fewer(images: ImageSet, count: int) -> ImageSet:
    """`count` of the images, of every class alike; all of them for 0."""
    if not 0 < count < len(images):
        return images
    return images.take(stratified_split(images.labels.numpy(), count / len(images), seed=0)[1])


def drawn(space: SearchSpace, count: int) -> list[ViTConfig]:
    """`count` candidates that differ."""
    found = dict.fromkeys(space.config(params) for params in space.sample(50 * count, seed=1))
    return list(found)[:count]


def alone(config: ViTConfig, data: DataSplits, recipe: Recipe, out: Path | None, name: str) -> float:
    """Validation accuracy of a candidate trained by itself."""
    torch.manual_seed(recipe.seed)
    return fit(VisionTransformer(config), data, recipe, out, name=name).val_accuracy


def kendall(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b."""
    return rank_correlation(a, b)["kendall"]


def main() -> None:
    """Train, correlate and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--networks", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=30, help="of each stand-alone training")
    parser.add_argument("--supernet-epochs", type=int, default=80)
    parser.add_argument("--seeds", type=int, default=2, help="of the stand-alone trainings")
    parser.add_argument("--supernet-seeds", type=int, default=2)
    parser.add_argument("--val-fraction", type=float, default=0.5, help="large: less noise, fewer ties")
    parser.add_argument("--train-images", type=int, default=0, help="at most; 0 takes all")
    parser.add_argument("--val-images", type=int, default=0, help="at most; 0 takes all")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keep the trainings, and go on from them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    whole = load_data(options.data, val_fraction=options.val_fraction)
    train, val = fewer(whole.train, options.train_images), fewer(whole.val, options.val_images)
    data = DataSplits(whole.name, train, val, lambda: whole.test, flip=whole.flip)
    space = space_for(data)
    configs = drawn(space, options.networks)
    print(f"{data.name}: {len(train)} training and {len(val)} validation images; {len(space)} candidates", flush=True)

    began, runs = time.perf_counter(), []
    for seed in range(options.seeds):
        recipe = Recipe.for_data(data.name, epochs=options.epochs, batch_size=BATCH, seed=seed)
        accuracies = []
        for i, config in enumerate(configs):
            accuracies.append(alone(config, data, recipe, options.out, f"alone_{i}_{seed}"))
            print(f"\rseed {seed}: trained {i + 1}/{len(configs)}", end="", file=sys.stderr, flush=True)
        runs.append(accuracies)
    print(file=sys.stderr)
    mean = np.mean(runs, axis=0)
    seconds = time.perf_counter() - began
    print(f"{len(configs)} alone, {options.epochs} epochs, {options.seeds} seeds: accuracy", end=" ")
    print(f"{mean.min():.3f} to {mean.max():.3f}, {seconds:.0f} s")

    print(f"{'Kendall tau with':<32}{'mean alone':>12}" + "".join(f"{f'seed {s}':>9}" for s in range(options.seeds)))

    def row(name: str, scores: Sequence[float]) -> None:
        taus = [kendall(scores, list(values)) for values in (mean, *runs)]
        print(f"{name:<32}{taus[0]:>12.3f}" + "".join(f"{tau:>9.3f}" for tau in taus[1:]), flush=True)

    row("parameter count", [config_params(config) for config in configs])
    for seed in range(options.supernet_seeds):
        began = time.perf_counter()
        recipe = Recipe.for_data(data.name, epochs=options.supernet_epochs, batch_size=BATCH, seed=seed)
        supernet = train_supernet(space, data, recipe, None if options.out is None else options.out / f"seed{seed}")
        found = [evaluate(supernet.subnet(config), data.val) for config in configs]
        scores = [one.accuracy for one in found]
        seconds = time.perf_counter() - began
        print(
            f"supernet seed {seed}: accuracy {min(scores):.3f} to {max(scores):.3f}, {seconds:.0f} s", file=sys.stderr
        )
        row(f"supernet seed {seed}, accuracy", scores)
        row(f"supernet seed {seed}, -loss", [-one.loss for one in found])
    pairs = [kendall(a, b) for a, b in itertools.combinations(runs, 2)]
    if pairs:
        print(f"one stand-alone seed against another: {np.mean(pairs):.3f} ({min(pairs):.3f} to {max(pairs):.3f})")


if __name__ == "__main__":
    main()
