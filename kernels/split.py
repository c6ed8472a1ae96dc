"""Work on large arrays in pieces of a fixed size, on any number of threads: the result does not depend on how many."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

Result = TypeVar("Result")


def pieces(count: int, size: int) -> list[slice]:
    """`count` items cut into slices of `size`, the last one shorter."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def run(work: Callable[[slice], Result], parts: list[slice], threads: int) -> list[Result]:
    """`work` done on every slice; the results in the order of the slices. `work` must let go of the GIL to gain."""
    if threads <= 1 or len(parts) <= 1:
        return [work(part) for part in parts]
    return list(_pool(threads).map(work, parts))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="kernels")
