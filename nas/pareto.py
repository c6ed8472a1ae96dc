"""Pareto fronts: what no candidate beats in everything, and the volume it dominates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vit.errors import InputError

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

Floats = npt.NDArray[np.float64]


def non_dominated(losses: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which points no other point dominates: as good in every column and better in one.

    Args:
        losses: (points, objectives), all to be minimised. Equal points do not dominate each other.

    Returns:
        A mask of shape (points,).

    Raises:
        InputError: losses of another shape, or NaN among them.
    """
    return _kept(_points(losses))


def _kept(points: Floats) -> npt.NDArray[np.bool_]:
    kept = np.ones(len(points), dtype=np.bool_)
    for i, point in enumerate(points):
        if kept[i]:  # a point that is dominated itself has a dominator that rules out whatever it would
            kept &= ~((points >= point).all(axis=1) & (points > point).any(axis=1))
    return kept


def hypervolume(losses: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Volume between the points and the reference: of all that is worse than a point and better than the reference.

    Exact in any number of objectives, by slicing along the last one (While et al. 2006, "A faster algorithm for
    calculating hypervolume", section II); fast for the fronts of a few hundred points in two or three of them.

    Args:
        losses: (points, objectives), all to be minimised. Points not better than the reference in every column add 0.
        reference: (objectives,).

    Raises:
        InputError: shapes that do not go together, or NaN.
    """
    points, corner = _points(losses), _numbers("reference", reference)
    if corner.ndim != 1 or not corner.size or (len(points) and corner.shape != points.shape[1:]):
        columns = f"{points.shape[1]}" if len(points) else "at least one"
        raise InputError("reference", corner.tolist(), f"a list of numbers, one an objective: {columns}")
    if not len(points):
        return 0.0
    points = points[(points < corner).all(axis=1)]
    return _volume(points if corner.size <= 2 else points[_kept(points)], corner)


def _volume(points: Floats, corner: Floats) -> float:
    if not len(points):
        return 0.0
    if len(corner) == 1:
        return float(corner[0] - points.min())
    points = points[np.lexsort(points.T)]  # by the last objective
    if len(corner) == 2:
        best = np.minimum.accumulate(points[:, 0])
        heights = np.append(points[1:, 1], corner[1]) - points[:, 1]
        return float(heights @ (corner[0] - best))
    heights = np.append(points[1:, -1], corner[-1]) - points[:, -1]
    total, slice_front = 0.0, points[:0, :-1]
    for point, height in zip(points[:, :-1], heights, strict=True):
        slice_front = np.vstack([slice_front, point])
        slice_front = slice_front[_kept(slice_front)]
        if height > 0:
            total += float(height) * _volume(slice_front, corner[:-1])
    return total


def finished(study: Study) -> list[FrozenTrial]:
    """The completed trials, in the order they were started."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def ended(study: Study) -> list[FrozenTrial]:
    """The trials that came to an end, completed or stopped on the way, in the order they were started."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def losses_of(study: Study, trials: Sequence[FrozenTrial]) -> Floats:
    """(trials, objectives) with every objective to be minimised: what is maximised has its sign changed."""
    signs = signs_of(study)
    return np.array([trial.values for trial in trials], dtype=float).reshape(len(trials), len(signs)) * signs


def finite(losses: Floats) -> Floats:
    """Losses with the worst finite one of an objective in place of +inf, and the best in place of -inf."""
    bounded = losses.copy()
    for column in bounded.T:
        known = column[np.isfinite(column)]
        low, high = (known.min(), known.max()) if len(known) else (0.0, 0.0)
        np.clip(column, low, high, out=column)
    return bounded


def front(study: Study) -> list[FrozenTrial]:
    """The non-dominated trials; of trials with the same candidate the first."""
    trials = list({repr(sorted(trial.params.items())): trial for trial in reversed(finished(study))}.values())[::-1]
    return [trial for trial, kept in zip(trials, non_dominated(losses_of(study, trials)), strict=True) if kept]


def hypervolume_history(study: Study, reference: Sequence[float] | None = None) -> Floats:
    """Hypervolume after each completed trial.

    Args:
        reference: values of the objectives, as the study has them. None takes the worst value of each that occurred.
            Each objective is scaled to 1 between the best value that occurred and the reference. An infinite value
            counts as the worst finite one (or best).
    """
    losses, signs = finite(losses_of(study, finished(study))), signs_of(study)
    if reference is not None and len(reference) != len(signs):
        raise InputError("reference", list(reference), f"{len(signs)} numbers, one an objective")
    if not len(losses):
        return np.zeros(0)
    corner = losses.max(axis=0) if reference is None else np.array(reference, dtype=float) * signs
    best = losses.min(axis=0)
    span = np.where(corner > best, corner - best, 1.0)
    scaled, target = (losses - best) / span, (corner - best) / span
    history: list[float] = []
    for i, point in enumerate(scaled):
        better = (scaled[:i] <= point).all(axis=1).any()  # then the front stays as it is
        history.append(history[-1] if better else hypervolume(scaled[: i + 1], target))
    return np.array(history)


def signs_of(study: Study) -> Floats:
    """(objectives,): -1 for what is maximised, 1 for what is minimised."""
    from optuna.study import StudyDirection

    return np.array([-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in study.directions])


def _points(losses: npt.ArrayLike) -> Floats:
    points = _numbers("losses", losses)
    points = points.reshape(0, 1) if points.ndim < 2 and not points.size else np.atleast_2d(points)
    if points.ndim > 2:
        raise InputError("losses", f"shape {points.shape}", "of shape (points, objectives)")
    return points


def _numbers(name: str, values: npt.ArrayLike) -> Floats:
    allowed = "numbers, none of them NaN, as many in every row"
    try:
        found = np.asarray(values, dtype=float)
    except (ValueError, TypeError) as error:
        raise InputError(name, values, allowed) from error
    if np.isnan(found).any():
        raise InputError(name, found.tolist(), allowed)
    return found
