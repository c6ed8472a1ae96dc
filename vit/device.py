"""Which device to compute on, from what a person asked for."""

from __future__ import annotations

import torch

from vit.errors import InputError, require_choice


def resolve_device(device: str | torch.device = "cpu") -> torch.device:
    """The torch device for "cpu", "cuda", "cuda:N" or "auto" (a GPU if there is one).

    Raises:
        InputError: unknown, or a GPU that this machine does not have.
    """
    kind, _, index = str(device).partition(":")
    require_choice("device", kind, ("auto", "cpu", "cuda"))
    if index and not (kind == "cuda" and index.isdecimal()):
        raise InputError("device", str(device), "auto, cpu, cuda or cuda:N")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "auto":
        kind = "cuda" if gpus else "cpu"
    if kind == "cuda" and int(index or 0) >= gpus:
        available = ", ".join(f"cuda:{i}" for i in range(gpus))
        hint = f"torch sees {available}" if gpus else "torch sees no CUDA GPU here"
        raise InputError("device", str(device), "a device of this machine, such as cpu", hint)
    return torch.device(kind, int(index or 0)) if kind == "cuda" else torch.device("cpu")
