import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from fifo_sim.hardware import PRESET_FOLDER
from nas import SAMPLERS, SearchSpace, VolumeStopper, best_config, front, search, space_of
from nas.pareto import finished
from nas.storage import open_place
from nas.task import Task
from nas.trial import Progress
from tests.nas.toy import toy_data, toy_recipe, toy_space
from vit import InputError, ViTConfig
from vit.data import load_data

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
TWO = ("accuracy", "params")


def toy_search(**options: object) -> optuna.Study:
    given = {"space": toy_space(), "data": toy_data(), "objectives": TWO, "trials": 5, "storage": None}
    return search(**(given | {"recipe": toy_recipe()} | options))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracy in no time, for what is about the order of trials and not about training."""

    def accuracy(task: Task, params: dict[str, float], on_epoch: Callable[[dict[str, float]], None]) -> float:
        final = 1 - 1 / (params["dim"] * params["depth"] ** 0.5 + params["mlp_ratio"] / params["heads"])
        for epoch in (1, 2):
            on_epoch({"epoch": epoch, "val_accuracy": final * epoch / 2})
        return final

    monkeypatch.setattr(Task, "accuracy", accuracy)


def outcome(study: optuna.Study) -> list[tuple[dict[str, object], list[float]]]:
    """Candidates and values of the finished trials, in their order."""
    return [(trial.params, trial.values) for trial in finished(study)]


def load(journal: Path) -> optuna.Study:
    return optuna.load_study(study_name="search", storage=open_place(journal).storage)


def test_a_search_trains_counts_and_never_reads_the_test_split() -> None:
    data, told = toy_data(), []
    study = toy_search(data=data, progress=told.append, trials=4)
    assert not data.test_was_read
    assert study.metric_names == list(TWO)
    assert len(finished(study)) == 4
    for trial in finished(study):
        assert 0 <= trial.values[0] <= 1
        assert trial.values[1] == sum(p.numel() for p in _model(trial).parameters())
    assert [(p.done, p.epoch, p.values is not None) for p in told[:3]] == [(0, 1, False), (0, 2, False), (1, 2, True)]
    assert told[-1] == Progress(4, 4, finished(study)[-1].params, 2, 2, dict(zip(TWO, finished(study)[-1].values)))  # noqa: B905
    assert space_of(study) == toy_space()
    assert isinstance(best_config(study), ViTConfig)


def _model(trial: FrozenTrial) -> object:
    from vit import VisionTransformer

    return VisionTransformer(toy_space().config(trial.params))


def test_the_real_test_split_stays_unread() -> None:
    data = load_data("digits")
    space = SearchSpace.for_image(8, 1, 10, dim=[8, 16], depth=1, heads=1, stem="patch")
    search(space, data, None, TWO, trials=1, storage=None, recipe=toy_recipe())
    assert not data.test_was_read


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.usefixtures("quick")
def test_stopping_between_trials_changes_nothing(sampler: str, tmp_path: Path) -> None:
    whole = toy_search(trials=25, sampler=sampler)
    for trials in (3, 4, 15, 25):
        study = toy_search(trials=trials, sampler=sampler, storage=tmp_path / "parts.journal")
        assert len(finished(study)) == trials
    assert outcome(study) == outcome(whole)
    assert outcome(toy_search(trials=25, sampler=sampler, seed=1)) != outcome(whole)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.usefixtures("quick")
def test_an_interrupted_trial_is_tried_again(sampler: str, tmp_path: Path) -> None:
    whole = toy_search(trials=25, sampler=sampler)
    calls: list[Progress] = []
    interrupted = 0

    def stop(progress: Progress) -> None:
        calls.append(progress)
        if len(calls) % 11 == 10:  # after an epoch or after a trial
            raise KeyboardInterrupt

    while True:
        try:
            study = toy_search(trials=25, sampler=sampler, storage=tmp_path / "s.journal", progress=stop)
            break
        except KeyboardInterrupt:
            interrupted += 1
    assert interrupted >= 5
    assert outcome(study) == outcome(whole)


def run_worker(journal: Path, trials: int, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.nas.worker", str(journal), str(trials), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def test_killed_anywhere_it_goes_on_with_the_same_trials(tmp_path: Path) -> None:
    journal, trials = tmp_path / "s.journal", 5
    whole = toy_search(trials=trials)
    for lines in (1, 4):  # in the middle of a first and of a later trial
        with run_worker(journal, trials, pause=0.3) as process:
            assert process.stdout is not None
            for _ in range(lines):
                process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
    study = toy_search(trials=trials, storage=journal)
    assert outcome(study) == outcome(whole)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE, TrialState.FAIL}
    assert not list((tmp_path / "s.journal.workers").iterdir())


def test_workers_share_a_study_and_take_over_from_a_dead_one(tmp_path: Path) -> None:
    journal = tmp_path / "s.journal"
    with run_worker(journal, 6, pause=0.2) as first, run_worker(journal, 6, pause=0.2) as second:
        assert first.stdout is not None
        first.stdout.readline()
        os.kill(first.pid, signal.SIGKILL)
        second.communicate()
    assert second.returncode == 0
    study = load(journal)
    candidates = [json.dumps(trial.params, sort_keys=True) for trial in finished(study)]
    assert len(candidates) == len(set(candidates)) == 6
    lost = [trial.params for trial in study.trials if trial.state == TrialState.FAIL]
    assert len(lost) == 1
    assert lost[0] in [trial.params for trial in finished(study)]


def test_a_study_of_other_settings_is_refused_with_the_difference(tmp_path: Path) -> None:
    storage = tmp_path / "s.journal"
    toy_search(trials=1, storage=storage)
    before = storage.read_bytes()
    wider = SearchSpace({**toy_space().choices, "depth": [1, 3]}, toy_space().fixed)
    for changed, told in (
        ({"seed": 4}, "seed is 0 there and 4 here"),
        ({"space": wider}, r"space.choices.depth is \[1, 2\] there and \[1, 3\] here"),
        ({"data": toy_data(shift=1)}, "data.images is"),
        ({"objectives": ("accuracy", "macs")}, "objectives is"),
        ({"constraints": ["params <= 1000"]}, "constraints is"),
        ({"sampler": "random"}, 'sampler is "cost-aware" there and "random" here'),
    ):
        with pytest.raises(InputError, match=told):
            toy_search(trials=1, storage=storage, **changed)
    assert storage.read_bytes() == before


def test_a_machine_of_the_space_that_changed_is_refused(tmp_path: Path) -> None:
    machine, storage = tmp_path / "mine.toml", tmp_path / "s.journal"
    space = SearchSpace(toy_space().choices, {**toy_space().fixed, "hardware": str(machine)})
    keys = (PRESET_FOLDER / "zcu104.toml").read_text()
    machine.write_text(keys)
    study = toy_search(space=space, objectives=("params", "cycles"), trials=1, storage=storage)
    assert len(finished(study)) == 1
    machine.write_text(keys.replace("clock_mhz = 200", "clock_mhz = 100"))
    with pytest.raises(InputError, match=r"machines.*clock_mhz is 200.* there and 100.* here"):
        toy_search(space=space, objectives=("params", "cycles"), trials=1, storage=storage)


@pytest.mark.usefixtures("quick")
def test_only_feasible_candidates_are_trained() -> None:
    for sampler in SAMPLERS:
        study = toy_search(trials=6, constraints=["params <= 500", "macs > 900"], sampler=sampler)
        assert all(trial.values[1] <= 500 for trial in finished(study)), sampler


def test_an_impossible_task_tells_which_constraint_refuses_how_many() -> None:
    with pytest.raises(InputError, match=r"of 36, params < 100 refuses 36, macs <= 2000 refuses \d+"):
        toy_search(constraints=["macs <= 2000", "params < 100"])


def test_a_candidate_is_not_trained_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    accuracy = Task.accuracy

    def counted(task: Task, params: dict[str, object], *rest: object) -> float:
        trained.append(json.dumps(params, sort_keys=True))
        return accuracy(task, params, *rest)

    monkeypatch.setattr(Task, "accuracy", counted)
    space = SearchSpace({"dim": [4, 8], "depth": [1, 2], "tile": [2, 4]}, {**toy_space().fixed, "heads": 1})
    study = toy_search(space=space, trials=9, sampler="random", objectives=("accuracy", "params"))
    assert len(finished(study)) == 9
    assert len(trained) == len({json.dumps({k: json.loads(t)[k] for k in ("dim", "depth")}) for t in trained}) <= 4


@pytest.mark.usefixtures("quick")
def test_a_single_objective_and_an_own_sampler() -> None:
    study = toy_search(objectives=("accuracy",), trials=3)
    assert len(front(study)) >= 1
    own = toy_search(trials=3, sampler=lambda seed: optuna.samplers.RandomSampler(seed=seed))
    assert outcome(own) == outcome(toy_search(trials=3, sampler="random"))


def test_costs_alone_need_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Task, "accuracy", lambda *_: pytest.fail("trained"))
    study = toy_search(objectives=("params", "macs"), trials=4)
    assert len(finished(study)) == 4


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"objectives": ()}, "objectives"),
        ({"objectives": "accuracy"}, "objectives"),
        ({"objectives": ("accuracy", "cycle")}, "objectives"),
        ({"objectives": ("params", "params")}, "objectives"),
        ({"objectives": ("accuracy", "cycles")}, "hardware"),
        ({"objectives": ("accuracy", "cycles"), "hardware": "zcu140"}, "hardware"),
        ({"constraints": ["params < many"]}, "constraints"),
        ({"constraints": ["accuracy > 0.9"]}, "constraints"),
        ({"constraints": ["parms < 10"]}, "constraints"),
        ({"constraints": ["params = 10"]}, "constraints"),
        ({"sampler": "tpee"}, "sampler"),
        ({"trials": 0}, "trials"),
        ({"workers": 0}, "workers"),
        ({"workers": 2}, "workers"),  # without a storage
        ({"workers": 2, "storage": "s.journal", "dask": "tcp://127.0.0.1:9"}, "workers"),
        ({"seed": -1}, "seed"),
        ({"storage": 3}, "storage"),
        ({"storage": "mysql://host/db"}, "storage"),
        ({"space": SearchSpace({"dim": [4]}, {"image_size": 8, "heads": 1})}, "space.fixed.image_size"),
    ],
)
def test_bad_input_is_named(options: dict[str, object], field: str) -> None:
    with pytest.raises(InputError) as caught:
        toy_search(**options)
    assert caught.value.field == field


def test_attention_that_the_hardware_cuts_is_trained_as_it_is_cut() -> None:
    fixed = {**toy_space().fixed, "heads": 1, "dim": 8, "depth": 1, "fifo": 1}
    space = SearchSpace({"attention": ["full", "tile"], "tile": [2, 5]}, fixed)
    study = toy_search(space=space, objectives=("accuracy", "cycles"), hardware="zcu104", trials=4)
    by_cut = {(t.params["attention"], t.params["tile"]): t.values for t in finished(study)}
    assert len(by_cut) == 4
    assert by_cut["full", 2][0] == by_cut["full", 5][0] == by_cut["tile", 5][0]  # 5 tokens: one tile sees them all
    assert by_cut["full", 2][1] != by_cut["full", 5][1]


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("space", {"dim": [4]}, "a nas.SearchSpace"),
        ("data", "digits", "a vit.DataSplits"),
        ("recipe", {"epochs": 2}, "a vit.Recipe or None"),
        ("stopping", "volume", "a nas.Stopper or None"),
        ("stopping", VolumeStopper, "a nas.Stopper or None"),
        ("supernet", 5, "a nas.Supernet or None"),
        ("progress", 3, "a function"),
        ("storage", "", "the path of a journal file"),
    ],
)
def test_an_argument_of_another_kind_is_named(name: str, value: object, allowed: str) -> None:
    with pytest.raises(InputError, match=allowed) as caught:
        toy_search(**{name: value})
    assert caught.value.field == name
