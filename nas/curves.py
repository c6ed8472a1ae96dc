"""Learning curves: what a training is going to reach, told from those that went to their end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """The training of one candidate.

    Attributes:
        accuracy: on the validation images after each epoch that was trained.
        costs: what is known of the candidate exactly, all to be minimised; in one order for all candidates of a search.
        finished: whether it was trained to the end; if not, it was stopped.
    """

    accuracy: tuple[float, ...]
    costs: tuple[float, ...] = ()
    finished: bool = True


@dataclass(frozen=True)
class Forecast:
    """The final accuracy of a training under way: what is expected, and what it can hardly exceed."""

    expected: float
    high: float


def forecast(accuracy: Sequence[float], finished: Sequence[Sequence[float]], confidence: float = 0.9) -> Forecast:
    """The final accuracy of a training, by what finished ones of the same recipe gained from the same epoch on.

    The final accuracy is a straight line of the accuracy at this epoch, fitted to the finished curves; its slope is
    held between 0 (all end alike) and 1 (all gain alike). `high` adds the gain that a curve like them exceeds with a
    probability of at most 1 - confidence: their ceil((n + 1) * confidence)-th smallest residual (conformal prediction,
    Vovk et al. 2005), so it is infinite for fewer than confidence / (1 - confidence) curves.

    Args:
        accuracy: after each epoch so far, at least one.
        finished: accuracies after each epoch, of trainings of more epochs than `accuracy` has.
    """
    epoch = len(accuracy) - 1
    now, then = np.array([curve[epoch] for curve in finished]), np.array([curve[-1] for curve in finished])
    if not len(now):
        return Forecast(float(accuracy[-1]), math.inf)
    off = now - now.mean()
    spread = float(off @ off)
    slope = min(1.0, max(0.0, float(off @ then) / spread)) if spread else 1.0
    start = then.mean() - slope * now.mean()
    expected = float(start + slope * accuracy[-1])
    rank = math.ceil((len(now) + 1) * confidence - 1e-9)
    if rank > len(now):
        return Forecast(expected, math.inf)
    return Forecast(expected, expected + float(np.sort(then - start - slope * now)[rank - 1]))
