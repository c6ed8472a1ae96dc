"""A CPU with VNNI on one without: a pytest plugin under which plain operations stand in for vpdpbusd.

Intel's definition of the instruction: each 32-bit lane grows by the four products of a byte without sign and a byte
with sign, without saturation. All else of the paths, layouts, loops and decoding, is the code that VNNI would run.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from llvmlite import ir
from numba import njit

from kernels import compiled

kept = compiled._kept


def _kept(function: Callable[..., Any], belongs: Callable[[str], bool], options: dict[str, Any]) -> Any:
    """What the stand-in is in must not be kept on disk, to be taken for the real kernel later."""
    if "vnni" in function.__name__:
        return njit(nogil=True, **options)(function)
    return kept(function, belongs, options)


compiled._kept = _kept
gemm, x86 = (import_module(f"kernels.{name}") for name in ("gemm", "x86"))  # now, to be compiled in that way

emitted, host_features = x86._call, gemm._host_features


def _call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    if "vpdpbusd" not in name:
        return emitted(builder, name, result, arguments)
    sums, activations, weights = arguments
    lanes = result.count
    assert name == f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
    four, wide = ir.VectorType(x86.I8, 4 * lanes), ir.VectorType(x86.I32, 4 * lanes)
    products = builder.mul(
        builder.zext(builder.bitcast(activations, four), wide), builder.sext(builder.bitcast(weights, four), wide)
    )
    for byte in range(4):
        places = ir.Constant(ir.VectorType(x86.I32, lanes), [4 * lane + byte for lane in range(lanes)])
        sums = builder.add(sums, builder.shuffle_vector(products, products, places))
    return sums


def _host_features() -> dict[str, bool]:
    return {**host_features(), "avx512vnni": True, "avx512vl": True, "avx512bw": True}


x86._call, gemm._host_features = _call, _host_features
