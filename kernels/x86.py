"""Vector instructions for the integer matrix product, as numba intrinsics built with llvmlite: no C compiler is needed.

One tile is `rows` rows of activations times 16 columns of weights: `rows` x 2 accumulators of eight int32 stay in
registers while the inner dimension goes by, four bytes of activations a step: four 8-bit values or two of 16 bits. The
layout of the weights is that of `kernels.gemm`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

I8, I16, I32, I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
BYTES, WORDS, INTS = ir.VectorType(I8, 32), ir.VectorType(I16, 16), ir.VectorType(I32, 8)
HALF = ir.VectorType(I8, 16)

ROWS = 4  # activations of a full tile
COLUMNS = 16


def _multiply_add_avx2(builder: Any, sums: Any, activations: Any, weights: Any) -> Any:
    """sums + the four products of each lane: vpmaddubsw, vpmaddwd by ones, vpaddd. Exact while |weight| <= 64, for then
    two products stay below 2^15: 2 * 255 * 64 = 32640."""
    pairs = _call(builder, "llvm.x86.avx2.pmadd.ub.sw", WORDS, [activations, weights])
    ones = ir.Constant(WORDS, [1] * 16)
    return builder.add(sums, _call(builder, "llvm.x86.avx2.pmadd.wd", INTS, [pairs, ones]))


def _multiply_add_vnni(builder: Any, sums: Any, activations: Any, weights: Any) -> Any:
    """The same by one vpdpbusd, exact for every int8 weight."""
    lanes = [builder.bitcast(v, INTS) for v in (activations, weights)]
    return _call(builder, "llvm.x86.avx512.vpdpbusd.256", INTS, [sums, *lanes])


def _multiply_add_words(builder: Any, sums: Any, activations: Any, weights: Any) -> Any:
    """sums + two products of 16-bit values a lane: vpmaddwd, vpaddd. Exact for all codes; half the values a step."""
    words = [builder.bitcast(v, WORDS) for v in (activations, weights)]
    return builder.add(sums, _call(builder, "llvm.x86.avx2.pmadd.wd", INTS, words))


def _call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, arguments)


def _load(builder: Any, address: Any, kind: Any) -> Any:
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = 1
    return value


def _plain_weights(builder: Any, address: Any, _: Any) -> tuple[list[Any], int]:
    """Two vectors of int8 weights from 64 bytes."""
    second = builder.add(address, I64(32))
    return [_load(builder, address, BYTES), _load(builder, second, BYTES)], 64


def _decoded_weights(builder: Any, address: Any, table: Any) -> tuple[list[Any], int]:
    """Two vectors of int8 weights from 32 bytes of 4-bit codes: the low halves of the bytes are the first vector's, the
    high halves the second's; a byte shuffle looks each code up in the table of 16 levels."""
    codes = _load(builder, address, BYTES)
    mask = ir.Constant(BYTES, [15] * 32)
    words = builder.bitcast(codes, WORDS)
    high = builder.bitcast(builder.lshr(words, ir.Constant(WORDS, [4] * 16)), BYTES)
    picked = [builder.and_(codes, mask), builder.and_(high, mask)]
    return [_call(builder, "llvm.x86.avx2.pshuf.b", BYTES, [table, indices]) for indices in picked], 32


def _tile(rows: int, multiply_add: Callable[..., Any], weights_of: Callable[..., Any]) -> Any:
    """An intrinsic (activations, row stride, weights, table, steps, out, out stride): addresses and bytes as int64.

    out[r, 0:16] = the sum over the steps of row r's activations times the weights of 16 columns, int32.
    """

    @intrinsic
    def tile(context, activations, stride, weights, table, steps, out, out_stride):  # type: ignore[no-untyped-def]
        signature = types.void(*[types.int64] * 7)

        def build(context, builder, _, arguments):  # type: ignore[no-untyped-def]
            activations, stride, weights, table, steps, out, out_stride = arguments
            once = _load(builder, table, HALF)
            twice = builder.shuffle_vector(once, once, ir.Constant(ir.VectorType(I32, 32), [*range(16)] * 2))
            starts = [builder.add(activations, builder.mul(stride, I64(r))) for r in range(rows)]
            before = builder.block
            loop, done = builder.append_basic_block("steps"), builder.append_basic_block("done")
            builder.branch(loop)
            builder.position_at_end(loop)
            step, place = builder.phi(I64), builder.phi(I64)
            sums = [builder.phi(INTS) for _ in range(2 * rows)]
            vectors, taken = weights_of(builder, place, twice)
            offset = builder.shl(step, I64(2))
            results = []
            for r in range(rows):
                four = _load(builder, builder.add(starts[r], offset), I32)
                lane = builder.insert_element(ir.Constant(INTS, ir.Undefined), four, I32(0))
                lanes = builder.shuffle_vector(lane, lane, ir.Constant(INTS, [0] * 8))
                for v, vector in enumerate(vectors):
                    results.append(multiply_add(builder, sums[2 * r + v], builder.bitcast(lanes, BYTES), vector))
            following = builder.add(step, I64(1))
            ahead = builder.add(place, I64(taken))
            builder.cbranch(builder.icmp_signed("<", following, steps), loop, done)
            for phi, first, later in (
                (step, I64(0), following),
                (place, weights, ahead),
                *((phi, ir.Constant(INTS, [0] * 8), result) for phi, result in zip(sums, results, strict=True)),
            ):
                phi.add_incoming(first, before)
                phi.add_incoming(later, loop)
            builder.position_at_end(done)
            for r in range(rows):
                row = builder.add(out, builder.mul(out_stride, I64(r)))
                for v in range(2):
                    target = builder.inttoptr(builder.add(row, I64(32 * v)), INTS.as_pointer())
                    stored = builder.store(results[2 * r + v], target)
                    stored.align = 1
            return context.get_dummy_value()

        return signature, build

    return tile


bytes_tile, bytes_row = (_tile(rows, _multiply_add_avx2, _plain_weights) for rows in (ROWS, 1))
bytes_tile_4bit, bytes_row_4bit = (_tile(rows, _multiply_add_avx2, _decoded_weights) for rows in (ROWS, 1))
vnni_tile, vnni_row = (_tile(rows, _multiply_add_vnni, _plain_weights) for rows in (ROWS, 1))
vnni_tile_4bit, vnni_row_4bit = (_tile(rows, _multiply_add_vnni, _decoded_weights) for rows in (ROWS, 1))
words_tile, words_row = (_tile(rows, _multiply_add_words, _plain_weights) for rows in (ROWS, 1))
