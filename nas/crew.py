"""More processes for one search on this machine: each is a worker of the same study."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vit.image_set import DataSplits, ImageSet

PATIENCE_SECONDS = 60.0  # for helpers to see that the study is complete


@contextmanager
def helpers(
    count: int, search: Callable[..., object], data: DataSplits, arguments: Mapping[str, Any]
) -> Iterator[None]:
    """While the block runs, `count` more processes call `search(data=data, **arguments)`, without the test images.

    All processes, this one included, share the cores evenly. Left without an error, the block waits for the helpers,
    which end by themselves when the study is complete; left by an error, it ends them. A helper whose parent dies ends
    at once.
    """
    import torch

    threads = torch.get_num_threads()
    share = max(1, threads // (count + 1))
    start = multiprocessing.get_context("spawn").Process  # a fork would inherit torch's locks, but not its threads
    splits = (data.name, data.train, data.val, data.flip)
    crew = [start(target=_help, args=(search, splits, dict(arguments), share), daemon=True) for _ in range(count)]
    for process in crew:
        process.start()
    torch.set_num_threads(share)
    try:
        yield
        for process in crew:
            process.join(PATIENCE_SECONDS)
    finally:
        torch.set_num_threads(threads)
        for process in crew:
            process.kill()
            process.join()


def _help(search: Callable[..., object], splits: tuple[Any, ...], arguments: dict[str, Any], threads: int) -> None:
    import torch

    from vit.image_set import DataSplits

    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    name, train, val, flip = splits
    search(data=DataSplits(name, train, val, _no_test, flip=flip), **arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _no_test() -> ImageSet:
    raise AssertionError("a search reads no test images")
