"""The folder of a run: whose it is, what is finished in it, and that only one process writes it."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from tilevit.settings import RunConfig
from vit.errors import InputError
from vit.files import read_json, read_toml, write_json, write_text

CONFIG = "config.toml"
LOCK = ".lock"
CONTENTS = (
    "stages",
    "checkpoints",
    "plots",
    "results.json",
    "stats.csv",
    "report.html",
    "packed.safetensors",
    "search",
    CONFIG,
)


class RunFolder:
    """A folder that remembers finished stages, so that the same command goes on where it was stopped.

    Args:
        path: the folder; made if absent.
        config: the resolved settings; a folder made with others is refused.
        fresh: forget what is there and start over.

    Raises:
        InputError: made with other settings, in use by another process, not writable, or (with `fresh`) holding
            other files.
    """

    def __init__(self, path: str | Path, config: RunConfig, *, fresh: bool = False) -> None:
        self.path = Path(path)
        self._lock = self._take_lock()
        try:
            if fresh:
                self._forget()
            self._check_same(config)
            write_text(self.path / CONFIG, config.to_toml())
        except BaseException:
            self.close()
            raise

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.close()

    def stage(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a stage: read back if it is finished, else worked out and stored.

        A stage is finished when its file exists, and the file is written last and whole; `seconds` is added to it.
        """
        if self._stage_file(name).exists():
            return self.finished(name)
        began = time.perf_counter()
        result = work()
        result["seconds"] = round(time.perf_counter() - began, 3)
        write_json(self._stage_file(name), {"result": result, "crc32": _checksum(result)})
        return self.finished(name)

    def finished(self, name: str) -> dict[str, Any]:
        """The stored result of a finished stage.

        Raises:
            InputError: its file was changed since.
        """
        file = self._stage_file(name)
        stored = read_json(file, "stage")
        result = stored.get("result") if isinstance(stored, dict) else None
        if not isinstance(result, dict) or stored.get("crc32") != _checksum(result):
            raise InputError("stage", str(file), "the file as the run wrote it", "--fresh starts over")
        return result

    def _stage_file(self, name: str) -> Path:
        return self.path / "stages" / f"{name}.json"

    def _check_same(self, config: RunConfig) -> None:
        file = self.path / CONFIG
        if not file.exists():
            return
        before, now = read_toml(file, "run"), config.to_dict()
        changed = [key for key in now if before.get(key) != now[key]]
        if changed:
            key = changed[0]
            raise InputError(
                key,
                now[key],
                f"{before.get(key)!r}, which the run in {self.path} was started with",
                "another --out keeps both; --fresh starts over",
            )

    def _forget(self) -> None:
        others = [entry.name for entry in self.path.iterdir() if entry.name != LOCK]
        if others and CONFIG not in others:
            raise InputError("out", str(self.path), "a folder of an earlier run, with --fresh", "it holds other files")
        for name in CONTENTS:
            entry = self.path / name
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)

    def _take_lock(self) -> TextIO:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = open(self.path / LOCK, "w")  # noqa: SIM115  (held open for the life of the run)
        except OSError as error:
            raise InputError("out", str(self.path), "a folder that can be written", f"{error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.close()
            raise InputError("out", str(self.path), "a folder no other process is running in") from None
        return handle


def _checksum(result: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(result, sort_keys=True).encode()):08x}"
