"""How much `fit` costs over the loop that everybody writes by hand.

    python benchmarks/training_loop.py [--rounds 9] [--threads 2]

Both sides train the same model from the same weights on the same uint8 tensors for five epochs and validate after each.
The bare loop shuffles, normalises, runs forward, cross-entropy, backward and fused AdamW, and nothing else. `fit` runs
once as bare, and once as it comes: with averaged weights, clipping, smoothing, warm-up and augmentation. The sides take
turns, and a ratio is the median over the rounds of one side's time over the bare loop's in the same round: by the clock
on the wall, and in processor time, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

from vit import DataSplits, ImageSet, Recipe, create_model, fit, load_data

EPOCHS = 5
BARE = {"ema": 0.0, "clip_grad": 0.0, "label_smoothing": 0.0, "crop_padding": 0, "flip": False, "cutmix": 0.0}


def bare_loop(model: nn.Module, data: DataSplits, recipe: Recipe) -> float:
    """Train and validate; returns the last accuracy."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    train, accuracy = data.train, 0.0
    for _ in range(EPOCHS):
        model.train()
        for chosen in torch.randperm(len(train)).split(recipe.batch_size):
            images, labels = train.normalise(train.images[chosen]), train.labels[chosen]
            optimiser.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimiser.step()
        model.eval()
        with torch.inference_mode():
            correct = sum(int((model(x).argmax(dim=1) == y).sum()) for x, y in data.val.batches(256))
        accuracy = correct / len(data.val)
    return accuracy


def random_images(train: int, val: int) -> DataSplits:
    """Colour images of 32x32 pixels; what is on them does not change the time."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (train + val, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (train + val,), generator=generator)
    names = tuple(str(i) for i in range(10))
    whole = ImageSet(images, labels, names, (0.5,) * 3, (0.25,) * 3)
    first, last = torch.arange(train), torch.arange(train, train + val)
    return DataSplits("random", whole.take(first), whole.take(last), lambda: whole, flip=True)


def compare(title: str, model: nn.Module, data: DataSplits, recipe: Recipe, rounds: int) -> None:
    """Print the time of each side and the median ratios."""
    bare_recipe = Recipe.from_dict({**recipe.to_dict(), **BARE})
    sides = {
        "bare loop": lambda: bare_loop(copy.deepcopy(model), data, recipe),
        "fit, as bare": lambda: fit(copy.deepcopy(model), data, bare_recipe),
        "fit, as it comes": lambda: fit(copy.deepcopy(model), data, recipe),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for name in list(sides) * (rounds + 1):
        wall, processor = time.perf_counter(), time.process_time()
        sides[name]()
        times[name].append((time.perf_counter() - wall, time.process_time() - processor))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{title}: {parameters:,} parameters, {len(data.train)} images, batches of {recipe.batch_size}")
    bare = times["bare loop"][1:]  # the first round warms up
    for name, measured in times.items():
        pairs = list(zip(measured[1:], bare, strict=True))
        wall, processor = (statistics.median(one[clock] / other[clock] for one, other in pairs) for clock in (0, 1))
        epoch = 1e3 * statistics.median(one[0] for one, _ in pairs) / EPOCHS
        print(f"  {name:17} {epoch:8.1f} ms an epoch   ratio {wall:.3f} on the wall, {processor:.3f} in processor time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, {options.rounds} rounds")
    digits = create_model({"image_size": 8, "patch_size": 2, "in_channels": 1, "dim": 64, "depth": 3, "heads": 4})
    compare("digits", digits, load_data("digits"), Recipe.for_data("digits", epochs=EPOCHS), options.rounds)
    colour = create_model({"dim": 128, "depth": 3, "heads": 4})
    compare("32x32 colour", colour, random_images(512, 64), Recipe(epochs=EPOCHS), max(1, options.rounds // 3))


if __name__ == "__main__":
    main()
