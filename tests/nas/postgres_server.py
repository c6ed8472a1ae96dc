"""A PostgreSQL server of the tests' own, on a port of this machine, gone when they end."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER = "postgres" if os.getuid() == 0 else None  # the server refuses to run as root


def binaries() -> Path | None:
    """Where initdb and pg_ctl are, or None: Debian keeps them off the PATH."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "pg_ctl").exists()), None)


needs_server = pytest.mark.skipif(
    binaries() is None, reason="PostgreSQL is not installed: the tests of PostgreSQL are skipped"
)


@contextmanager
def server() -> Iterator[str]:
    """Yield the address of an empty database."""
    place = binaries()
    assert place is not None
    folder = Path(tempfile.mkdtemp(prefix="tilevit-postgres-"))
    try:
        if USER:
            shutil.chown(folder, USER)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        data = str(folder / "data")
        _run(place / "initdb", "-D", data, "-U", "tilevit", "--auth=trust", "--no-sync", "-E", "UTF8")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        _run(place / "pg_ctl", "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            yield f"postgresql://tilevit@127.0.0.1:{port}/postgres"
        finally:
            _run(place / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(*command: object) -> None:
    subprocess.run(
        [str(part) for part in command], check=True, user=USER, cwd="/", stdout=subprocess.DEVNULL, timeout=120
    )
