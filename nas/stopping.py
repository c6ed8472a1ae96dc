"""When to stop a training of a search of several objectives: rules by which a candidate is given up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from nas.curves import Curve, forecast
from vit.errors import require_float, require_int


class Stopper(Protocol):
    """A rule that `nas.search` asks after every epoch but the last."""

    def stops(self, curve: Curve, others: Sequence[Curve]) -> bool:
        """Whether to stop the training of `curve`, given those of the trials that ended before, in their order."""

    def settings(self) -> dict[str, Any]:
        """JSON values that say what the rule does; a study goes on under the same rule only."""


@dataclass(frozen=True)
class FrontStopper:
    """Stops a candidate whose learning curve cannot reach the Pareto front any more.

    Its costs are known exactly, so the front asks a certain accuracy of it: the best that a finished candidate has
    which is nowhere dearer. It stops once its final accuracy is forecast to stay below that even where it gains as much
    as it can hardly do (`nas.curves.forecast`). A candidate that is cheaper than all finished ones in some cost is
    never stopped, nor is any before enough have finished: confidence / (1 - confidence).

    Args:
        confidence: part of the candidates that gain no more than the forecast grants them; higher stops later.
        warmup: epochs that every candidate is trained.
        slack: accuracy by which a candidate has to beat the front, for its training to go on; 0.001 is a tenth of a
            point.
    """

    confidence: float = 0.9
    warmup: int = 1
    slack: float = 0.0

    def __post_init__(self) -> None:
        require_float("confidence", self.confidence, 0, 1, open_low=True, open_high=True)
        require_int("warmup", self.warmup)
        require_float("slack", self.slack, 0, 1)

    def stops(self, curve: Curve, others: Sequence[Curve]) -> bool:
        """Whether the candidate would be dominated even at the highest accuracy forecast."""
        if len(curve.accuracy) < self.warmup:
            return False
        finished = [other for other in others if other.finished]
        asked = bar(curve, finished)
        if asked == -math.inf:
            return False
        distinct = list(dict.fromkeys(other.accuracy for other in finished))  # twins share one training
        high = forecast(curve.accuracy, distinct, self.confidence).high
        return high <= asked + self.slack

    def settings(self) -> dict[str, Any]:
        """The name of the rule and its arguments."""
        return {"rule": "front", **asdict(self)}


def bar(curve: Curve, finished: Sequence[Curve]) -> float:
    """The accuracy that the candidate must exceed to be on the front; -inf if it is there with any."""
    rivals = [other for other in finished if all(a <= b for a, b in zip(other.costs, curve.costs, strict=True))]
    return max((other.accuracy[-1] for other in rivals), default=-math.inf)
