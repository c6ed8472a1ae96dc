import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from nas import CostAwareSampler, hypervolume
from nas.cost_aware import radical_inverse
from nas.pareto import losses_of
from vit import InputError

SPACE = {
    "op": CategoricalDistribution(["a", "b", "c"]),
    "width": IntDistribution(1, 12),
    "depth": CategoricalDistribution([1, 2, 4]),
}


def cost(params: dict[str, Any]) -> float:
    return params["width"] * params["depth"] * {"a": 1.0, "b": 2.0, "c": 1.5}[params["op"]]


def accuracy(params: dict[str, Any]) -> float:
    gain = {"a": 0.5, "b": 0.9, "c": 0.3}[params["op"]]
    return gain * (1 - 1 / (params["width"] * params["depth"] ** 0.5 + 1))


def run(sampler: optuna.samplers.BaseSampler, trials: int, study: optuna.Study | None = None) -> optuna.Study:
    study = study or optuna.create_study(directions=["maximize", "minimize"])
    study.sampler = sampler

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        params = {name: trial._suggest(name, distribution) for name, distribution in SPACE.items()}
        return accuracy(params), cost(params)

    study.optimize(objective, n_trials=trials)
    return study


def params_of(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.trials]


def volume(study: optuna.Study) -> float:
    return hypervolume(losses_of(study, study.trials), [0.0, 100.0])


def cost_aware(seed: int | None = 0, **options: Any) -> CostAwareSampler:
    return CostAwareSampler(SPACE, {1: cost}, seed=seed, **options)


def test_it_finds_the_front_with_fewer_trials_than_random_search() -> None:
    for seed in range(3):
        informed = volume(run(cost_aware(seed), 20))
        assert informed > volume(run(optuna.samplers.RandomSampler(seed=seed), 20))
        assert informed > volume(run(optuna.samplers.TPESampler(seed=seed), 20))


def test_same_seed_same_trials_wherever_it_stops() -> None:
    whole = run(cost_aware(3), 18)
    parts = run(cost_aware(3), 5)
    for trials in (2, 6, 5):
        parts = run(cost_aware(3), trials, parts)
    assert params_of(parts) == params_of(whole)
    assert params_of(run(cost_aware(4), 18)) != params_of(whole)
    assert params_of(run(cost_aware(None), 18)) != params_of(run(cost_aware(None), 18))


def test_no_candidate_twice_until_all_are_tried() -> None:
    few = {"op": SPACE["op"], "depth": SPACE["depth"]}
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.sampler = CostAwareSampler(few, {1: lambda p: cost(p | {"width": 1})}, seed=0, startup=3)
    for _ in range(11):
        trial = study.ask(few)
        params = trial.params | {"width": 1}
        study.tell(trial, (accuracy(params), cost(params)))
    tried = [tuple(params.values()) for params in params_of(study)]
    assert len(set(tried[:9])) == 9


def test_parallel_workers_spread_out() -> None:
    study = run(cost_aware(), 12)
    batch = [study.ask(SPACE) for _ in range(8)]
    assert len({tuple(trial.params.values()) for trial in batch}) == 8
    for trial in batch:
        study.tell(trial, (accuracy(trial.params), cost(trial.params)))
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)


def test_infeasible_candidates_are_neither_priced_nor_proposed() -> None:
    def allowed(params: dict[str, Any]) -> tuple[float, float]:
        return params["width"] - 6, 0.0 if params["op"] != "b" else 1.0

    def priced(params: dict[str, Any]) -> float:
        assert max(allowed(params)) <= 0
        return cost(params)

    study = run(CostAwareSampler(SPACE, {1: priced}, allowed, seed=0), 18)
    assert all(max(allowed(params)) <= 0 for params in params_of(study))
    with pytest.raises(InputError, match="none of them is feasible"):
        run(CostAwareSampler(SPACE, {1: cost}, lambda params: (1.0,), seed=0), 1)


def test_what_failed_is_not_tried_again() -> None:
    def objective(trial: optuna.Trial) -> tuple[float, float]:
        params = {name: trial._suggest(name, distribution) for name, distribution in SPACE.items()}
        if params["op"] == "b":
            raise RuntimeError
        return (float("nan") if params["width"] > 9 else accuracy(params)), cost(params)

    study = optuna.create_study(directions=["maximize", "minimize"], sampler=cost_aware())
    study.optimize(objective, n_trials=40, catch=RuntimeError)
    assert len({tuple(params.values()) for params in params_of(study)}) == 40
    assert {trial.state for trial in study.trials} == {TrialState.FAIL, TrialState.COMPLETE}


