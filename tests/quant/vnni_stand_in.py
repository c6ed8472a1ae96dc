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
    if function.__module__ in ("kernels.tiles", "kernels.gemm", "kernels.attention"):
        return njit(nogil=True, **options)(function)
    return kept(function, belongs, options)


compiled._kept = _kept
cpu, tiles = (import_module(f"kernels.{name}") for name in ("cpu", "tiles"))  # now, to be compiled in that way

emitted, features = tiles._call, cpu.features


def _call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    if "vpdpbusd" not in name:
        return emitted(builder, name, result, arguments)
    assert name == f"llvm.x86.avx512.vpdpbusd.{32 * result.count}"
    called = f"stand_in_{result.count}"
    return builder.call(builder.module.globals.get(called) or _stand_in(builder.module, called, result), arguments)


def _stand_in(module: Any, name: str, result: Any) -> Any:
    """The function that is called in place of the instruction; not inlined, which would take long to compile."""
    function = ir.Function(module, ir.FunctionType(result, [result] * 3), name)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block())
    sums, activations, weights = function.args
    lanes = result.count
    four, wide = ir.VectorType(tiles.I8, 4 * lanes), ir.VectorType(tiles.I32, 4 * lanes)
    products = builder.mul(
        builder.zext(builder.bitcast(activations, four), wide), builder.sext(builder.bitcast(weights, four), wide)
    )
    for byte in range(4):
        places = ir.Constant(ir.VectorType(tiles.I32, lanes), [4 * lane + byte for lane in range(lanes)])
        sums = builder.add(sums, builder.shuffle_vector(products, products, places))
    builder.ret(sums)
    return function


def _features() -> frozenset[str]:
    return features() | {"avx512vnni", "avx512vl", "avx512bw"}


tiles._call, cpu.features = _call, _features
