"""The folder of a run: whose it is, what is finished in it, and that only one process writes it."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TextIO

from tilevit.console import say
from vit.errors import InputError
from vit.files import read_json, read_toml, write_json, write_text

CONFIG = "config.toml"
LOCK = ".lock"
AS_WRITTEN = "the file as the run wrote it"
FRESH = "--fresh starts over"
CONTENTS = (
    "stages",
    "checkpoints",
    "plots",
    "results.json",
    "results.md",
    "stats.csv",
    "report.html",
    "packed.safetensors",
    "search",
    CONFIG,
)


class Settings(Protocol):
    """What a run is told: a RunConfig or a StepsConfig."""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON and TOML values."""

    def to_toml(self) -> str:
        """As the TOML file that reads back to `to_dict`."""


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

    def __init__(self, path: str | Path, config: Settings, *, fresh: bool = False) -> None:
        self.path = Path(path)
        made = not self.path.exists()
        self._history = ""  # checksum of what the stages so far left
        self._lock = self._take_lock()
        try:
            if fresh:
                self._forget()
            self._check_same(config)
            write_text(self.path / CONFIG, config.to_toml())
        except BaseException:
            self.close()
            if made:
                with suppress(OSError):  # of the two errors the first is told
                    (self.path / LOCK).unlink()
                    self.path.rmdir()
            raise

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.close()

    def stage(self, name: str, work: Callable[[], dict[str, Any]], files: Sequence[str] = ()) -> dict[str, Any]:
        """The result of a stage: read back if it is finished, else worked out and stored.

        A stage is finished when its record exists, which is written last and whole, and when its files are as it left
        them. One whose files were damaged or deleted is run again; so is each after it, unless the files come out as
        they were. `seconds` is added to the result.

        Args:
            work: runs the stage.
            files: what it leaves in the folder, by name.

        Raises:
            InputError: its record was changed since.
        """
        if not self._is_finished(name):
            began = time.perf_counter()
            result = work()
            result["seconds"] = round(time.perf_counter() - began, 3)
            left = {file: _fingerprint(self.path / file) for file in files}
            record = {"result": result, "files": left, "after": self._history}
            write_json(self._stage_file(name), {**record, "crc32": _checksum(record)})
        self._history = _checksum([self._history, self._record(name)["files"]])
        return self.finished(name)

    def finished(self, name: str) -> dict[str, Any]:
        """The stored result of a finished stage.

        Raises:
            InputError: its record was changed since.
        """
        result: dict[str, Any] = self._record(name)["result"]
        return result

    def _is_finished(self, name: str) -> bool:
        if not self._stage_file(name).exists():
            return False
        record = self._record(name)
        changed = [file for file, left in record["files"].items() if left != _fingerprint(self.path / file)]
        for file in changed:
            say(f"{self.path / file} is damaged or gone: {name} is run again")
        return not changed and record["after"] == self._history

    def _record(self, name: str) -> dict[str, Any]:
        file = self._stage_file(name)
        stored = read_json(file, "stage")
        checksum = stored.pop("crc32", None) if isinstance(stored, dict) else None
        if checksum is None or checksum != _checksum(stored) or stored.keys() != {"result", "files", "after"}:
            raise InputError("stage", str(file), AS_WRITTEN, FRESH)
        record: dict[str, Any] = stored
        return record

    def _stage_file(self, name: str) -> Path:
        return self.path / "stages" / f"{name}.json"

    def _check_same(self, config: Settings) -> None:
        file = self.path / CONFIG
        if not file.exists():
            return
        try:
            before, now = flattened(read_toml(file, "run")), flattened(config.to_dict())
        except InputError as error:
            raise InputError("run", str(file), AS_WRITTEN, f"{error.hint}; {FRESH}") from error
        if before.keys() != now.keys():
            key = min(before.keys() ^ now.keys())
            hint = f"{key} is {'too much' if key in before else 'missing'}; {FRESH}"
            raise InputError("run", str(file), AS_WRITTEN, hint)
        changed = [key for key in now if before[key] != now[key]]
        if changed:
            key = changed[0]
            raise InputError(
                key,
                now[key],
                f"{before[key]!r}, which the run in {self.path} was started with",
                f"another --out keeps both; {FRESH}",
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


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tables and lists of named tables as one: {"steps": [{"name": "a", "lr": 1}]} -> {"steps.a.lr": 1, ...}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            flat[f"{prefix}{key}"] = [item.get("name") for item in value]
            for item in value:
                flat |= flattened(item, f"{prefix}{key}.{item.get('name')}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _checksum(value: Any) -> str:
    return f"{zlib.crc32(json.dumps(value, sort_keys=True).encode()):08x}"


def _fingerprint(file: Path) -> list[Any] | None:
    """Size in bytes and CRC-32 of a file; None if it cannot be read."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    return [len(content), f"{zlib.crc32(content):08x}"]
