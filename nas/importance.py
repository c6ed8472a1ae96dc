"""Which parameters matter for which objective, by the finished trials of a study."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from optuna.exceptions import ExperimentalWarning
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from nas.pareto import finished

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

ENOUGH = 4  # finished trials, below which nothing can be told


def importances(study: Study) -> dict[str, dict[str, float]]:
    """{objective: {parameter: share of the variance it explains}}, the shares of an objective summing to 1.

    By functional ANOVA on a forest (Hutter et al. 2014), as Optuna computes it. An objective that does not vary is left
    out, and so is every one of a study of fewer than 4 finished trials.
    """
    trials = finished(study)
    names = study.metric_names or [f"objective {i}" for i in range(len(study.directions))]
    found: dict[str, dict[str, float]] = {}
    for i, name in enumerate(names):
        if len(trials) < ENOUGH or len({trial.values[i] for trial in trials}) < 2:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            evaluator = FanovaImportanceEvaluator(seed=0)
            found[name] = get_param_importances(study, evaluator=evaluator, target=_value(i))
    return found


def _value(index: int) -> Callable[[FrozenTrial], float]:
    return lambda trial: float(trial.values[index])
