"""Pictures of a study: its Pareto front, its progress, which parameters matter, and what the front has in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.importance import importances
from nas.pareto import finished, front, hypervolume_history
from nas.study import inherits
from vit.errors import InputError, require_choice
from vit.files import written_aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna.study import Study

SIZE, DPI = (6.4, 4.2), 150
CHOICES = 8  # values of a parameter that are shown each on its own; more are a range
FRONT, DOMINATED = "#1f6f8b", "#b8c4c9"


def plot_front(study: Study, path: str | Path | None = None, x: str | None = None, y: str | None = None) -> Figure:
    """All trials by two objectives: those of the front (in all objectives) and the dominated ones.

    Args:
        study: one with at least two objectives.
        path: where to write the picture; the suffix decides its format. None writes none.
        x, y: objectives; left out, y is accuracy (or the first) and x the last of the others.

    Raises:
        InputError: fewer than two objectives, x or y is none of them, or `path` cannot be written.
    """
    names = study.metric_names or [f"objective {i}" for i in range(len(study.directions))]
    if len(names) < 2:
        raise InputError("study", study.study_name, "a study of at least two objectives")
    y = require_choice("y", y or ("accuracy" if "accuracy" in names else names[0]), names)
    x = require_choice("x", x or [name for name in names if name != y][-1], names)
    columns = [names.index(x), names.index(y)]
    best = {trial.number for trial in front(study)}
    points = np.array([[trial.values[i] for i in columns] for trial in finished(study)]).reshape(-1, 2)
    on_front = np.array([trial.number in best for trial in finished(study)], dtype=bool)
    figure = _figure()
    axes = figure.add_subplot()
    axes.scatter(
        points[~on_front, 0], points[~on_front, 1], s=22, color=DOMINATED, label=f"dominated ({(~on_front).sum()})"
    )
    axes.scatter(
        points[on_front, 0], points[on_front, 1], s=34, color=FRONT, label=f"Pareto front ({on_front.sum()})", zorder=3
    )
    if len(points) and points[:, 0].min() > 0 and points[:, 0].max() > 20 * points[:, 0].min():
        axes.set_xscale("log")
    inherited = "with the weights of a supernet" if inherits(study) else ""
    axes.set(xlabel=x, ylabel=y, title=f"Candidates of the search {inherited}".strip())
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return _written(figure, path)


def plot_hypervolume(study: Study, path: str | Path | None = None) -> Figure:
    """The hypervolume of the front after each trial, as a fraction of that after the last."""
    history = hypervolume_history(study)
    last = history[-1] if len(history) and history[-1] > 0 else 1.0
    figure = _figure()
    axes = figure.add_subplot()
    axes.step(np.arange(1, len(history) + 1), history / last, where="post", color=FRONT)
    axes.set(xlabel="finished trials", ylabel="hypervolume / final", ylim=(0, 1.05), title="Progress of the search")
    axes.grid(alpha=0.25)
    return _written(figure, path)


def plot_importances(study: Study, path: str | Path | None = None) -> Figure:
    """How much of the variance of each objective each parameter explains: one group of bars a parameter."""
    shares = importances(study)
    figure = _figure()
    axes = figure.add_subplot()
    parameters = list(dict.fromkeys(name for found in shares.values() for name in found))
    height = 0.8 / max(1, len(shares))
    for i, (objective, found) in enumerate(shares.items()):
        places = np.arange(len(parameters)) + i * height
        axes.barh(places, [found[name] for name in parameters], height, label=objective)
    axes.set_yticks(np.arange(len(parameters)) + 0.4 - height / 2, parameters)
    axes.invert_yaxis()
    axes.set(xlabel="share of the variance", xlim=(0, 1), title="Parameter importances")
    axes.grid(alpha=0.25, axis="x")
    if shares:
        axes.legend(frameon=False)
    return _written(figure, path)


def plot_parallel(study: Study, path: str | Path | None = None) -> Figure:
    """Every finished trial as a line over its parameters and its objectives; those of the front in colour, on top."""
    trials, best = finished(study), {trial.number for trial in front(study)}
    objectives = study.metric_names or [f"objective {i}" for i in range(len(study.directions))]
    parameters = list(trials[0].params) if trials else []
    scales = [_Scale([trial.params[name] for trial in trials]) for name in parameters]
    scales += [_Scale([trial.values[i] for trial in trials], choices=1) for i in range(len(objectives))]
    heights = np.array([scale.heights for scale in scales]).reshape(len(scales), len(trials)).T
    figure = _figure(width=max(SIZE[0], 1.1 * (len(parameters) + len(objectives))))
    axes = figure.add_subplot()
    for trial, line in zip(trials, heights, strict=True):
        on_front = trial.number in best
        axes.plot(line, color=FRONT if on_front else DOMINATED, lw=1.6 if on_front else 0.8, zorder=2 + on_front)
    for x, scale in enumerate(scales):
        axes.axvline(x, color="black", lw=0.6)
        for height, text in scale.ticks:
            axes.text(x + 0.03, height, text, fontsize=7, va="center", zorder=4)
    if trials:
        axes.set_xticks(range(len(scales)), [*parameters, *objectives], rotation=30, ha="right")
    axes.set(yticks=[], ylim=(-0.05, 1.05), title="Candidates of the search, the front in colour")
    return _written(figure, path)


class _Scale:
    """Values of one column between 0 and 1: a few choices each on a place of its own, more numbers by their size."""

    def __init__(self, values: list[Any], choices: int = CHOICES) -> None:
        distinct = sorted(set(values), key=lambda value: (isinstance(value, str), value is not None, value))
        if len(distinct) > choices and not any(value is None or isinstance(value, str) for value in distinct):
            low, high = float(distinct[0]), float(distinct[-1])
            self.heights = [(value - low) / (high - low) for value in values]
            self.ticks = [(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")]
            return
        places = {value: i / max(1, len(distinct) - 1) for i, value in enumerate(distinct)}
        self.heights = [places[value] for value in values]
        self.ticks = [
            (height, f"{value:.4g}" if isinstance(value, float) else str(value)) for value, height in places.items()
        ]


def _figure(width: float = SIZE[0]) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, SIZE[1]), dpi=DPI, layout="constrained")  # no pyplot: nothing global, no display


def _written(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        with written_aside(path) as temporary:
            figure.savefig(temporary)
    return figure
