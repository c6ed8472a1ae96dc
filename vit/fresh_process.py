"""What `vit.memory.process_memory` runs in a process of its own: load, predict one image, tell the peak."""

from __future__ import annotations

import importlib
import resource
import sys
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")


def main(arguments: list[str]) -> None:
    """LOADER (module:function), FILE, THREADS, then the image's channels, height and width."""
    loader, file, threads, *shape = arguments
    module, _, function = loader.partition(":")
    load: Any = getattr(importlib.import_module(module), function)
    import torch

    torch.set_num_threads(int(threads))
    model = load(file)
    with torch.inference_mode():
        model(torch.zeros(1, *(int(side) for side in shape)))
    print(peak_bytes())


def checkpoint_model(file: str) -> Any:
    """The float model in a checkpoint."""
    from vit.checkpoint import load_checkpoint

    return load_checkpoint(file).model


def peak_bytes() -> int:
    """The most physical memory that this process has had.

    `ru_maxrss` of a process that was forked starts with its parent's; Linux tells its own in VmHWM.
    """
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    main(sys.argv[1:])
