"""Pictures of a study: its Pareto front among all trials, and its hypervolume as the trials went on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas.pareto import finished, front, hypervolume_history
from vit.errors import InputError, require_choice
from vit.files import written_aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna.study import Study

SIZE, DPI = (6.4, 4.2), 150
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
    axes.set(xlabel=x, ylabel=y, title="Candidates of the search")
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


def _figure() -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=SIZE, dpi=DPI, layout="constrained")  # no pyplot: nothing global, no display


def _written(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        with written_aside(path) as temporary:
            figure.savefig(temporary)
    return figure
