"""Learning curves: what they tell of trainings that are not at their end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Curve:
    """The training of one candidate.

    Attributes:
        accuracy: on the validation images after each epoch that was trained.
        costs: what is known of the candidate exactly, all to be minimised; in one order for all candidates of a search.
        finished: whether it was trained to the end; if not, it was stopped.
        traits: numbers that say what the candidate is, as many for all; the nearer, the more alike.
    """

    accuracy: tuple[float, ...]
    costs: tuple[float, ...] = ()
    finished: bool = True
    traits: tuple[float, ...] = ()


def expected_final(accuracy: Sequence[float], finished: Sequence[Sequence[float]]) -> float:
    """The final accuracy of a training, by what finished ones of the same recipe gained from the same epoch on.

    It is a straight line of the accuracy at this epoch, fitted to the finished curves; its slope is held between 0 (all
    end alike) and 1 (all gain alike).

    Args:
        accuracy: after each epoch so far, at least one.
        finished: accuracies after each epoch of whole trainings.
    """
    if not finished:
        return float(accuracy[-1])
    epoch = len(accuracy) - 1
    now, then = np.array([curve[epoch] for curve in finished]), np.array([curve[-1] for curve in finished])
    off = now - now.mean()
    spread = float(off @ off)
    slope = min(1.0, max(0.0, float(off @ then) / spread)) if spread else 1.0
    return float(then.mean() + slope * (accuracy[-1] - now.mean()))


def safe_lead(finished: Sequence[Sequence[float]], epochs: int, confidence: float) -> float:
    """The smallest lead in accuracy after so many epochs that tells who is ahead in the end.

    Of all pairs of finished trainings with at least that lead, the one behind ended ahead in at most 1 - confidence.
    Infinite where no lead is as safe as that, or no two trainings differ.
    """
    now, then = (np.array([curve[i] for curve in finished], dtype=float) for i in (epochs - 1, -1))
    lead, overtaken = now[:, None] - now, then[:, None] < then  # of the row over the column
    ahead = lead > 0
    falling = np.argsort(-lead[ahead], kind="stable")
    leads, share = lead[ahead][falling], np.cumsum(overtaken[ahead][falling]) / np.arange(1, ahead.sum() + 1)
    last_of_equals = np.append(leads[1:] < leads[:-1], True)[: len(leads)]
    safe = np.flatnonzero((share <= 1 - confidence + 1e-12) & last_of_equals)
    return float(leads[safe[-1]]) if len(safe) else math.inf
