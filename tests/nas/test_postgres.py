import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from optuna.storages import RDBStorage

from nas.postgres import shown
from nas.storage import open_place
from tests.nas.postgres_server import needs_server, server
from tests.nas.shared_study import goes_on_as_in_memory, kill_one_in_mid_trial
from vit import InputError

pytest.importorskip("psycopg", reason="psycopg is not installed: the tests of PostgreSQL are skipped")


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


@needs_server
def test_four_workers_of_which_one_is_killed_in_mid_trial(url: str) -> None:
    lost, finishers = kill_one_in_mid_trial(url, workers=4, trials=12)
    assert lost == 1
    assert finishers >= 3


@needs_server
def test_one_worker_finds_what_it_finds_in_memory_and_goes_on(url: str) -> None:
    goes_on_as_in_memory(url)


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


@needs_server
def test_every_connection_notices_a_host_that_vanishes(url: str) -> None:
    asked = {"connect_timeout": "7", "keepalives_idle": "30", "tcp_user_timeout": "60000"}
    place = open_place(f"{url}?connect_timeout=7&options=-c%20statement_timeout%3D1234")
    assert isinstance(place.storage, RDBStorage)
    with closing(place), place.storage.engine.connect() as pooled:
        for connection in (place._control, pooled.connection.driver_connection):  # type: ignore[attr-defined]
            assert asked.items() <= connection.info.get_parameters().items()  # as the address says, where it does
            assert connection.execute("SHOW statement_timeout").fetchone()[0] == "1234ms"
            assert "tcp_keepalives_idle=30" in connection.info.options


def test_a_host_that_swallows_everything_is_told_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.postgres.ATTEMPTS", 1)
    monkeypatch.setattr("nas.postgres.CONNECT_SECONDS", 2)  # libpq's least
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(InputError, match="can be reached; 1 attempts: connection timeout expired"):
            open_place(f"postgresql://me@127.0.0.1:{port}/nowhere")


def test_a_malformed_address_is_named() -> None:
    with pytest.raises(InputError, match="storage"):
        open_place("postgresql://me@host:port:port/x?what=1")


def test_no_password_is_shown() -> None:
    assert shown("postgresql://me:secret@host:5432/db") == "postgresql://me@host:5432/db"
    assert shown("postgresql://host/db") == "postgresql://host/db"