def test_what_died_is_tried_again_where_that_is_wanted() -> None:
    study = run(cost_aware(retry=True), 12)
    first = study.ask(SPACE)
    study.tell(first, state=TrialState.FAIL)
    assert study.ask(SPACE).params == first.params


def test_an_objective_may_leave_parameters_out() -> None:
    def objective(trial: optuna.Trial) -> tuple[float, float]:
        params = {"op": trial._suggest("op", SPACE["op"]), "width": 3, "depth": 1}
        if params["op"] != "a":
            params["width"] = trial._suggest("width", SPACE["width"])
        return accuracy(params), cost(params)

    study = optuna.create_study(directions=["maximize", "minimize"], sampler=cost_aware())
    study.optimize(objective, n_trials=30)
    assert len({tuple(params.values()) for params in params_of(study)}) >= 12


def test_threads_do_not_try_the_same() -> None:
    study = run(cost_aware(), 6)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        params = {name: trial._suggest(name, distribution) for name, distribution in SPACE.items()}
        return accuracy(params), cost(params)

    study.optimize(objective, n_trials=24, n_jobs=3)
    assert len({tuple(params.values()) for params in params_of(study)}) == 30


def test_a_cost_that_is_not_finite_is_infeasible() -> None:
    odd = {5: float("inf"), 6: float("nan")}
    known = {1: lambda params: odd.get(params["width"], cost(params))}
    study = optuna.create_study(directions=["maximize", "minimize"])
    study = run(CostAwareSampler(SPACE, known, seed=0), 25, study)
    assert not {5, 6} & {params["width"] for params in params_of(study)}
    assert volume(study) > volume(run(optuna.samplers.RandomSampler(seed=0), 25))


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_accuracies_may_be_infinite(value: float) -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=cost_aware())

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        params = {name: trial._suggest(name, distribution) for name, distribution in SPACE.items()}
        return (value if params["width"] % 2 else accuracy(params)), cost(params)

    study.optimize(objective, n_trials=20)
    assert len({tuple(params.values()) for params in params_of(study)}) == 20


def test_a_value_that_is_written_shorter_is_the_one_on_the_grid() -> None:
    sampler = CostAwareSampler({"x": FloatDistribution(0.0, 0.5, step=0.1)}, {0: _first}, seed=0)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
    study.enqueue_trial({"x": 0.3})  # on the grid it is 0.30000000000000004
    study.optimize(lambda t: (x := t.suggest_float("x", 0.0, 0.5, step=0.1), -x), n_trials=6)
    assert sorted(round(10 * trial.params["x"]) for trial in study.trials) == [0, 1, 2, 3, 4, 5]


def test_a_copy_goes_on_as_the_sampler_would() -> None:
    sampler = CostAwareSampler({"x": IntDistribution(1, 50, log=True), "y": SPACE["op"]}, {0: _first}, seed=0)
    found = []
    for one in (sampler, pickle.loads(pickle.dumps(sampler)), copy.deepcopy(sampler)):
        study = optuna.create_study(directions=["minimize", "maximize"], sampler=one)
        study.optimize(lambda t: (t.suggest_int("x", 1, 50, log=True), len(t.suggest_categorical("y", "abc"))), 9)
        found.append(params_of(study))
    assert found[0] == found[1] == found[2]


def _first(params: dict[str, Any]) -> float:
    return float(params["x"])


def test_a_small_pool_is_drawn_anew_before_anything_is_tried_twice() -> None:
    study = run(cost_aware(pool=5), 40)
    assert len({tuple(params.values()) for params in params_of(study)}) == 40


def test_costs_are_computed_once_each() -> None:
    asked: list[tuple[Any, ...]] = []

    def counted(params: dict[str, Any]) -> float:
        asked.append(tuple(params.values()))
        return cost(params)

    run(CostAwareSampler(SPACE, {1: counted}, seed=0), 15)
    assert len(asked) == len(set(asked)) == 108


