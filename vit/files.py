"""Files that are whole or absent: written aside, flushed to disk, then renamed into place."""

from __future__ import annotations

import json
import os
import re
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vit.errors import InputError


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path` in one step, on failure nothing is left.

    Raises:
        InputError: the folder cannot be made or written (read-only, full, not a folder), or `path` is no file.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        if target.exists() and not target.is_file():  # root could rename over a device
            raise InputError("output", str(target), "a file", "this is a folder, a device or a pipe")
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=target.suffix, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            "output", str(target), "a writable place with free space", f"the system says: {reason}"
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with written_aside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all. NaN and infinities are refused: they are no JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path, field: str = "file") -> Any:
    """The JSON in `path`.

    Raises:
        InputError: absent, unreadable, not JSON (with line and column), or a table with a key twice.
    """
    text = read_text(path, field)
    try:
        return json.loads(text, object_pairs_hook=_each_key_once)
    except (ValueError, RecursionError) as error:
        raise InputError(field, str(path), "a JSON file", f"it does not parse: {error}") from error


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one table")
    return table


def read_toml(path: str | Path, field: str = "file") -> dict[str, Any]:
    """The table in a TOML file.

    Raises:
        InputError: absent, unreadable, or not TOML (with line and column).
    """
    text = read_text(path, field)
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        reason = str(error)
        if reason.endswith("(at end of document)"):
            last = max(1, len(text.splitlines()))
            reason = f"{reason.removesuffix(')')}, line {last}: is it cut off?)"
        raise InputError(field, str(path), "a TOML file", f"it does not parse: {reason}") from error


def read_text(path: str | Path, field: str = "file") -> str:
    """The UTF-8 text in `path`; an InputError if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(field, str(path), "a readable file", f"the system says: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(field, str(path), "a UTF-8 text file", f"byte {error.start} is not UTF-8") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def toml_line(key: str, value: Any) -> str:
    """`key = value` in TOML: numbers, text, true and false, and lists and tables of them."""
    return f"{_toml_key(key)} = {_toml_value(value)}"


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(toml_line(key, item) for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
