"""One search by one process and by several on this machine: seconds, and their ratio.

    python benchmarks/nas_workers.py [--workers 2] [--trials 24] [--epochs 8] [--rounds 3]

Random candidates on the bundled digits, so that all do the same work; each process trains with one thread. The start of
the helpers, who have torch to import, is counted.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from nas import SearchSpace, search
from vit import Recipe
from vit.data import load_data


def seconds(workers: int, trials: int, epochs: int) -> float:
    """Of a whole search with a fresh journal."""
    data = load_data("digits")
    space = SearchSpace.for_image(data.image_size, data.in_channels, data.num_classes)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        search(
            space,
            data,
            "zcu104",
            trials=trials,
            storage=Path(folder) / "s.journal",
            recipe=Recipe.for_data(data.name, epochs=epochs),
            sampler="random",
            workers=workers,
        )
        return time.perf_counter() - began


def main() -> None:
    """Measure both in turn and print the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[int, list[float]] = {1: [], options.workers: []}
    for _ in range(options.rounds):
        for workers, times in found.items():
            times.append(seconds(workers, options.trials, options.epochs))
    medians = {workers: statistics.median(times) for workers, times in found.items()}
    for workers, median in medians.items():
        print(f"{workers} workers: {median:.1f} s")
    print(f"ratio: {medians[1] / medians[options.workers]:.2f}")


if __name__ == "__main__":
    main()
