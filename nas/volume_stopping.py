"""Stop a training of a search once the hypervolume it is expected to add is not worth the rest of its epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit, logit, ndtri

from nas.curves import Curve
from nas.pareto import hypervolume, non_dominated
from vit.errors import require_float

Floats = npt.NDArray[np.float64]
ENOUGH = 6  # finished trainings, before which nothing is stopped
MARGIN = 0.1  # of the range that occurred, from its worst value to the reference: what is best in one cost counts, too
INSIDE = 0.01  # accuracies are kept as far from 0 and 1 before the logit
LEVELS = (np.arange(16) + 0.5) / 16  # of the quantiles that stand for the final accuracy
MOST = 400  # accuracies that the final one is foretold from

# Variances, in squared logits, of what makes accuracies differ from the mean curve (see `foretold`).
LINEAR, SMOOTH, REACH = 0.1, 0.15, 1.5  # what candidates alike have in common; how far apart they still are alike
LASTING = 0.6  # part of that which holds for all epochs
OWN, OWN_MOVING = 0.05, 0.05  # of a candidate alone: for all epochs, and with the epoch
COMMON = 0.1  # of all candidates, against the mean of those that finished
NOISE, EARLY_NOISE, CALM = 0.04, 0.15, 1.5  # of an epoch; of the first one more, which goes down by e in so many epochs


@dataclass(frozen=True)
class VolumeStopper:
    """Stops a candidate once the hypervolume it is expected to add is a negligible part of the front's.

    Before a training and after each of its epochs the final accuracy is foretold, with its uncertainty, from all curves
    so far, the exact costs, and what the candidates are (`foretold`). With the costs known the gain in hypervolume
    follows for any accuracy, and its expectation is compared with the volume of the trials that finished. The reference
    is somewhat beyond the worst value of each objective that occurred. Nothing is stopped before six have finished.

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
        finals = foretold(curve, others)
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


def foretold(curve: Curve, others: Sequence[Curve]) -> Floats:
    """Quantiles, at the LEVELS, of the accuracy that a training ends with.

    A Gaussian process over candidates and epochs in the logits of accuracies, as in freeze-thaw optimisation (Swersky
    et al. 2014): the mean curve of the finished trainings, and normal deviations from it that candidates have in common
    the more alike they are, in the logarithms of their costs and in their traits, and others of each alone; part of
    both lasts for all epochs, and part changes with the logarithm of the epoch.

    Args:
        curve: any number of epochs, also none.
        others: at least one whole training among them, all of the same recipe.
    """
    distinct = {(other.accuracy, other.costs, other.traits): other for other in others if other.accuracy}
    trainings = [*distinct.values(), curve]
    mean = _logit(np.array([other.accuracy for other in trainings[:-1] if other.finished])).mean(axis=0)
    alike = _alike(np.array([[*np.log(np.maximum(one.costs, 1e-12)), *one.traits] for one in trainings]))
    seen = [(i, epoch) for i in np.argsort(-alike[-1], kind="stable") for epoch in _looked_at(trainings[i])][:MOST]
    last, final = len(trainings) - 1, len(mean)
    owner, epoch = np.array([*seen, (last, final)]).T
    accuracy = np.array([trainings[i].accuracy[e - 1] for i, e in seen])
    surprise = _logit(accuracy) - mean[epoch[:-1] - 1]
    moving = np.exp(-(np.log(epoch[:, None] / epoch) ** 2) / 2)
    covariance = alike[np.ix_(owner, owner)] * (LASTING + (1 - LASTING) * moving)
    covariance += (owner[:, None] == owner) * (OWN + OWN_MOVING * moving) + COMMON
    covariance += np.diag(NOISE + EARLY_NOISE * np.exp((1 - epoch) / CALM))
    known, here = cho_factor(covariance[:-1, :-1], lower=True), covariance[-1, :-1]
    centre = mean[-1] + here @ cho_solve(known, surprise)
    spread = np.sqrt(covariance[-1, -1] - here @ cho_solve(known, here))
    quantiles: Floats = expit(centre + spread * ndtri(LEVELS))
    return quantiles


def _alike(what: Floats) -> Floats:
    """Covariance of candidates by what is known of them, (candidates, numbers): linear, and a Matern 3/2."""
    scale = what.std(axis=0)
    rows = (what - what.mean(axis=0)) / np.where(scale > 1e-12, scale, 1.0)
    count = max(1, rows.shape[1])
    apart = np.sqrt(3 * ((rows[:, None] - rows) ** 2).sum(axis=-1) / count) / REACH
    found: Floats = LINEAR * (rows @ rows.T) / count + SMOOTH * (1 + apart) * np.exp(-apart)
    return found


def _looked_at(curve: Curve) -> list[int]:
    """The epochs of a curve that tell about all it does: two each time their number doubles, and the last."""
    count = len(curve.accuracy)
    spaced = {round(2 ** (half / 2)) for half in range(2 * count.bit_length())}
    return sorted({epoch for epoch in spaced if epoch < count} | ({count} if count else set()))


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


def _logit(accuracy: Floats) -> Floats:
    found: Floats = logit(np.clip(accuracy, INSIDE, 1 - INSIDE))
    return found
