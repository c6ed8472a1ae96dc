"""Work in pieces on the threads of the OpenMP library that the process has loaded: in a training, torch's own.

torch's threads wait for their next work in a busy loop. Threads beside them would have to share the processors with
that loop, and two cores would do the work of one.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from kernels import split

Result = TypeVar("Result")

_LIBRARY = "libgomp.so.1"
_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def run(work: Callable[[slice], Result], parts: list[slice], threads: int) -> list[Result]:
    """As kernels.split.run: `work` done on every slice, the results in the order of the slices."""
    threads = min(threads, len(parts))
    parallel = _parallel() if threads > 1 else None
    if parallel is None:
        return split.run(work, parts, threads)
    results: list[Any] = [None] * len(parts)
    errors: list[BaseException] = []
    left = iter(range(len(parts)))  # shared by the threads: taking the next one is a single step under the GIL

    def body(_: int | None) -> None:
        try:
            for i in left:
                results[i] = work(parts[i])
        except BaseException as error:  # raised again below: no exception may pass through the library's frames
            errors.append(error)

    parallel(_BODY(body), None, threads, 0)
    if errors:
        raise errors[0]
    return results


@cache
def _parallel() -> Any:
    """GOMP_parallel (function, its argument, threads, flags) of the library that is loaded; None without one."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(_LIBRARY, mode=os.RTLD_NOLOAD)
        parallel = library.GOMP_parallel
    except (OSError, AttributeError):
        return None
    parallel.argtypes, parallel.restype = [_BODY, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return parallel
