"""Optuna's gRPC proxy before a database, on a port of this machine: python -m tests.nas.proxy_server DATABASE PORT."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optuna.storages import get_storage, run_grpc_proxy_server

ROOT = Path(__file__).parents[2]


@contextmanager
def server(database: str) -> Iterator[str]:
    """Yield the address of the server, which may take a moment to answer; `database` is a URL of SQLAlchemy's."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.nas.proxy_server", database, str(port)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        try:
            yield f"grpc://127.0.0.1:{port}"
        finally:
            process.kill()


if __name__ == "__main__":
    run_grpc_proxy_server(get_storage(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]))
