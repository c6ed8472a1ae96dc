import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from nas import FrontStopper, Progress, search
from nas.pareto import ended, finished
from tests.nas.toy import toy_data, toy_recipe, toy_space
from vit import InputError

distributed = pytest.importorskip("distributed", reason="Dask is not installed: the tests of it are skipped")
TRIALS = 8


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, scheduler_kwargs={"dashboard": False}, silence_logs=50
    ) as made:
        yield made


def toy_search(address: str | None, **options: object) -> optuna.Study:
    given = {"objectives": ("accuracy", "params"), "trials": TRIALS, "storage": None, "recipe": toy_recipe()}
    return search(toy_space(), toy_data(), None, dask=address, **(given | options))


def test_the_workers_train_and_find_what_one_process_finds(cluster: object) -> None:
    told: list[Progress] = []
    study = toy_search(cluster.scheduler_address, progress=told.append)
    assert [state.done for state in told] == list(range(1, TRIALS + 1))
    here = {json.dumps(trial.params): trial.values for trial in finished(toy_search(None, trials=36))}
    assert all(trial.values == here[json.dumps(trial.params)] for trial in finished(study))


def test_a_killed_worker_loses_nothing(cluster: object, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill_one(progress: Progress) -> None:
        if not killed:
            killed.append(next(iter(cluster.workers.values())).pid)
            os.kill(killed[0], signal.SIGKILL)

    study = toy_search(cluster.scheduler_address, storage=tmp_path / "s.journal", progress=kill_one)
    assert killed
    candidates = [json.dumps(trial.params) for trial in finished(study)]
    assert len(candidates) == len(set(candidates)) == TRIALS
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


def test_rules_that_stop_hold_there_too(cluster: object) -> None:
    study = toy_search(cluster.scheduler_address, trials=12, stopping=FrontStopper(confidence=0.5))
    assert len(ended(study)) == 12
    for trial in ended(study):
        assert (trial.state == TrialState.PRUNED) == (len(trial.user_attrs["accuracy_by_epoch"]) == 1)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nowhere"])
def test_a_cluster_that_does_not_answer_is_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.dask_cluster.CONNECT_SECONDS", 1)
    with pytest.raises(InputError) as caught:
        toy_search(address)
    assert caught.value.field == "dask"
