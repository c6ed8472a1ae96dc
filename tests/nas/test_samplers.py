from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution

from nas.samplers import GENERAL, FeasibleSampler, general_sampler, seed_of
from vit import InputError

SPACE = {name: CategoricalDistribution(list(range(5))) for name in "abc"}


def feasible(params: dict[str, Any]) -> bool:
    return params["a"] + params["b"] == params["c"]


@pytest.mark.parametrize("name", GENERAL)
def test_only_feasible_candidates_become_trials(name: str) -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    for i in range(30):
        inner = general_sampler(name, seed_of(0, i))
        study.sampler = FeasibleSampler(inner, SPACE, feasible, lambda: {"a": 1, "b": 1, "c": 2})
        trial = study.ask(SPACE)
        study.tell(trial, (trial.params["a"], -trial.params["b"]))
    assert all(feasible(trial.params) for trial in study.trials)
    assert len({tuple(trial.params.values()) for trial in study.trials}) > 3


def test_the_fallback_steps_in_where_the_sampler_finds_nothing() -> None:
    only = {"a": 1, "b": 2, "c": 3}
    study = optuna.create_study()
    study.sampler = FeasibleSampler(optuna.samplers.RandomSampler(seed=0), SPACE, lambda params: False, lambda: only)
    assert study.ask(SPACE).params == only


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'nsga2'"):
        general_sampler("nsga", 0)


def test_seeds_differ_by_trial() -> None:
    assert len({seed_of(seed, done) for seed in range(10) for done in range(10)}) == 100
