"""The most memory that one prediction needs: of its tensors, one by one, and of a process that does nothing else."""

from __future__ import annotations

import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vit.errors import InputError

CHECKPOINT = "vit.fresh_process:predict_checkpoint"


def peak_memory(model: nn.Module, images: Tensor) -> int:
    """Bytes of all tensors alive at once, at most, during one forward pass of these images in evaluation mode.

    Counts parameters, buffers, the images and every operator's result until it is freed: the same on each run, whatever
    the allocator keeps. On a GPU it is what torch's allocator reports, other tensors there included.
    """
    was_training = model.training
    model.eval()
    try:
        if images.is_cuda:
            torch.cuda.reset_peak_memory_stats(images.device)
            with torch.inference_mode():
                model(images)
            return torch.cuda.max_memory_allocated(images.device)
        with torch.no_grad(), _LiveBytes() as live:
            for tensor in (*model.parameters(), *model.buffers(), images):
                live.track(tensor)
            model(images)
        return live.peak
    finally:
        model.train(was_training)


def process_memory(file: str | Path, shape: tuple[int, int, int], predictor: str = CHECKPOINT) -> int:
    """Bytes of physical memory, at most, of a fresh process that loads `file` and predicts one image on the CPU.

    Python, torch and what else the predictor imports are in it, which is most of it for a small model.

    Args:
        file: a checkpoint, or what else the predictor takes.
        shape: (channels, height, width) of the image.
        predictor: "module:function" of a function of (file's name, shape, threads) that does it.

    Raises:
        InputError: the process failed; its last line is the reason.
    """
    arguments = [predictor, str(file), str(torch.get_num_threads()), *(str(side) for side in shape)]
    done = subprocess.run(
        [sys.executable, "-m", "vit.fresh_process", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise InputError("model", str(file), "a model that predicts in a process of its own", reason)
    return int(done.stdout.split()[-1])


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every storage that operators return, until it is freed; `peak` is the most bytes alive at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive: dict[int, int] = {}
        self.now = self.peak = 0

    def track(self, tensor: Tensor) -> None:
        """Count the tensor's storage, once, for as long as it lives."""
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if not key or key in self.alive:
            return
        self.alive[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self.now -= self.alive.pop(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.track(leaf)
        return result
