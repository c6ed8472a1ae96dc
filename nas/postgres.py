"""A study in PostgreSQL, for the workers of many machines; needs the `cluster` extra."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage

from nas.place import Place
from vit.errors import InputError

PREFIX = "postgresql://"
ATTEMPTS, PAUSE_SECONDS = 4, 0.5  # to reach the server; the pause doubles
CONNECT_SECONDS = 5
# a machine that is gone without a word is noticed within a minute: by the server, which drops its connection and locks,
NOTICED_THERE = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
NOTICED_HERE = {  # and by the workers
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}


class PostgreSQL(Place):
    """A database, which Optuna's tables are made in if they are absent.

    Turns and signs of life are advisory locks: the server drops them with the connection, so a worker that is killed is
    known to be dead at once.

    Raises:
        InputError: a server that does not answer in ATTEMPTS attempts or refuses, a malformed address, or the driver
            is not installed.
    """

    def __init__(self, url: str) -> None:
        self._url, self.name = url, shown(url)
        self._patience = self._bounds()
        self._control = self._connect()
        self.lost = (*_driver_errors(), StorageInternalError)
        with self.turn():  # workers that start together would make the same tables
            driven = "postgresql+psycopg://" + url.removeprefix(PREFIX)
            self.storage = RDBStorage(driven, engine_kwargs={"pool_pre_ping": True, "connect_args": self._patience})

    def close(self) -> None:
        """Close the connection that turns are taken on."""
        self._control.close()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """An advisory lock."""
        self._control.execute("SELECT pg_advisory_lock(%s)", [_number("turn")])
        try:
            yield
        finally:
            self._control.execute("SELECT pg_advisory_unlock(%s)", [_number("turn")])

    @contextmanager
    def sign_of_life(self, worker: str) -> Iterator[None]:
        """An advisory lock of the worker's own, on a connection of its own."""
        with self._connect() as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", [_number(worker)])
            yield

    def is_alive(self, worker: str) -> bool:
        """Whether somebody holds the lock of the worker."""
        row = self._control.execute("SELECT pg_try_advisory_lock(%s)", [_number(worker)]).fetchone()
        if not row[0]:
            return True
        self._control.execute("SELECT pg_advisory_unlock(%s)", [_number(worker)])
        return False

    def _bounds(self) -> dict[str, Any]:
        """How long a connection waits for a host that says nothing, in libpq's parameters; the address goes before."""
        try:
            import psycopg
        except ImportError as error:
            hint = "pip install 'tilevit[cluster]'"
            raise InputError("storage", self.name, "a journal file, without psycopg", hint) from error
        try:
            given = psycopg.conninfo.conninfo_to_dict(self._url)
        except psycopg.ProgrammingError as error:
            raise self._malformed(error) from error
        bounds = {"connect_timeout": CONNECT_SECONDS, **NOTICED_HERE}
        return {
            **{name: value for name, value in bounds.items() if name not in given},
            "options": f"{NOTICED_THERE} {given.get('options', '')}".strip(),
        }

    def _connect(self) -> Any:
        import psycopg

        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
            try:
                return psycopg.connect(self._url, autocommit=True, **self._patience)
            except psycopg.OperationalError as error:
                reason = str(error).strip().splitlines()[-1]
            except psycopg.ProgrammingError as error:
                raise self._malformed(error) from error
        hint = f"{ATTEMPTS} attempts: {reason}"
        raise InputError("storage", self.name, "a PostgreSQL database that can be reached", hint)

    def _malformed(self, error: Exception) -> InputError:
        return InputError("storage", self.name, "postgresql://USER@HOST/DATABASE", str(error))


def _driver_errors() -> tuple[type[Exception], ...]:
    import psycopg

    return (psycopg.OperationalError,)


def shown(url: str) -> str:
    """The address without its password."""
    scheme, separator, rest = url.partition("://")
    account, at, place = rest.rpartition("@")
    return f"{scheme}{separator}{account.partition(':')[0]}{at}{place}"


def _number(name: str) -> int:
    """The key of an advisory lock: 64 bits, signed."""
    return int.from_bytes(hashlib.sha256(f"tilevit {name}".encode()).digest()[:8], "big", signed=True)
