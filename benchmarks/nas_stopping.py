"""Early stopping of a search on the bundled digits: epochs saved, and hypervolume lost for them.

    python benchmarks/nas_stopping.py [--trials 64] [--epochs 16] [--journal FILE] [--orders 20]

First a search with random candidates trains all of them to the end; it goes on where it was if it is stopped. Then the
rule is asked after every epoch of the recorded curves, just as `nas.search(..., stopping=...)` asks it, in the order of
the search and in random ones. The score is the hypervolume of the finished trials over that of all trials, with
respect to the worst value of each objective, each scaled to the range that occurred.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import torch
from optuna import Study

from nas import Curve, FrontStopper, Halving, Progress, SearchSpace, Stopper, hypervolume, search
from nas.pareto import finished
from vit import Recipe
from vit.data import load_data

OBJECTIVES = ("accuracy", "params", "cycles")
RULES: dict[str, Stopper] = {f"front, confidence {c}": FrontStopper(c) for c in (0.8, 0.85, 0.9, 0.95)}
RULES |= {"halving, factor 3": Halving()}


def random_search(trials: int, epochs: int, journal: str | None) -> Study:
    """A search that trains random candidates to the end."""
    torch.set_num_threads(1)
    data = load_data("digits")
    space = SearchSpace.for_image(data.image_size, data.in_channels, data.num_classes)

    def tell(state: Progress) -> None:
        if state.values:
            print(f"\rtrained {state.done}/{state.total}", end="", file=sys.stderr, flush=True)

    study = search(
        space,
        data,
        "zcu104",
        OBJECTIVES,
        trials=trials,
        storage=journal,
        recipe=Recipe.for_data(data.name, epochs=epochs),
        sampler="random",
        progress=tell,
    )
    print(file=sys.stderr)
    return study


def curves_of(study: Study) -> list[Curve]:
    """The learning curves of the trials, in the order of the search."""
    return [Curve(tuple(t.user_attrs["accuracy_by_epoch"]), tuple(t.values[1:])) for t in finished(study)]


def replay(stopper: Stopper, curves: Sequence[Curve]) -> tuple[int, list[Curve]]:
    """Epochs trained, and the trials that were finished, had the rule been asked."""
    ended: list[Curve] = []
    epochs = 0
    for whole in curves:
        for epoch in range(1, len(whole.accuracy)):
            part = Curve(whole.accuracy[:epoch], whole.costs, finished=False)
            if stopper.stops(part, ended, len(whole.accuracy)):
                break
        else:
            part = whole
        epochs += len(part.accuracy)
        ended.append(part)
    return epochs, [curve for curve in ended if curve.finished]


def volume(curves: Sequence[Curve], everything: Sequence[Curve]) -> float:
    """Hypervolume of finished trials, each objective scaled to its range in all."""
    points, reached = _losses(everything), _losses(curves)
    low, high = points.min(axis=0), points.max(axis=0)
    return hypervolume((reached - low) / (high - low), np.ones(len(low)))


def _losses(curves: Sequence[Curve]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.array([[-curve.accuracy[-1], *curve.costs] for curve in curves])


def main() -> None:
    """Train, replay and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--journal", metavar="FILE")
    options = parser.parse_args()
    curves = curves_of(random_search(options.trials, options.epochs, options.journal))
    everything, best = sum(len(curve.accuracy) for curve in curves), volume(curves, curves)
    print(f"{len(curves)} trials of {options.epochs} epochs; in the order of the search, then mean (worst) of", end=" ")
    print(f"{options.orders} random orders")
    print(f"{'rule':<24}{'epochs saved':>14}{'volume lost':>13}{'epochs saved':>22}{'volume lost':>20}")
    for name, stopper in RULES.items():
        found = []
        for seed in range(options.orders + 1):
            order = np.random.default_rng(seed).permutation(len(curves)) if seed else np.arange(len(curves))
            epochs, done = replay(stopper, [curves[i] for i in order])
            found.append((everything / epochs, 1 - volume(done, curves) / best))
        (saved, lost), others = found[0], np.array(found[1:])
        mean = others.mean(axis=0)
        print(
            f"{name:<24}{saved:>13.2f}x{lost:>13.2%}{mean[0]:>13.2f}x ({others[:, 0].min():.2f}x)"
            f"{mean[1]:>11.2%} ({others[:, 1].max():.2%})"
        )


if __name__ == "__main__":
    main()
