from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.trial import TrialState

from nas import (
    SAMPLERS,
    CostAwareSampler,
    FrontStopper,
    Halving,
    Progress,
    SearchSpace,
    Stopper,
    VolumeStopper,
    epochs_trained,
    front,
    search,
)
from nas.pareto import ended, finished
from nas.task import Task
from tests.nas.toy import toy_data, toy_space
from vit import InputError, Recipe

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
RULE = FrontStopper(confidence=0.7)
EPOCHS = 5


def stopped_search(**options: object) -> optuna.Study:
    given = {"space": toy_space(), "data": toy_data(), "objectives": ("accuracy", "params"), "trials": 25}
    given |= {"storage": None, "recipe": Recipe(epochs=EPOCHS, batch_size=20, lr=1e-2), "stopping": RULE}
    return search(**(given | options))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Curves in no time; the epochs that were asked for."""
    epochs: list[int] = []

    def accuracy(task: Task, params: dict[str, float], on_epoch: Callable[[dict[str, float]], None]) -> float:
        final = 1 - 1 / (params["dim"] * params.get("heads", 1) * params.get("mlp_ratio", 1.0) / params["depth"] + 2)
        for epoch in range(1, EPOCHS + 1):
            epochs.append(epoch)
            on_epoch({"epoch": epoch, "val_accuracy": final * epoch / EPOCHS})
        return final

    monkeypatch.setattr(Task, "accuracy", accuracy)
    return epochs


def outcome(study: optuna.Study) -> list[tuple[object, ...]]:
    return [(t.params, t.state, t.values, t.user_attrs["accuracy_by_epoch"]) for t in ended(study)]


def test_stopped_trials_tell_what_they_are_and_are_on_no_front(trained: list[int]) -> None:
    told: list[Progress] = []
    study = stopped_search(sampler="random", progress=told.append)
    stopped = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    assert len(ended(study)) == 25
    assert 5 <= len(stopped) <= 20
    for trial in stopped:
        assert trial.values is None
        curve = trial.user_attrs["accuracy_by_epoch"]
        assert 1 <= len(curve) < EPOCHS
        assert curve[-1] < trial.user_attrs["expected_values"][0] <= 1
    assert not {trial.number for trial in front(study)} & {trial.number for trial in stopped}
    assert epochs_trained(study) == len(trained) < 25 * EPOCHS
    assert sum(state.stopped for state in told) == len(stopped)
    assert [state.done for state in told if state.stopped or state.values] == list(range(1, 26))


def test_some_candidates_are_not_trained_at_all(trained: list[int]) -> None:
    told: list[Progress] = []
    study = stopped_search(sampler="random", stopping=VolumeStopper(0.02), progress=told.append)
    untrained = [trial for trial in ended(study) if not trial.user_attrs["accuracy_by_epoch"]]
    assert untrained
    for trial in untrained:
        assert trial.state == TrialState.PRUNED
        assert trial.user_attrs["epochs"] == 0
        assert "expected_values" not in trial.user_attrs  # nothing was learned for the sampler
    assert epochs_trained(study) == len(trained)
    assert sum(state.stopped and state.epoch == 0 for state in told) == len(untrained)


@pytest.mark.usefixtures("trained")
def test_the_front_is_that_of_a_search_that_stops_nothing() -> None:
    whole = stopped_search(sampler="random", stopping=None)
    assert [t.values for t in front(stopped_search(sampler="random"))] == [t.values for t in front(whole)]


@pytest.mark.parametrize(
    ("sampler", "rule"),
    [*((sampler, RULE) for sampler in SAMPLERS), ("cost-aware", Halving()), ("cost-aware", VolumeStopper())],
)
@pytest.mark.usefixtures("trained")
def test_an_interrupted_search_ends_the_same(sampler: str, rule: Stopper, tmp_path: Path) -> None:
    whole = stopped_search(sampler=sampler, stopping=rule)
    calls = 0

    def stop(progress: Progress) -> None:
        nonlocal calls
        calls += 1
        if calls % 17 == 16:
            raise KeyboardInterrupt

    while True:
        try:
            study = stopped_search(sampler=sampler, stopping=rule, storage=tmp_path / "s.journal", progress=stop)
            break
        except KeyboardInterrupt:
            pass
    assert outcome(study) == outcome(whole)
    assert TrialState.PRUNED in {trial.state for trial in study.trials}


@pytest.mark.usefixtures("trained")
def test_another_rule_is_another_study(tmp_path: Path) -> None:
    stopped_search(trials=1, storage=tmp_path / "s.journal")
    with pytest.raises(InputError, match=r"stopping.confidence is 0.7 there and 0.8 here"):
        stopped_search(trials=1, storage=tmp_path / "s.journal", stopping=FrontStopper())
    with pytest.raises(InputError, match="stopping is"):
        stopped_search(trials=1, storage=tmp_path / "s.journal", stopping=None)


def test_a_twin_of_a_stopped_trial_is_not_trained_to_the_same_point(trained: list[int]) -> None:
    space = SearchSpace(
        {"dim": [2, 4, 6, 8, 10], "depth": [1, 2, 3], "tile": [4, 5]}, {**toy_space().fixed, "heads": 1}
    )
    study = stopped_search(space=space, sampler="random", trials=40)
    stopped = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    assert len([t for t in stopped if t.user_attrs["epochs"]]) < len(stopped)
    assert epochs_trained(study) == len(trained)


def test_only_a_search_that_trains_can_stop() -> None:
    with pytest.raises(InputError, match="stopping"):
        stopped_search(objectives=("params", "macs"))


def test_the_sampler_learns_what_a_stopped_trial_would_have_had() -> None:
    space = {"x": IntDistribution(0, 60)}
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.sampler = CostAwareSampler(space, {1: lambda params: 1.0}, seed=0, startup=4)
    for x in (5, 20, 40, 55):
        study.enqueue_trial({"x": x})
        study.tell(study.ask(space), (0.5 + 0.001 * x, 1.0))
    for x in (58, 60, 50):
        study.enqueue_trial({"x": x})
        trial = study.ask(space)
        trial.set_user_attr("expected_values", [0.1, 1.0])
        study.tell(trial, state=TrialState.PRUNED)
    assert study.ask(space).params["x"] < 50  # the slope alone would lead to the end of the range
    assert len(finished(study)) == 4