@pytest.mark.parametrize("known", [{0: 1}, {1: 1, 2: 2}, {0: 1, 1: 1, 2: 1}])
def test_any_objectives_may_be_known(known: dict[int, int]) -> None:
    functions: list[Callable[[dict[str, Any]], float]] = [
        cost,
        lambda p: p["width"] / p["depth"],
        lambda p: -accuracy(p),
    ]
    study = optuna.create_study(directions=["minimize"] * 3)
    study.sampler = CostAwareSampler(SPACE, {i: functions[i] for i in known}, seed=0, startup=4)
    study.optimize(
        lambda trial: tuple(f({n: trial._suggest(n, d) for n, d in SPACE.items()}) for f in functions), n_trials=8
    )
    assert len(study.trials) == 8


def test_a_cost_that_is_the_same_for_all_weighs_nothing() -> None:
    sampler = CostAwareSampler(SPACE, {1: lambda params: 5.0}, seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for _ in range(20):
        trial = study.ask(SPACE)
        study.tell(trial, [accuracy(trial.params), 5.0])
    assert max(t.values[0] for t in study.trials) == accuracy({"op": "b", "width": 12, "depth": 4})


def test_a_space_too_large_to_enumerate() -> None:
    space = {"x": FloatDistribution(0, 1), "n": IntDistribution(1, 10**6, log=True)}
    asked = []

    def priced(params: dict[str, Any]) -> float:
        asked.append(params)
        return float(params["n"])

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        x, n = trial._suggest("x", space["x"]), trial._suggest("n", space["n"])
        return (1 - (x - 0.3) ** 2) * np.log(n), n

    study = optuna.create_study(directions=["maximize", "minimize"])
    study.sampler = CostAwareSampler(space, {1: priced}, seed=0, pool=200)
    study.optimize(objective, n_trials=25)
    again = optuna.create_study(directions=["maximize", "minimize"])
    for trials in (9, 16):
        again.sampler = CostAwareSampler(space, {1: priced}, seed=0, pool=200)
        again.optimize(objective, n_trials=trials)
    assert params_of(again) == params_of(study)
    assert len(asked) <= 3 * 200 + 50 * 13  # the draw of each sampler, and a few neighbours a trial
    late = [abs(trial.params["x"] - 0.3) for trial in study.trials[15:]]
    assert np.median(late) < 0.15


def test_a_reference_bounds_what_counts() -> None:
    study = run(cost_aware(reference={0: 0.5, 1: 20.0}), 25)
    late = study.trials[12:]
    assert sum(trial.values[1] <= 20 for trial in late) >= 0.7 * len(late)


def test_the_first_trials_are_spread_over_the_costs() -> None:
    costs = sorted(trial.values[1] for trial in run(cost_aware(), 8).trials)
    every = sorted(cost(dict(zip(SPACE, values, strict=True))) for values in _grid())
    assert costs[1] <= every[len(every) // 3]
    assert costs[-2] >= every[len(every) // 2]


def _grid() -> list[tuple[Any, ...]]:
    return [(op, width, depth) for op in "abc" for width in range(1, 13) for depth in (1, 2, 4)]


def test_radical_inverse() -> None:
    assert [radical_inverse(i) for i in range(6)] == [0, 0.5, 0.25, 0.75, 0.125, 0.625]


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: CostAwareSampler({}, {1: cost}), "space"),
        (lambda: CostAwareSampler(SPACE, {}), "known"),
        (lambda: CostAwareSampler(SPACE, {"latency": cost}), "known"),
        (lambda: CostAwareSampler(SPACE, {1: 3.0}), "known"),
        (lambda: run(CostAwareSampler(SPACE, {1: lambda params: None}), 1), "known"),
        (lambda: run(CostAwareSampler(SPACE, {1: cost}, lambda params: 0.0), 1), "constraints"),
        (lambda: cost_aware(reference=[0, 1]), "reference"),
        (lambda: cost_aware(reference={0: float("nan")}), "reference"),
        (lambda: run(CostAwareSampler(SPACE | {"width": IntDistribution(1, 64)}, {1: cost}, seed=0), 1), "space"),
        (lambda: CostAwareSampler(SPACE, {1: cost}, seed=-1), "seed"),
        (lambda: cost_aware(startup=0), "startup"),
        (lambda: cost_aware(pool=0), "pool"),
        (lambda: run(CostAwareSampler(SPACE, {2: cost}, seed=0), 1), "known"),
        (lambda: run(cost_aware(reference={5: 1.0}), 1), "reference"),
        (lambda: run(CostAwareSampler({"op": SPACE["op"]}, {1: lambda p: 1.0}, seed=0), 1), "space"),
    ],
)
def test_bad_input_is_named(make: Callable[[], object], field: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.field == field
