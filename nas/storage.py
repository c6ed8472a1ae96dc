"""The place that a `storage` argument names, and whether a search is there."""

from __future__ import annotations

import shutil
from pathlib import Path

import optuna

from nas.place import Memory, Place
from vit.errors import InputError

STUDY = "search"  # the one in each place


def open_place(storage: str | Path | None) -> Place:
    """A journal file (made if absent), PostgreSQL for postgresql://…, Optuna's proxy for grpc://…, None for memory.

    Raises:
        InputError: neither, or it cannot be used.
    """
    if storage is None:
        return Memory()
    if isinstance(storage, str) and storage.startswith("postgresql://"):
        from nas.postgres import PostgreSQL

        return PostgreSQL(storage)
    if isinstance(storage, str) and storage.startswith("grpc://"):
        from nas.grpc_proxy import GrpcProxy

        return GrpcProxy(storage)
    if not isinstance(storage, (str, Path)) or is_url(storage) or not Path(storage).name:
        allowed = "the path of a journal file, postgresql://USER@HOST/DATABASE or grpc://HOST:PORT"
        raise InputError("storage", storage, allowed)
    from nas.journal import JournalFile

    return JournalFile(Path(storage))


def holds_study(storage: str | Path) -> bool:
    """Whether a search was begun there."""
    if not is_url(storage):
        return Path(storage).exists()
    place = open_place(storage)
    place.close()
    return STUDY in optuna.get_all_study_names(place.storage)


def forget(storage: str | Path) -> None:
    """Remove the search that was begun there, if there was one; of a journal the files beside it too.

    Raises:
        InputError: what is there is no journal, and is left as it is; or a server that cannot be used.
    """
    if not is_url(storage):
        from nas.journal import beside, starts_as_journal

        path = Path(storage)
        if path.exists() and not (path.is_file() and starts_as_journal(path.read_bytes())):
            raise InputError("storage", str(path), "a journal file of Optuna", "it does not read as one, and is kept")
        for left in (path, *beside(path)):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    elif holds_study(storage):
        place = open_place(storage)
        place.close()
        optuna.delete_study(study_name=STUDY, storage=place.storage)


def is_url(storage: str | Path) -> bool:
    """Whether a storage is a server and no file."""
    return "://" in str(storage)
