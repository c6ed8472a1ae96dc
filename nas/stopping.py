"""When to stop a training of a search of several objectives: rules by which a candidate is given up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from nas.curves import Curve, safe_lead
from vit.errors import require_float

ENOUGH = 5  # finished trainings, before which nothing is known of how curves cross


class Stopper(Protocol):
    """A rule that `nas.search` asks after every epoch but the last."""

    def stops(self, curve: Curve, others: Sequence[Curve]) -> bool:
        """Whether to stop the training of `curve`, given those of the trials that ended before, in their order."""

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

    confidence: float = 0.9
    warmup: float = 0.1

    def __post_init__(self) -> None:
        require_float("confidence", self.confidence, 0, 1, open_low=True)
        require_float("warmup", self.warmup, 0, 1)

    def stops(self, curve: Curve, others: Sequence[Curve]) -> bool:
        """Whether another candidate, finished or stopped, is ahead for good."""
        finished = list(dict.fromkeys(other.accuracy for other in others if other.finished))  # twins share one training
        epochs = len(curve.accuracy)
        if len(finished) < ENOUGH or epochs < self.warmup * len(finished[0]):
            return False
        lead = best_rival(curve, others) - curve.accuracy[-1]
        return lead > 0 and lead >= safe_lead(finished, epochs, self.confidence)

    def settings(self) -> dict[str, Any]:
        """The name of the rule and its arguments."""
        return {"rule": "front", **asdict(self)}


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
