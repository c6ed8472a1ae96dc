"""Zero-cost proxies against the parameter count: rank correlation with trained accuracy on the bundled digits.

    python benchmarks/nas_proxies.py [--trials 64] [--epochs 16] [--journal FILE]

The accuracies are those of random candidates that were trained to the end, as benchmarks/nas_curves.py trains them; a
journal that it left is taken as it is.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from nas_curves import record

from nas import PROXIES, rank_correlation, score, space_of
from nas.pareto import finished
from vit import VisionTransformer
from vit.data import load_data

BATCH = 64


def main() -> None:
    """Train, score and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--journal", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data("digits")
    study = record(data, 0, options.trials, options.epochs, options.journal)
    trials, space = finished(study), space_of(study)
    images, labels = data.train.normalise(data.train.images[:BATCH]), data.train.labels[:BATCH]
    accuracies = [trial.values[0] for trial in trials]
    print(f"{len(trials)} networks of {options.epochs} epochs, accuracy {min(accuracies):.3f} to {max(accuracies):.3f}")
    print(f"{'proxy':<12}{'Spearman':>10}{'Kendall':>10}{'ms':>8}")
    for proxy in PROXIES:
        scores, began = [], time.perf_counter()
        for trial in trials:
            torch.manual_seed(0)
            scores.append(score(VisionTransformer(space.config(trial.params)), proxy, images, labels))
        milliseconds = 1e3 * (time.perf_counter() - began) / len(trials)
        found = rank_correlation(scores, accuracies)
        print(f"{proxy:<12}{found['spearman']:>10.3f}{found['kendall']:>10.3f}{milliseconds:>8.1f}")


if __name__ == "__main__":
    main()
