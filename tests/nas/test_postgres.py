import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from nas import search
from nas.pareto import finished
from nas.postgres import shown
from nas.storage import forget, holds_study, open_place
from tests.nas.postgres_server import binaries, server
from tests.nas.toy import toy_data, toy_recipe, toy_space
from vit import InputError

pytest.importorskip("psycopg", reason="psycopg is not installed: the tests of PostgreSQL are skipped")
needs_server = pytest.mark.skipif(
    binaries() is None, reason="PostgreSQL is not installed: the tests of PostgreSQL are skipped"
)


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    made = []

    def remembered(*args: object, **kwargs: object) -> RDBStorage:
        made.append(RDBStorage(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr("nas.postgres.RDBStorage", remembered)
    with server() as address:
        yield address
        for storage in made:
            storage.engine.dispose()


def toy_search(storage: str | None, trials: int) -> optuna.Study:
    given = {"objectives": ("accuracy", "params"), "recipe": toy_recipe()}
    return search(toy_space(), toy_data(), None, trials=trials, storage=storage, **given)


def worker(url: str, trials: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.nas.worker", url, str(trials), "0.1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


@needs_server
def test_four_workers_of_which_one_is_killed_in_mid_trial(url: str) -> None:
    trials = 12
    crew = [worker(url, trials) for _ in range(4)]
    assert crew[0].stdout is not None
    for line in crew[0].stdout:
        if line.endswith("epoch\n"):
            break
    os.kill(crew[0].pid, signal.SIGKILL)
    for process in crew:
        process.communicate()
    assert [process.returncode for process in crew] == [-signal.SIGKILL, 0, 0, 0]
    study = toy_search(url, trials)  # has nothing left to do
    candidates = [json.dumps(trial.params, sort_keys=True) for trial in finished(study)]
    assert len(candidates) == len(set(candidates)) == trials
    lost = [trial.params for trial in study.trials if trial.state == TrialState.FAIL]
    assert len(lost) == 1
    assert lost[0] in [trial.params for trial in finished(study)]
    assert len({trial.user_attrs["worker"] for trial in finished(study)}) >= 3


@needs_server
def test_one_worker_finds_what_it_finds_in_memory_and_goes_on(url: str) -> None:
    whole = toy_search(None, 6)
    for trials in (2, 6):
        study = toy_search(url, trials)
    assert [(t.params, t.values) for t in finished(study)] == [(t.params, t.values) for t in finished(whole)]
    assert holds_study(url)
    forget(url)
    assert not holds_study(url)
    forget(url)  # of nothing is no error


@needs_server
def test_a_server_that_goes_away_is_told_in_one_line(url: str) -> None:
    place = open_place(url)
    with pytest.raises(place.lost), place.turn():
        place._control.execute("SELECT pg_terminate_backend(pg_backend_pid())")  # type: ignore[attr-defined]
    place.close()


def test_an_absent_server_is_told_after_a_bounded_number_of_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.postgres.PAUSE_SECONDS", 0.01)
    with pytest.raises(InputError, match="can be reached; 4 attempts") as caught:
        open_place("postgresql://me:secret@127.0.0.1:9/nowhere")
    assert "secret" not in str(caught.value)
    assert caught.value.field == "storage"


def test_a_malformed_address_is_named() -> None:
    with pytest.raises(InputError, match="storage"):
        open_place("postgresql://me@host:port:port/x?what=1")


def test_no_password_is_shown() -> None:
    assert shown("postgresql://me:secret@host:5432/db") == "postgresql://me@host:5432/db"
    assert shown("postgresql://host/db") == "postgresql://host/db"
