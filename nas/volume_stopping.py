"""Stop a training of a search once the hypervolume it is expected to add is not worth the rest of its epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit, stdtrit

from nas.curves import Curve
from nas.pareto import hypervolume, non_dominated
from vit.errors import require_float

Floats = npt.NDArray[np.float64]
ENOUGH = 6  # finished trainings, before which nothing is stopped
MARGIN = 0.1  # of the range that occurred, from its worst value to the reference: what is best in one cost counts, too
INSIDE = 0.01  # accuracies are kept as far from 0 and 1 before the logit
SLOPE, SHRINKAGE = 0.5, 6.0  # prior of the regression: of the last accuracy's coefficient; weight of the prior
SPREAD, WEIGHT = 0.4, 4.0  # prior of its residual, in logits, and how many trainings that counts for
LEVELS = (np.arange(16) + 0.5) / 16  # of the quantiles that stand for the final accuracy


@dataclass(frozen=True)
class VolumeStopper:
    """Stops a candidate once the hypervolume it is expected to add is a negligible part of the front's.

    Before a training and after each of its epochs the final accuracy is foretold, with its uncertainty, from the curve
    so far, the exact costs and what the candidate is (`foretold`), by trainings that finished. With the costs known the
    gain in hypervolume follows for any accuracy, and its expectation is compared with the volume of the trials that
    finished. The reference is somewhat beyond the worst value of each objective that occurred. Nothing is stopped
    before six have finished.

    Other than by `FrontStopper`, a candidate is stopped that may still reach the front where it adds next to nothing.

    Args:
        price: part of the front's hypervolume that a training has to be expected to add; for the rest of one, as much
            less as epochs are behind it.
        warmup: part of the epochs that every candidate is trained; with 0 some are not trained at all.
    """

    price: float = 0.002
    warmup: float = 0.0

    def __post_init__(self) -> None:
        require_float("price", self.price, 0, 1, open_low=True)
        require_float("warmup", self.warmup, 0, 1)

    def stops(self, curve: Curve, others: Sequence[Curve], epochs: int) -> bool:
        """Whether too little is expected of the rest of the training."""
        finished = [other for other in others if other.finished]
        if len(finished) < ENOUGH or len(curve.accuracy) < self.warmup * epochs:
            return False
        finals = foretold(curve, finished)
        losses = np.array([_losses(other.accuracy[-1], other) for other in finished])
        costs = np.array([_losses(0.0, other)[1:] for other in (*others, curve)])
        low, high = losses.min(axis=0), losses.max(axis=0)
        low[1:], high[1:] = costs.min(axis=0), costs.max(axis=0)
        high[0] = max(high[0], -finals.mean())
        reference = high + MARGIN * np.where(high > low, high - low, 1.0)
        gain, volume = expected_gain(finals, costs[-1], losses, reference)
        rest = 1 - len(curve.accuracy) / epochs
        return bool(gain < self.price * rest * volume)

    def settings(self) -> dict[str, Any]:
        """The name of the rule and its arguments."""
        return {"rule": "volume", **asdict(self)}


def foretold(curve: Curve, finished: Sequence[Curve]) -> Floats:
    """Quantiles, at the LEVELS, of the accuracy that a training ends with.

    Bayesian linear regression of the final accuracy's logit on that of the last epoch and its rise over the last epoch,
    if there are any, on the logarithms of the costs and on the traits, with a conjugate prior: the prediction is a
    Student t (Gelman et al., "Bayesian Data Analysis", 3rd edition, section 14.8). Before any data, half of a lead is
    kept to the end.

    Args:
        curve: any number of epochs, also none.
        finished: at least two whole trainings of the same recipe.
    """
    epoch = len(curve.accuracy)
    rows = np.array([_features(one, epoch) for one in (*finished, curve)])
    targets = _logit(np.array([one.accuracy[-1] for one in finished]))
    centre, scale = rows[:-1].mean(axis=0), rows[:-1].std(axis=0)
    rows = (rows - centre) / np.where(scale > 1e-12, scale, 1.0)
    prior = np.zeros(rows.shape[1])
    prior[:1] = SLOPE * scale[:1] if epoch else 0.0
    known, here, count = rows[:-1], rows[-1], len(finished)
    precision = known.T @ known + SHRINKAGE * np.eye(len(prior))
    surprise = targets - targets.mean() - known @ prior
    change = np.linalg.solve(precision, known.T @ surprise)
    residual = surprise - known @ change
    freedom = count - 1 + WEIGHT
    squares = residual @ residual + SHRINKAGE * change @ change + WEIGHT * SPREAD**2
    leverage = 1 + 1 / count + here @ np.linalg.solve(precision, here)
    centre_here = targets.mean() + here @ (prior + change)
    spread = np.sqrt(squares / freedom * leverage)
    quantiles: Floats = expit(centre_here + spread * stdtrit(freedom, LEVELS))
    return quantiles


def expected_gain(finals: Floats, costs: Floats, losses: Floats, reference: Floats) -> tuple[float, float]:
    """Mean growth of the hypervolume by a candidate over equally likely accuracies, and the hypervolume without it.

    Between two neighbouring accuracies of the front, the candidate adds the part of its costs' volume that none of the
    more accurate ones covers.

    Args:
        finals: accuracies the candidate may end with.
        costs: (costs,) of the candidate, exactly.
        losses: (points, 1 + costs) found so far: minus accuracy, then the costs.
        reference: (1 + costs,).
    """
    front = losses[non_dominated(losses)]
    accuracy, prices, corner = -front[:, 0], front[:, 1:], reference[1:]
    own = float(np.prod(corner - costs))
    levels = np.unique(np.append(accuracy[accuracy > -reference[0]], -reference[0]))
    gain = volume = 0.0
    for level, above in zip(levels, np.append(levels[1:], np.inf), strict=True):
        better = prices[accuracy > level]
        added = float(np.mean(np.clip(finals, level, above) - level))
        gain += added * (own - hypervolume(np.maximum(better, costs), corner)) if added else 0.0
        volume += (above - level) * hypervolume(better, corner) if len(better) else 0.0
    return gain, volume


def _losses(accuracy: float, curve: Curve) -> list[float]:
    """Minus accuracy, then the costs; one that is the same for all where there is none."""
    return [-accuracy, *(curve.costs or (0.0,))]


def _features(curve: Curve, epoch: int) -> list[float]:
    reached = _logit(np.array(curve.accuracy[max(0, epoch - 2) : epoch]))
    lead = [reached[-1], reached[-1] - reached[0]] if epoch else []
    return [*lead, *np.log(np.maximum(curve.costs, 1e-12)), *curve.traits]


def _logit(accuracy: Floats) -> Floats:
    found: Floats = logit(np.clip(accuracy, INSIDE, 1 - INSIDE))
    return found
