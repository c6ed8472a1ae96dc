"""Mixed integer programs, by scipy's HiGHS."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def milp(*arguments: Any, **options: Any) -> Any:
    """`scipy.optimize.milp`, but what its solver prints by itself goes to stderr: stdout belongs to the result."""
    from scipy.optimize import milp as solve

    with _stdout_aside():
        return solve(*arguments, **options)


@contextmanager
def _stdout_aside() -> Iterator[None]:
    """Within the block the process's standard output is its standard error, for libraries in C, too."""
    try:
        os.fstat(2)
        kept = os.dup(1)
    except OSError:  # one of them is closed
        yield
        return
    try:
        os.dup2(2, 1)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
