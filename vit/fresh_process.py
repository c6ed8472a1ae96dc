"""What `vit.memory.process_memory` runs in a process of its own: load, predict one image, tell the peak."""

from __future__ import annotations

import importlib
import resource
import sys
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")


def main(arguments: list[str]) -> None:
    """PREDICTOR (module:function), FILE, THREADS, then the image's channels, height and width."""
    predictor, file, threads, *shape = arguments
    module, _, function = predictor.partition(":")
    predict: Any = getattr(importlib.import_module(module), function)
    predict(file, tuple(int(side) for side in shape), int(threads))
    print(peak_bytes())


def predict_checkpoint(file: str, shape: tuple[int, int, int], threads: int) -> None:
    """One image by the float model in a checkpoint."""
    from vit.checkpoint import load_checkpoint

    predict_one(load_checkpoint(file).model, shape, threads)


def predict_one(model: Any, shape: tuple[int, int, int], threads: int) -> None:
    """One image by a torch model on that many threads."""
    import torch

    torch.set_num_threads(threads)
    with torch.inference_mode():
        model(torch.zeros(1, *shape))


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
