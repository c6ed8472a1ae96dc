"""A study in a journal file, whose lock and running trials do not outlive the process that holds them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock, get_lock_file

from nas.place import Place
from vit.errors import InputError

LOCK, TURN, WORKERS = ".lock", ".turn", ".workers"  # what stands beside a journal, after its name


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


class JournalFile(Place):
    """A journal file of Optuna (made if absent), for the workers of one machine.

    Raises:
        InputError: the file cannot be written, or is no Optuna journal.
    """

    def __init__(self, path: Path) -> None:
        lock_path = _beside(path, LOCK)
        self._path, self.name, lock, locked = path, str(path), KernelLock(lock_path), lock_path.exists()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with get_lock_file(lock):
                _mend_tail(path)
            self.storage = JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
        except OSError as error:
            raise InputError("storage", str(path), "a writable file", f"the system says: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if not locked:
                lock_path.unlink(missing_ok=True)
            raise InputError("storage", str(path), "a journal file of Optuna", "it does not read as one") from error

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A lock on a file beside the journal."""
        with get_lock_file(KernelLock(_beside(self._path, TURN))):
            yield

    @contextmanager
    def sign_of_life(self, worker: str) -> Iterator[None]:
        """A lock on a file of the worker's own."""
        path = self._sign(worker)
        with self.turn():
            path.parent.mkdir(exist_ok=True)
            for other in path.parent.iterdir():
                self.is_alive(other.name)  # sweeps away what the dead left
            sign = open(path, "wb")  # noqa: SIM115 - open as long as this worker lives
            fcntl.flock(sign, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            sign.close()

    def is_alive(self, worker: str) -> bool:
        """Whether somebody holds the lock of the worker's file; one that nobody holds is removed."""
        path = self._sign(worker)
        try:
            with open(path, "rb") as sign:
                fcntl.flock(sign, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        path.unlink(missing_ok=True)
        return False

    def _sign(self, worker: str) -> Path:
        return _beside(self._path, WORKERS) / (worker or "none")


def beside(path: Path) -> list[Path]:
    """The files and folders that go with a journal."""
    return [_beside(path, suffix) for suffix in (LOCK, TURN, WORKERS)]


def starts_as_journal(content: bytes) -> bool:
    """Whether a file with this content may be a journal, perhaps one without any entry yet."""
    return not content or content.startswith(b'{"op_code":')


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _mend_tail(path: Path) -> None:
    """Cut off an unfinished last line, which a full disk or a lost machine can leave; refuse what is no journal."""
    if not path.exists():
        return
    with open(path, "r+b") as file:
        content = file.read()
        if not starts_as_journal(content):
            raise ValueError("not a journal")
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
            file.flush()
            os.fsync(file.fileno())
