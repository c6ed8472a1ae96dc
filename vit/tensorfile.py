"""Tensors and JSON in one safetensors file with a checksum: never a pickle, whole or absent. Needs no torch."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from vit.errors import InputError
from vit.files import written_aside

VERSION = "1"
LABEL = "tilevit"


def write_tensors(path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any], kind: str) -> None:
    """Write arrays and JSON values as one safetensors file, aside and then renamed.

    Args:
        kind: what the file is, such as "checkpoint"; `read_tensors` asks for the same.

    Raises:
        InputError: the place cannot be written.
    """
    plain = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    text = json.dumps(metadata, allow_nan=False)
    label = {"format": f"tilevit {kind}", "version": VERSION, "json": text, "crc32": _checksum(plain, text)}
    with written_aside(path) as temporary:  # one header entry: safetensors writes several in any order
        temporary.write_bytes(save(plain, {LABEL: json.dumps(label)}))


def read_tensors(path: str | Path, kind: str, field: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and JSON values that `write_tensors` put into `path`.

    Args:
        kind: what the file must be.
        field: how an error names the input.

    Raises:
        InputError: absent, unreadable, damaged (the checksum disagrees) or another kind of file.
    """
    if not Path(path).is_file():
        raise InputError(field, str(path), f"an existing {kind} file")
    try:
        with safe_open(path, framework="numpy") as file:
            label = _label(file)
            found = label.get("format", "no file of tilevit")
            if found != f"tilevit {kind}":
                raise InputError(field, str(path), f"a {kind} file written by tilevit", f"this is: {found}")
            if label.get("version") != VERSION:
                hint = f"this is version {label.get('version')}: use the tilevit that wrote it"
                raise InputError(field, str(path), f"a {kind} file of version {VERSION}", hint)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if label.get("crc32") != _checksum(tensors, label["json"]):
            raise _damaged(field, path, kind, "its checksum disagrees")
        return tensors, json.loads(label["json"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise _damaged(field, path, kind, str(error)) from error


def kind_of(path: str | Path, field: str) -> str:
    """What `write_tensors` was told that the file in `path` is.

    Raises:
        InputError: absent, unreadable, or no file of tilevit.
    """
    if not Path(path).is_file():
        raise InputError(field, str(path), "an existing file")
    try:
        with safe_open(path, framework="numpy") as file:
            found = str(_label(file).get("format", ""))
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(field, path, "model", str(error)) from error
    if not found.startswith("tilevit "):
        raise InputError(field, str(path), "a file written by tilevit", f"this is: {found or 'a foreign file'}")
    return found.removeprefix("tilevit ")


def _label(file: Any) -> dict[str, Any]:
    label = json.loads((file.metadata() or {}).get(LABEL, "{}"))
    return label if isinstance(label, dict) else {}


def _damaged(field: str, path: str | Path, kind: str, reason: str) -> InputError:
    return InputError(field, str(path), f"a whole {kind} file", f"this one is damaged or foreign: {reason}")


def _checksum(tensors: Mapping[str, np.ndarray], text: str) -> str:
    total = zlib.crc32(text.encode())
    for name in sorted(tensors):
        array = tensors[name]
        total = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), total)
        total = zlib.crc32(array.reshape(-1).view(np.uint8).data, total)
    return f"{total:08x}"
