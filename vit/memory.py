"""The most memory that one prediction needs, followed tensor by tensor."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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
