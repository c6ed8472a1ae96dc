import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
from optuna.trial import TrialState

from nas.grpc_proxy import GrpcProxy
from nas.pareto import finished
from nas.place import Overtaken
from nas.storage import forget, open_place
from nas.task import Task
from tests.nas import postgres_server
from tests.nas.proxy_server import server
from tests.nas.shared_study import goes_on_as_in_memory, kill_one_in_mid_trial, toy_search
from tests.nas.toy import toy_space
from vit import InputError

pytest.importorskip("grpc", reason="grpcio is not installed: the tests of the proxy are skipped")
BEAT, LEASE = 0.4, 2.5
BRISK_WORKER = f"""
import nas.grpc_proxy as proxy
proxy.BEAT_SECONDS, proxy.LEASE_SECONDS = {BEAT}, {LEASE}
from tests.nas.worker import main
main()
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server(f"sqlite:///{tmp_path_factory.mktemp('proxy') / 'study.db'}") as address:
        yield address


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that are taken for dead sooner, and a server that may take its time to start."""
    monkeypatch.setattr("nas.grpc_proxy.BEAT_SECONDS", BEAT)
    monkeypatch.setattr("nas.grpc_proxy.LEASE_SECONDS", LEASE)
    monkeypatch.setattr("nas.grpc_proxy.CONNECT_SECONDS", 60.0)


@pytest.fixture
def url(started: str, brisk: None) -> str:
    """The server without a study."""
    forget(started)
    return started


def test_three_workers_of_which_one_is_killed_in_mid_trial(url: str) -> None:
    lost, finishers = kill_one_in_mid_trial(url, workers=3, trials=9, program=("-c", BRISK_WORKER))
    assert lost
    assert finishers >= 2


@postgres_server.needs_server
def test_two_workers_before_postgresql_of_which_one_is_killed_in_mid_trial(brisk: None) -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed: the tests of PostgreSQL are skipped")
    with (
        postgres_server.server() as database,
        server(database.replace("postgresql://", "postgresql+psycopg://")) as url,
    ):
        lost, finishers = kill_one_in_mid_trial(url, workers=2, trials=4, program=("-c", BRISK_WORKER))
    assert lost
    assert finishers


def test_one_worker_finds_what_it_finds_in_memory_and_goes_on(url: str) -> None:
    goes_on_as_in_memory(url)


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
                study = optuna.load_study(storage=place.storage, study_name="search")
                place.retry_abandoned(study, toy_space().choices)
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


@pytest.mark.parametrize(("answers", "told"), [(False, "Deadline Exceeded"), (True, "Method not found")])
def test_a_server_that_is_no_proxy_or_falls_silent_is_told_in_bounded_time(
    monkeypatch: pytest.MonkeyPatch, answers: bool, told: str
) -> None:
    import grpc

    monkeypatch.setattr("nas.grpc_proxy.ANSWER_SECONDS", 0.5)
    let_go = threading.Event()

    class Silent(grpc.GenericRpcHandler):
        def service(self, call: object) -> object:
            return grpc.unary_unary_rpc_method_handler(lambda *_: let_go.wait())

    other = grpc.server(ThreadPoolExecutor(2), handlers=[] if answers else [Silent()])
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    try:
        with pytest.raises(InputError, match=rf"can be reached.*{told}"):
            open_place(f"grpc://127.0.0.1:{port}")
    finally:
        let_go.set()
        other.stop(None).wait()


def test_without_grpc_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(InputError, match=r"tilevit\[cluster\]"):
        open_place("grpc://127.0.0.1:9")
