import dataclasses
import json
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import torch
from optuna.trial import TrialState

from fifo_sim import Hardware, sweep
from nas import FrontStopper, Progress, dask_map, search
from nas.pareto import ended, finished
from tests.nas.toy import toy_data, toy_recipe, toy_space
from vit import InputError, VisionTransformer, ViTConfig
from vit.masks import set_mask

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


def pruned_model() -> VisionTransformer:
    """A model that pickle refuses, with layers that are cheaper than their shape tells."""
    model = VisionTransformer(ViTConfig(image_size=8, patch_size=2, in_channels=1, dim=16, depth=1, heads=2))
    set_mask(model.blocks[0].mlp.fc1, torch.rand(32, 16) < 0.3)
    return model


def test_a_sweep_is_the_table_that_is_computed_here(cluster: object) -> None:
    model, machine = pruned_model(), dataclasses.replace(Hardware.preset("zcu104"), sram_kib=24)
    asked = (model, machine, (1, 3, 16), (1, 2, 400), ("full", "window", "tile"))
    seen: list[dict[str, object]] = []
    with dask_map(cluster.scheduler_address) as mapper:
        table = sweep(*asked, mapper=mapper, progress=seen.append)
    assert list(table) == list(sweep(*asked)) == seen
    assert {row["fits"] for row in table} == {True, False}


def test_an_error_on_the_cluster_is_the_one_that_is_told_here(cluster: object) -> None:
    with dask_map(cluster.scheduler_address) as mapper, pytest.raises(InputError, match="attention"):
        list(mapper(lambda mode: sweep(ViTConfig(), "zcu104", (1,), (1,), mode), ["no such"]))


def test_a_cluster_that_goes_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    lost: Future[int] = Future()
    lost.cancel()
    client = SimpleNamespace(map=lambda function, items, pure: [lost])
    monkeypatch.setattr("nas.dask_client.connected", lambda address: nullcontext(client))
    with dask_map("tcp://here:8786") as mapper, pytest.raises(InputError, match="stays within reach"):
        list(mapper(abs, [-1]))


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"tilevit\[cluster\]"), dask_map("tcp://127.0.0.1:9"):
        pass


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nowhere"])
def test_a_cluster_that_does_not_answer_is_named_and_nothing_begun(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.dask_client.CONNECT_SECONDS", 1)
    with pytest.raises(InputError) as caught:
        toy_search(address, storage=tmp_path / "s.journal")
    assert caught.value.field == "dask"
    assert not list(tmp_path.iterdir())
