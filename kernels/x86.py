"""Vector instructions for the integer matrix product, as numba intrinsics built with llvmlite: no C compiler is needed.

One tile is `rows` rows of activations times 16 columns of weights: `rows` x 2 accumulators of eight int32 (or x 1 of
sixteen) stay in registers while the inner dimension goes by, four bytes of activations a step: four 8-bit values or two
of 16 bits. The layout of the weights is that of `kernels.gemm`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

I8, I16, I32, I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
BYTES, WORDS, INTS = ir.VectorType(I8, 32), ir.VectorType(I16, 16), ir.VectorType(I32, 8)
HALF = ir.VectorType(I8, 16)

ROWS = 4  # activations of a full tile
MORE_ROWS = 8  # where there are registers for them: a sum takes 4 or 5 cycles, in which others have to be begun
COLUMNS = 16
UNROLLED = 4  # steps of the widest path a turn of its loop


def _multiply_add_avx2(builder: Any, sums: Any, activations: Any, weights: Any) -> Any:
    """sums + the four products of each lane: vpmaddubsw, vpmaddwd by ones, vpaddd. Exact while |weight| <= 64, for then
    two products stay below 2^15: 2 * 255 * 64 = 32640."""
    pairs = _call(builder, "llvm.x86.avx2.pmadd.ub.sw", WORDS, [activations, weights])
    ones = ir.Constant(WORDS, [1] * 16)
    return builder.add(sums, _call(builder, "llvm.x86.avx2.pmadd.wd", INTS, [pairs, ones]))


def _multiply_add_vnni(builder: Any, sums: Any, activations: Any, weights: Any) -> Any:
    """The same by one vpdpbusd, exact for every int8 weight."""
    lanes = [builder.bitcast(v, sums.type) for v in (activations, weights)]
    return _call(builder, f"llvm.x86.avx512.vpdpbusd.{32 * sums.type.count}", sums.type, [sums, *lanes])


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


def _as_it_is(builder: Any, value: Any) -> Any:
    """The value, of which LLVM knows no more: else it computes the addresses of rows one from the other."""
    return builder.asm(ir.FunctionType(I64, [I64]), "", "=r,0", [value], side_effect=False)


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


def _joined(weights_of: Callable[..., Any]) -> Callable[..., Any]:
    """The two vectors of weights as one of 64 bytes."""

    def joined(builder: Any, address: Any, table: Any) -> tuple[list[Any], int]:
        (first, second), taken = weights_of(builder, address, table)
        return [builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(I32, 64), [*range(64)]))], taken

    return joined


def _tile(
    rows: int, multiply_add: Callable[..., Any], weights_of: Callable[..., Any], lanes: int = 8, unrolled: int = 1
) -> Any:
    """An intrinsic (activations, row stride, weights, table, steps, out, out stride): addresses and bytes as int64.

    out[r, 0:16] = the sum over the steps of row r's activations times the weights of 16 columns, int32.

    Args:
        rows: of activations.
        multiply_add, weights_of: one of the functions above each.
        lanes: sums in a vector, 8 or 16.
        unrolled: steps a turn of the loop; their number is a multiple of it. With 16 lanes, where registers are plenty,
            even and odd ones have sums of their own, so that one need not wait for the other.
    """
    vectors, chains = COLUMNS // lanes, min(unrolled, lanes // 8)
    ints, zeros = ir.VectorType(I32, lanes), ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)

    @intrinsic
    def tile(context, activations, stride, weights, table, steps, out, out_stride):  # type: ignore[no-untyped-def]
        signature = types.void(*[types.int64] * 7)

        def build(context, builder, _, arguments):  # type: ignore[no-untyped-def]
            activations, stride, weights, table, steps, out, out_stride = arguments
            once = _load(builder, table, HALF)
            twice = builder.shuffle_vector(once, once, ir.Constant(ir.VectorType(I32, 32), [*range(16)] * 2))
            groups = range(0, rows, 3)  # of rows, each with a pointer that the others are one or two strides behind
            starts = [builder.add(activations, builder.mul(stride, I64(r))) for r in groups]
            strides = [I64(0), stride, builder.shl(stride, I64(1))]
            before = builder.block
            loop, done = builder.append_basic_block("steps"), builder.append_basic_block("done")
            builder.branch(loop)
            builder.position_at_end(loop)
            step, place = builder.phi(I64), builder.phi(I64)
            moving = [builder.phi(I64) for _ in groups]
            begun = [[builder.phi(ints) for _ in range(vectors * rows)] for _ in range(chains)]
            sums = [list(chain) for chain in begun]
            pointers, ahead = [_as_it_is(builder, at) for at in moving] if rows > 1 else moving, place
            for turn in range(unrolled):
                values, taken = weights_of(builder, ahead, twice)
                chain = sums[turn % chains]
                for r in range(rows):
                    row = builder.add(builder.add(pointers[r // 3], strides[r % 3]), I64(4 * turn))
                    four = _load(builder, row, I32)
                    lane = builder.insert_element(ir.Constant(ints, ir.Undefined), four, I32(0))
                    four_each = builder.bitcast(builder.shuffle_vector(lane, lane, zeros), values[0].type)
                    for v, value in enumerate(values):
                        chain[vectors * r + v] = multiply_add(builder, chain[vectors * r + v], four_each, value)
                ahead = builder.add(ahead, I64(taken))
            following = builder.add(step, I64(unrolled))
            later = [builder.add(at, I64(4 * unrolled)) for at in pointers]
            builder.cbranch(builder.icmp_signed("<", following, steps), loop, done)
            phis = [(step, I64(0), following), (place, weights, ahead)]
            phis += zip(moving, starts, later, strict=True)
            for first, last in zip(begun, sums, strict=True):
                phis += [(phi, zeros, result) for phi, result in zip(first, last, strict=True)]
            for phi, first, later in phis:
                phi.add_incoming(first, before)
                phi.add_incoming(later, loop)
            builder.position_at_end(done)
            for r in range(rows):
                row = builder.add(out, builder.mul(out_stride, I64(r)))
                for v in range(vectors):
                    total = reduce(builder.add, [chain[vectors * r + v] for chain in sums])
                    target = builder.inttoptr(builder.add(row, I64(4 * lanes * v)), ints.as_pointer())
                    stored = builder.store(total, target)
                    stored.align = 1
            return context.get_dummy_value()

        return signature, build

    return tile


bytes_tile, bytes_row = (_tile(rows, _multiply_add_avx2, _plain_weights) for rows in (ROWS, 1))
bytes_tile_4bit, bytes_row_4bit = (_tile(rows, _multiply_add_avx2, _decoded_weights) for rows in (ROWS, 1))
vnni_tile, vnni_row = (_tile(rows, _multiply_add_vnni, _plain_weights) for rows in (ROWS, 1))
vnni_tile_4bit, vnni_row_4bit = (_tile(rows, _multiply_add_vnni, _decoded_weights) for rows in (ROWS, 1))
_plain_512, _decoded_512 = _joined(_plain_weights), _joined(_decoded_weights)
vnni512_tile, vnni512_half, vnni512_row = (
    _tile(rows, _multiply_add_vnni, _plain_512, 16, UNROLLED) for rows in (MORE_ROWS, ROWS, 1)
)
vnni512_tile_4bit, vnni512_half_4bit, vnni512_row_4bit = (
    _tile(rows, _multiply_add_vnni, _decoded_512, 16, UNROLLED) for rows in (MORE_ROWS, ROWS, 1)
)
words_tile, words_row = (_tile(rows, _multiply_add_words, _plain_weights) for rows in (ROWS, 1))
