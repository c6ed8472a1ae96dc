"""The general samplers of Optuna, held to feasible candidates and seeded trial by trial."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from vit.errors import require_choice

GENERAL = ("tpe", "nsga2", "random")
ATTEMPTS = 50  # proposals asked of a sampler before a feasible candidate is drawn instead


def seed_of(seed: int, done: int) -> int:
    """The seed of the trial that starts after `done` finished ones, so that a resumed study draws the same."""
    return int(np.random.SeedSequence([seed, done]).generate_state(1)[0])


def general_sampler(name: str, seed: int) -> BaseSampler:
    """Optuna's TPE, NSGA-II or random sampler; an InputError for another name."""
    require_choice("sampler", name, GENERAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # multivariate TPE
        if name == "tpe":
            return TPESampler(multivariate=True, seed=seed)
        return NSGAIISampler(population_size=20, seed=seed) if name == "nsga2" else RandomSampler(seed=seed)


class FeasibleSampler(BaseSampler):
    """Any sampler, asked again until it names a feasible candidate; nothing infeasible becomes a trial.

    Args:
        inner: the sampler that is asked.
        space: the distribution of every parameter.
        feasible: whether a candidate may be tried.
        fallback: a feasible candidate, for when the sampler names none in ATTEMPTS proposals.
    """

    def __init__(
        self,
        inner: BaseSampler,
        space: Mapping[str, BaseDistribution],
        feasible: Callable[[dict[str, Any]], bool],
        fallback: Callable[[], dict[str, Any]],
    ) -> None:
        self._inner, self._space, self._feasible, self._fallback = inner, dict(space), feasible, fallback

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        joint = self._inner.infer_relative_search_space(study, trial)
        for _ in range(ATTEMPTS):
            params = self._inner.sample_relative(study, trial, joint)
            for name, distribution in self._space.items():
                if name not in params:
                    params[name] = self._inner.sample_independent(study, trial, name, distribution)
            if self._feasible(params):
                return params
        return self._fallback()

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._inner.after_trial(study, trial, state, values)
