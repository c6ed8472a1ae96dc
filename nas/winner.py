"""The winner: which point of the front to go on with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from nas.pareto import front, losses_of
from nas.study import space_of
from vit.config import ViTConfig
from vit.errors import InputError, require_choice, require_float

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

RULES = ("accuracy", "knee")


def pick(study: Study, rule: str = "accuracy", slack: float = 0.0) -> FrozenTrial:
    """The one trial of the front to go on with.

    Args:
        rule: "accuracy" takes the most accurate; among those within `slack` of it the one of the smallest product of
            costs (all other objectives). "knee" takes the one nearest to the point that is best in every objective,
            each scaled to 0..1 over the front.
        slack: accuracy that may be given up for lower costs, as a fraction (0.01 is one point).

    Raises:
        InputError: unknown rule, slack outside [0, 1] or with "knee", no finished trial, or "accuracy" where that is no
            objective.
    """
    require_choice("rule", rule, RULES)
    require_float("slack", slack, 0, 1)
    if rule == "knee" and slack:
        raise InputError("slack", slack, "0 with the rule knee, which weighs accuracy against the costs itself")
    trials = front(study)
    if not trials:
        raise InputError("study", study.study_name, "a study with a finished trial")
    losses = losses_of(study, trials)
    if rule == "knee":
        span = np.ptp(losses, axis=0)
        scaled = (losses - losses.min(axis=0)) / np.where(span > 0, span, 1.0)
        return trials[int(np.argmin((scaled**2).sum(axis=1)))]
    names = study.metric_names or []
    if "accuracy" not in names:
        raise InputError("rule", rule, "knee, where accuracy is no objective")
    column = names.index("accuracy")
    error, costs = losses[:, column], np.delete(losses, column, axis=1)
    near = np.flatnonzero(error <= error.min() + slack + 1e-12)
    product = [math.fsum(math.log(max(cost, 1e-12)) for cost in costs[i]) for i in near]
    return trials[int(near[int(np.argmin(product))])]


def best_config(study: Study, rule: str = "accuracy", slack: float = 0.0) -> ViTConfig:
    """The architecture of the trial that `pick` takes, in a study that `search` made."""
    return space_of(study).config(pick(study, rule, slack).params)
