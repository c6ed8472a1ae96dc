"""Early stopping of a search: epochs saved, and hypervolume lost for them, on recorded learning curves.

    python benchmarks/nas_curves.py --data digits --out outputs/curves
    python benchmarks/nas_stopping.py outputs/curves/digits-16-*.journal [--costs params,cycles] [--orders 20]

A rule is asked before each training and after each of its epochs, just as `nas.search(..., stopping=...)` asks it, in
the order of the search and in random ones. The score is the hypervolume of the finished trials over that of all trials,
with respect to the worst value of each objective, each scaled to the range that occurred. An oracle that knows the end
of every training bounds what a rule that trains two epochs of each can save without losing anything. `--costs cycles`
replays a search of accuracy against cycles alone: random candidates are the same for any objectives.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna import Study

from nas import Curve, FrontStopper, Halving, Stopper, VolumeStopper, hypervolume
from nas.pareto import finished
from nas.pool import Encoder
from nas.stopping import best_rival
from nas.storage import STUDY, open_place

RULES: dict[str, Stopper] = {f"volume, price {price:.1%}": VolumeStopper(price) for price in (0.001, 0.002, 0.003)}
RULES |= {f"front, confidence {c}": FrontStopper(c) for c in (0.8, 0.9)}
RULES |= {"halving, factor 3": Halving()}


class Oracle:
    """Knows what every training ends with, and stops after two epochs what will not be on the front."""

    def __init__(self, curves: Sequence[Curve]) -> None:
        self._ends = {(curve.costs, curve.accuracy[:2]): curve.accuracy[-1] for curve in curves}

    def stops(self, curve: Curve, others: Sequence[Curve], epochs: int) -> bool:
        """Whether a finished candidate that is nowhere dearer ended as accurate."""
        if len(curve.accuracy) < 2:
            return False
        end = self._ends[curve.costs, curve.accuracy[:2]]
        return best_rival(Curve((end,) * epochs, curve.costs), [other for other in others if other.finished]) >= end

    def settings(self) -> dict[str, Any]:
        """Nothing: it is for comparison only."""
        return {}


def curves_of(study: Study, costs: Sequence[str]) -> list[Curve]:
    """The learning curves of the trials, in the order of the search, beside these of its costs."""
    trials, places = finished(study), [study.metric_names.index(name) for name in costs]
    traits = Encoder(trials[0].distributions)([trial.params for trial in trials])
    return [
        Curve(tuple(trial.user_attrs["accuracy_by_epoch"]), tuple(trial.values[i] for i in places), traits=tuple(row))
        for trial, row in zip(trials, traits.tolist(), strict=True)
    ]


def replay(stopper: Stopper, curves: Sequence[Curve]) -> tuple[int, list[Curve]]:
    """Epochs trained, and the trials that were finished, had the rule been asked."""
    ended: list[Curve] = []
    epochs = 0
    for whole in curves:
        for epoch in range(len(whole.accuracy)):
            part = replace(whole, accuracy=whole.accuracy[:epoch], finished=False)
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
    """Replay the recordings and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("journals", type=Path, nargs="+")
    parser.add_argument("--costs", default="params,cycles")
    parser.add_argument("--orders", type=int, default=20)
    options = parser.parse_args()
    for journal in options.journals:
        study = optuna.load_study(storage=open_place(journal).storage, study_name=STUDY)
        costs, known = options.costs.split(","), study.metric_names[1:]
        if not set(costs) <= set(known):
            parser.error(f"--costs {options.costs}: allowed are {','.join(known)} and parts of it")
        curves = curves_of(study, costs)
        everything, best = sum(len(curve.accuracy) for curve in curves), volume(curves, curves)
        print(
            f"{journal.name}: {len(curves)} trials of {len(curves[0].accuracy)} epochs, accuracy and {options.costs};"
        )
        print(f"in the order of the search, then mean (worst) of {options.orders} random orders")
        print(f"{'rule':<24}{'epochs saved':>14}{'volume lost':>13}{'epochs saved':>22}{'volume lost':>20}")
        for name, stopper in {**RULES, "oracle, two epochs": Oracle(curves)}.items():
            found = []
            for seed in range(options.orders + 1):
                order = np.random.default_rng(seed).permutation(len(curves)) if seed else np.arange(len(curves))
                epochs, done = replay(stopper, [curves[i] for i in order])
                found.append((everything / epochs, 1 - volume(done, curves) / best))
            (saved, lost), others = found[0], np.array(found[1:])
            mean = others.mean(axis=0)
            print(
                f"{name:<24}{saved:>13.2f}x{lost:>13.2%}{mean[0]:>13.2f}x ({others[:, 0].min():.2f}x)"
                f"{mean[1]:>11.2%} ({others[:, 1].max():.2%})",
                flush=True,
            )


if __name__ == "__main__":
    main()
