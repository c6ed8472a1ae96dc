"""Where a study lives: a journal file whose lock and running trials do not outlive the process that holds them."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock, get_lock_file
from optuna.trial import TrialState

from vit.errors import InputError

WORKER = "worker"  # user attribute of a trial: who runs it


class KernelLock(BaseJournalFileLock):
    """A lock that the operating system drops when its holder dies, so that nobody waits for a killed worker."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        self._file = open(self._path, "ab")  # noqa: SIM115 - closed by release
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def open_storage(storage: str | Path | None) -> BaseStorage:
    """The Optuna storage that `storage` names: a journal file (made if absent), or None for memory.

    Raises:
        InputError: the file cannot be written, or is no Optuna journal.
    """
    if storage is None:
        return InMemoryStorage()
    if not isinstance(storage, (str, Path)) or "://" in str(storage):
        raise InputError("storage", storage, "the path of a journal file")
    path = Path(storage)
    lock = KernelLock(_beside(path, ".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with get_lock_file(lock):
            _mend_tail(path)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except OSError as error:
        raise InputError("storage", str(path), "a writable file", f"the system says: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError("storage", str(path), "a journal file of Optuna", "it does not read as one") from error


@contextmanager
def turn(storage: str | Path | None) -> Iterator[None]:
    """Hold the right to start and to give up trials: workers take turns, so each sees what the others have begun."""
    if storage is None:
        yield
        return
    with get_lock_file(KernelLock(_beside(Path(storage), ".turn"))):
        yield


@contextmanager
def working(storage: str | Path | None) -> Iterator[str]:
    """Yield the name of a new worker, which counts as alive until the block is left or the process dies."""
    name = uuid.uuid4().hex
    if storage is None:
        yield name
        return
    path = _sign_of_life(Path(storage), name)
    with turn(storage):
        path.parent.mkdir(exist_ok=True)
        for other in path.parent.iterdir():
            _is_alive(storage, other.name)  # sweeps away what the dead left
        sign = open(path, "wb")  # noqa: SIM115 - open as long as this worker lives
        fcntl.flock(sign, fcntl.LOCK_EX)
    try:
        yield name
    finally:
        path.unlink(missing_ok=True)
        sign.close()


def retry_abandoned(study: optuna.Study, storage: str | Path | None) -> int:
    """Mark the running trials of dead workers as failed and enqueue their candidates again; how many there were."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    abandoned = [t for t in running if not _is_alive(storage, t.user_attrs.get(WORKER, ""))]
    for trial in abandoned:
        study.tell(trial.number, state=TrialState.FAIL)
        if trial.params:
            study.enqueue_trial(trial.params)
    return len(abandoned)


def _is_alive(storage: str | Path | None, worker: str) -> bool:
    if storage is None:
        return False  # a study in memory has one worker, and it is the one that asks
    path = _sign_of_life(Path(storage), worker)
    try:
        with open(path, "rb") as sign:
            fcntl.flock(sign, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    path.unlink(missing_ok=True)
    return False


def _sign_of_life(storage: Path, worker: str) -> Path:
    return _beside(storage, ".workers") / (worker or "none")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _mend_tail(path: Path) -> None:
    """Cut off an unfinished last line, which a full disk or a lost machine can leave; refuse what is no journal."""
    if not path.exists():
        return
    with open(path, "r+b") as file:
        content = file.read()
        if content and not content.startswith(b'{"op_code":'):
            raise ValueError("not a journal")
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
            file.flush()
            os.fsync(file.fileno())
