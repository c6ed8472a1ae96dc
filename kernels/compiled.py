"""How compiled kernels are kept on disk, and compiled anew when any file of their family changes.

numba's own cache looks at the file of the function alone, and would go on with what its helpers once were.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding
from numba import njit

_OPTIONS: Any = {"error_model": "numpy", "_nrt": False}  # no reference counts: these kernels own no memory

if platform.machine() in ("x86_64", "AMD64"):
    # A maximum stays a conditional move: which of two times is later is a coin toss, and LLVM would bet on it.
    llvmlite.binding.set_option("kernels", "-x86-cmov-converter=0")

inlined = njit(forceinline=True, **_OPTIONS)

# As they are when the process begins: were a file changed later, what it compiles must not pass for the file's.
_SOURCES = {source.name: source.read_bytes() for source in sorted(Path(__file__).parent.glob("*.py"))}


def entry(signature: str, family: str) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function for one signature; it may call `inlined` functions from the files `family`*.py beside this."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = _kept(function, lambda name: name.startswith(family), _OPTIONS)
        dispatcher.compile(signature)
        dispatcher.disable_compile()
        return dispatcher

    return decorate


def kept(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`njit(nogil=True, **options)`, compiled at its first call; it may call functions from any file here but sim_*."""
    return lambda function: _kept(function, lambda name: not name.startswith("sim_"), options)


def _kept(function: Callable[..., Any], belongs: Callable[[str], bool], options: dict[str, Any]) -> Any:
    try:
        dispatcher: Any = njit(cache=True, nogil=True, **options)(function)
        sources = [source for name, source in _SOURCES.items() if belongs(name)]
        dispatcher._cache._cache_file._source_stamp = hashlib.sha256(b"".join(sources)).hexdigest()
    except (RuntimeError, AttributeError):  # nowhere to write, or another numba: compile in every process
        dispatcher = njit(nogil=True, **options)(function)
    return dispatcher
