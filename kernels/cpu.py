"""What the CPU that numba compiles for can do, and the paths through the integer kernels that follow from it."""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import config
from numba.core import codegen

PATHS = ("vnni512", "vnni", "avx2", "portable")
VNNI512, VNNI, AVX2, PORTABLE = range(len(PATHS))


@cache
def features() -> frozenset[str]:
    """LLVM's names of the features that numba compiles for: the host's, unless its environment says otherwise."""
    host: Any = codegen.get_host_cpu_features
    told = getattr(config, "CPU_FEATURES", None)
    told = host() if told is None else told
    return frozenset(feature[1:] for feature in told.split(",") if feature.startswith("+"))


def can_take(path: int) -> bool:
    """Whether there are the instructions of a path, one of VNNI512, VNNI, AVX2 and PORTABLE."""
    has = features()
    if path == VNNI512:
        return {"avx2", "avx512bw", "avx512vnni"} <= has
    if path == VNNI:
        return "avx2" in has and ("avxvnni" in has or {"avx512vnni", "avx512vl"} <= has)
    return path == PORTABLE or "avx2" in has
