import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import optuna
import pytest
from optuna.trial import TrialState

from nas import search
from nas.grpc_proxy import GrpcProxy
from nas.pareto import finished
from nas.place import Overtaken
from nas.storage import forget, holds_study, open_place
from nas.task import Task
from tests.nas.proxy_server import ROOT, server
from tests.nas.toy import toy_data, toy_recipe, toy_space
from vit import InputError

pytest.importorskip("grpc", reason="grpcio is not installed: the tests of the proxy are skipped")
BEAT, LEASE = 0.4, 2.5
WORKER = f"""
import nas.grpc_proxy as proxy
proxy.BEAT_SECONDS, proxy.LEASE_SECONDS = {BEAT}, {LEASE}
from tests.nas.worker import main
main()
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server(tmp_path_factory.mktemp("proxy") / "study.db") as address:
        yield address


@pytest.fixture
def url(started: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server without a study."""
    monkeypatch.setattr("nas.grpc_proxy.BEAT_SECONDS", BEAT)
    monkeypatch.setattr("nas.grpc_proxy.LEASE_SECONDS", LEASE)
    monkeypatch.setattr("nas.grpc_proxy.CONNECT_SECONDS", 60.0)
    forget(started)
    return started


def toy_search(storage: str | None, trials: int) -> optuna.Study:
    given = {"objectives": ("accuracy", "params"), "recipe": toy_recipe()}
    return search(toy_space(), toy_data(), None, trials=trials, storage=storage, **given)


def worker(url: str, trials: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, url, str(trials), "0.1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_three_workers_of_which_one_is_killed_in_mid_trial(url: str) -> None:
    trials = 9
    crew = [worker(url, trials) for _ in range(3)]
    assert crew[0].stdout is not None
    for line in crew[0].stdout:
        if line.endswith("epoch\n"):
            break
    os.kill(crew[0].pid, signal.SIGKILL)
    for process in crew:
        process.communicate()
    assert [process.returncode for process in crew] == [-signal.SIGKILL, 0, 0]
    study = toy_search(url, trials)  # has nothing left to do
    candidates = [json.dumps(trial.params, sort_keys=True) for trial in finished(study)]
    assert len(candidates) == len(set(candidates)) == trials
    lost = [trial.params for trial in study.trials if trial.state == TrialState.FAIL]
    assert lost
    assert all(params in [trial.params for trial in finished(study)] for params in lost)
    assert len({trial.user_attrs["worker"] for trial in finished(study)}) >= 2


def test_one_worker_finds_what_it_finds_in_memory_and_goes_on(url: str) -> None:
    whole = toy_search(None, 6)
    for trials in (2, 6):
        study = toy_search(url, trials)
    assert [(t.params, t.values) for t in finished(study)] == [(t.params, t.values) for t in finished(whole)]
    assert holds_study(url)
    forget(url)
    assert not holds_study(url)
    forget(url)  # of nothing is no error


def test_turns_exclude_one_another_and_go_on_when_their_holder_dies(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = GrpcProxy(url), GrpcProxy(url)
    heartless = one.turn()
    with monkeypatch.context() as patched:
        patched.setattr(GrpcProxy, "_beat", lambda self, entry, left: None)
        heartless.__enter__()
    begin = time.monotonic()
    with other.turn():
        assert time.monotonic() - begin >= LEASE
        with pytest.raises(Overtaken):  # it was held up, not dead, and is told
            heartless.__exit__(None, None, None)
    with one.turn():
        pass


def test_a_worker_that_beats_is_alive_and_one_that_left_is_not(url: str) -> None:
    here, there = open_place(url), open_place(url)
    with here.working() as name:
        assert there.is_alive(name)
        time.sleep(1.5 * LEASE)
        assert there.is_alive(name)
    assert not there.is_alive(name)
    assert not there.is_alive("never there")


def test_a_worker_taken_for_dead_gives_its_trial_up_and_goes_on(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = Task.accuracy
    calls: list[object] = []

    def held_up(task: Task, params: object, *rest: object) -> float:
        calls.append(params)
        if len(calls) == 2:  # meanwhile another worker finds it dead
            place = GrpcProxy(url)
            monkeypatch.setattr(place, "is_alive", lambda worker: False)
            with place.turn():
                place.retry_abandoned(optuna.load_study(storage=place.storage, study_name="search"))
        return trained(task, params, *rest)

    monkeypatch.setattr(Task, "accuracy", held_up)
    study = toy_search(url, 4)
    states = [trial.state for trial in study.trials]
    assert (states.count(TrialState.COMPLETE), states.count(TrialState.FAIL)) == (4, 1)
    assert calls[1] == calls[2]
    assert len({trial.user_attrs["worker"] for trial in finished(study)}) == 2


@pytest.mark.parametrize("url", ["grpc://", "grpc://host", "grpc://host:port", "grpc://host:1/database"])
def test_a_malformed_address_is_named(url: str) -> None:
    with pytest.raises(InputError, match="grpc://HOST:PORT"):
        open_place(url)


def test_an_absent_server_is_told_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.grpc_proxy.CONNECT_SECONDS", 0.5)
    with pytest.raises(InputError, match=r"can be reached.*nothing answered for 0.5 seconds"):
        open_place("grpc://127.0.0.1:9")


def test_without_grpc_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(InputError, match=r"tilevit\[cluster\]"):
        open_place("grpc://127.0.0.1:9")
