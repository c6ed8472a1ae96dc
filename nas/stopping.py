"""When to stop a training of a search of several objectives: rules by which a candidate is given up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from nas.curves import Curve, safe_lead
from nas.pareto import non_dominated
from vit.errors import require_float, require_int

ENOUGH = 5  # finished trainings, before which nothing is known of how curves cross


class Stopper(Protocol):
    """A rule that `nas.search` asks before a training, without any accuracy yet, and after every epoch but the last."""

    def stops(self, curve: Curve, others: Sequence[Curve], epochs: int) -> bool:
        """Whether to stop the training of `curve`, given those of the trials that ended before, in their order.

        Args:
            epochs: of a whole training.
        """

    def settings(self) -> dict[str, Any]:
        """JSON values that say what the rule does; a study goes on under the same rule only."""


@dataclass(frozen=True)
class FrontStopper:
    """Stops a candidate whose learning curve cannot reach the Pareto front any more.

    Costs are known exactly, so a candidate is off the front if another that is nowhere dearer ends more accurate. It is
    stopped once one of those was so far ahead of it after the same epoch that finished trainings hardly ever made up
    as much (`nas.curves.safe_lead`). A candidate that is cheaper than all others in some cost is never stopped, nor is
    any before five have finished.

    Args:
        confidence: part of the leads that hold to the end; higher stops later.
        warmup: part of the epochs that every candidate is trained.
    """

    confidence: float = 0.8
    warmup: float = 0.1

    def __post_init__(self) -> None:
        require_float("confidence", self.confidence, 0, 1, open_low=True)
        require_float("warmup", self.warmup, 0, 1)

    def stops(self, curve: Curve, others: Sequence[Curve], epochs: int) -> bool:
        """Whether another candidate, finished or stopped, is ahead for good."""
        finished = list(dict.fromkeys(other.accuracy for other in others if other.finished))  # twins share one training
        trained = len(curve.accuracy)
        if len(finished) < ENOUGH or trained < max(1, self.warmup * epochs):
            return False
        lead = best_rival(curve, others) - curve.accuracy[-1]
        return lead > 0 and lead >= safe_lead(finished, trained, self.confidence)

    def settings(self) -> dict[str, Any]:
        """The name of the rule and its arguments."""
        return {"rule": "front", **asdict(self)}


@dataclass(frozen=True)
class Halving:
    """Successive halving by Pareto rank: a few epochs for all, more for the best part, all epochs for its best part.

    After epochs / factor^k epochs (k from `rungs` to 1), a candidate goes on if it is among the best 1 / factor of
    those that came as far, by the number of the front it is on when front after front is taken away. It is decided at
    once and for good, in the order in which candidates come (the stopping rule of ASHA, Li et al. 2020, with ranks as
    in Schmucker et al. 2021), so no worker waits.

    Args:
        factor: one in so many goes on.
        rungs: how often it is decided.
    """

    factor: int = 3
    rungs: int = 2

    def __post_init__(self) -> None:
        require_int("factor", self.factor, low=2)
        require_int("rungs", self.rungs)

    def stops(self, curve: Curve, others: Sequence[Curve], epochs: int) -> bool:
        """Whether the candidate stands at a rung, and too many are on better fronts there."""
        trained = len(curve.accuracy)
        if trained not in {math.ceil(epochs / self.factor**k) for k in range(1, self.rungs + 1)}:
            return False
        here = [curve, *(other for other in others if len(other.accuracy) >= trained)]
        losses = np.array([[-one.accuracy[trained - 1], *one.costs] for one in here])
        better = 0
        while not (best := non_dominated(losses))[0]:
            better += int(best.sum())
            losses = losses[~best]
        return better >= math.ceil(len(here) / self.factor)

    def settings(self) -> dict[str, Any]:
        """The name of the rule and its arguments."""
        return {"rule": "halving", **asdict(self)}


def best_rival(curve: Curve, others: Sequence[Curve]) -> float:
    """The highest accuracy after as many epochs of a candidate that is nowhere dearer; -inf if there is none."""
    epochs = len(curve.accuracy)
    return max(
        (
            other.accuracy[epochs - 1]
            for other in others
            if len(other.accuracy) >= epochs and all(a <= b for a, b in zip(other.costs, curve.costs, strict=True))
        ),
        default=-math.inf,
    )
