"""A study behind Optuna's gRPC proxy, for the workers of many machines; needs the `cluster` extra."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.place import WORKER, Overtaken, Place
from vit.errors import InputError

BOOK = "workers of the search"  # a study whose running trials are the workers and those who want a turn
TURN, BEAT = "turn", "beat"  # user attributes of these
CONNECT_SECONDS = 10.0  # to reach the server, with as many attempts as gRPC makes in that time
ANSWER_SECONDS = 30.0  # to each call: without a bound one to a host that vanished would never end
BEAT_SECONDS, LEASE_SECONDS = 2.0, 20.0  # between signs of life; without one until a worker counts as dead
POLL_SECONDS = 0.05
REACHED = "a gRPC proxy of Optuna that can be reached"


class GrpcProxy(Place):
    """A server that runs `optuna.storages.run_grpc_proxy_server` before a relational database.

    The proxy has no locks, but it numbers the trials of a study one after the other. So who wants a turn writes a trial
    into a second study, and has it when no running one there has a smaller number: others see the order of all, and
    nothing is left to agree on. Every entry of that study beats: its writer counts up a number in it. One that stands
    still for LEASE_SECONDS by the clock of who looks at it is of a dead worker, and is struck out.

    A worker that was held up so long that others took it for dead finds its entry or its trial ended, and gives up what
    it had: a trial is finished by one worker only.

    Raises:
        InputError: no gRPC server answers within CONNECT_SECONDS, it is no proxy or has lost its database, or gRPC is
            not installed.
    """

    def __init__(self, url: str) -> None:
        self.name = url
        self.storage = self._connect(*_address(url))
        self.lost = _errors()
        self._book = self._open_book()
        self._seen: dict[int, tuple[int, float]] = {}  # beat of an entry, and since when it stands still

    @contextmanager
    def turn(self) -> Iterator[None]:
        """An entry in the book with none before it."""
        with self._entry({TURN: True}) as mine:
            while any(self._lives(entry) for entry in self._entries(TURN) if entry.number < mine):
                time.sleep(POLL_SECONDS)
            yield

    @contextmanager
    def sign_of_life(self, worker: str) -> Iterator[None]:
        """An entry in the book."""
        with suppress(Overtaken), self._entry({WORKER: worker}):
            yield

    def is_alive(self, worker: str) -> bool:
        """Whether the worker's entry is there, and beats."""
        return any(entry.user_attrs[WORKER] == worker and self._lives(entry) for entry in self._entries(WORKER))

    @contextmanager
    def _entry(self, attributes: dict[str, Any]) -> Iterator[int]:
        """Write an entry, which beats until the block is left; its number."""
        written = FrozenTrial(
            number=-1,  # the storage numbers it
            trial_id=-1,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=datetime.now(),
            datetime_complete=None,
            params={},
            distributions={},
            user_attrs={**attributes, BEAT: 0},
            system_attrs={},
            intermediate_values={},
        )
        entry = self.storage.create_new_trial(self._book, written)
        left = threading.Event()
        heart = threading.Thread(target=self._beat, args=(entry, left), daemon=True)
        heart.start()
        try:
            yield self.storage.get_trial(entry).number
        finally:
            left.set()
            heart.join()
            try:
                self.storage.set_trial_state_values(entry, TrialState.COMPLETE, [0.0])
            except UpdateFinishedTrialError:
                raise Overtaken from None

    def _beat(self, entry: int, left: threading.Event) -> None:
        count = 0
        while not left.wait(BEAT_SECONDS):
            count += 1
            try:
                self.storage.set_trial_user_attr(entry, BEAT, count)
            except UpdateFinishedTrialError:
                return
            except self.lost:
                continue  # whoever works with the storage is told; here it may come back

    def _entries(self, attribute: str) -> list[FrozenTrial]:
        """The running ones of a kind."""
        running = self.storage.get_all_trials(self._book, deepcopy=False, states=(TrialState.RUNNING,))
        return [entry for entry in running if attribute in entry.user_attrs]

    def _lives(self, entry: FrozenTrial) -> bool:
        """Whether an entry beats; one that does not any more is struck out."""
        if not self._stands_still(entry):
            return True
        time.sleep(2 * BEAT_SECONDS)  # had this process been held up itself, it would not have seen the beats
        if not self._stands_still(self.storage.get_trial(entry._trial_id)):
            return True
        with suppress(UpdateFinishedTrialError):
            self.storage.set_trial_state_values(entry._trial_id, TrialState.FAIL)
        return False

    def _stands_still(self, entry: FrozenTrial) -> bool:
        if entry.state != TrialState.RUNNING:
            return True
        beat, now = entry.user_attrs[BEAT], time.monotonic()
        seen, since = self._seen.setdefault(entry._trial_id, (beat, now))
        if seen != beat:
            self._seen[entry._trial_id] = (beat, now)
        return bool(seen == beat and now - since > LEASE_SECONDS)

    def _open_book(self) -> int:
        import grpc

        try:
            with suppress(DuplicatedStudyError):
                return self.storage.create_new_study([StudyDirection.MINIMIZE], BOOK)
            return self.storage.get_study_id_from_name(BOOK)
        except grpc.RpcError as error:
            raise InputError("storage", self.name, REACHED, error.details()) from error

    def _connect(self, host: str, port: int) -> BaseStorage:
        try:
            import google.protobuf.message  # noqa: F401 - Optuna imports both when it first needs them
            import grpc  # noqa: F401
            from optuna.storages import GrpcStorageProxy
        except ImportError as error:
            hint = "pip install 'tilevit[cluster]'"
            raise InputError("storage", self.name, "a journal file, without gRPC", hint) from error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            storage = GrpcStorageProxy(host=host, port=port)
        for name, call in vars(storage._stub).items():
            setattr(storage._stub, name, partial(call, timeout=ANSWER_SECONDS))
        try:
            storage.wait_server_ready(CONNECT_SECONDS)
        except ConnectionError as error:
            storage.close()
            hint = f"nothing answered for {CONNECT_SECONDS:g} seconds"
            raise InputError("storage", self.name, REACHED, hint) from error
        return storage


def _address(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.path.strip("/"):
        raise InputError("storage", url, "grpc://HOST:PORT")
    return (f"[{host}]" if ":" in host else host), port


def _errors() -> tuple[type[Exception], ...]:
    import grpc

    return (grpc.RpcError, Overtaken, UpdateFinishedTrialError)
