"""Tiles of the integer matrix product, as numba intrinsics built with llvmlite: no C compiler is needed.

One tile is `rows` rows of activations times 16 columns of weights: `rows` x 2 accumulators of eight int32 (or x 1 of
sixteen) stay in registers while the inner dimension goes by, four bytes of activations a step: four 8-bit values or two
of 16 bits. The layout of the weights is that of `kernels.gemm`. The instructions are chosen when the tile runs, by
`path` and `kind`, out of those that the CPU has when it is emitted. `product` is a whole matrix product, tile by tile.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels.compiled import kept
from kernels.cpu import AVX2, PORTABLE, VNNI, VNNI512, can_take
from kernels.emit import carry, load, store

BYTES, FOUR_BIT, WORDS = KINDS = range(3)  # weights of 8 bits, as 4-bit codes of 16 levels, and of 16 bits

I8, I16, I32, I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
EIGHTS, SIXTEENS, INTS = ir.VectorType(I8, 32), ir.VectorType(I16, 16), ir.VectorType(I32, 8)

COLUMNS = 16
ROWS = 4  # activations of a full tile
MORE_ROWS = 8  # where there are registers for them: a sum takes 4 or 5 cycles, in which others have to be begun
UNROLLED = 4  # steps of the widest path a turn of its loop


class Instructions(NamedTuple):
    """How a tile of one path and kind is computed.

    Attributes:
        multiply_add: one of the functions below.
        lanes: sums in a vector, 8 or 16.
        unrolled: steps a turn of the loop; their number is a multiple of it. With 16 lanes, where registers are plenty,
            even and odd ones have sums of their own, so that one need not wait for the other.
    """

    multiply_add: Callable[..., Any]
    lanes: int = 8
    unrolled: int = 1


def _multiply_add_avx2(builder: Any, sums: Any, activations: Any, weights: Any) -> Any:
    """sums + the four products of each lane: vpmaddubsw, vpmaddwd by ones, vpaddd. Exact while |weight| <= 64, for then
    two products stay below 2^15: 2 * 255 * 64 = 32640."""
    pairs = _call(builder, "llvm.x86.avx2.pmadd.ub.sw", SIXTEENS, [activations, weights])
    ones = ir.Constant(SIXTEENS, [1] * 16)
    return builder.add(sums, _call(builder, "llvm.x86.avx2.pmadd.wd", INTS, [pairs, ones]))


def _multiply_add_vnni(builder: Any, sums: Any, activations: Any, weights: Any) -> Any:
    """The same by one vpdpbusd, exact for every int8 weight."""
    lanes = [builder.bitcast(v, sums.type) for v in (activations, weights)]
    return _call(builder, f"llvm.x86.avx512.vpdpbusd.{32 * sums.type.count}", sums.type, [sums, *lanes])


def _multiply_add_words(builder: Any, sums: Any, activations: Any, weights: Any) -> Any:
    """sums + two products of 16-bit values a lane: vpmaddwd, vpaddd. Exact for all codes; half the values a step."""
    words = [builder.bitcast(v, SIXTEENS) for v in (activations, weights)]
    return builder.add(sums, _call(builder, "llvm.x86.avx2.pmadd.wd", INTS, words))


def _multiply_add_anywhere(builder: Any, sums: Any, activations: Any, weights: Any) -> Any:
    """The same by plain operations, which LLVM has for every CPU."""
    wide = ir.VectorType(I32, 16)
    products = builder.mul(*(builder.sext(builder.bitcast(v, SIXTEENS), wide) for v in (activations, weights)))
    for first in (0, 1):
        places = ir.Constant(INTS, [*range(first, 16, 2)])
        sums = builder.add(sums, builder.shuffle_vector(products, products, places))
    return sums


def _call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, arguments)


def _as_it_is(builder: Any, value: Any) -> Any:
    """The value, of which LLVM knows no more: else it computes the addresses of rows one from the other."""
    return builder.asm(ir.FunctionType(I64, [I64]), "", "=r,0", [value], side_effect=False)


INSTRUCTIONS = {
    (VNNI512, BYTES): Instructions(_multiply_add_vnni, 16, UNROLLED),
    (VNNI, BYTES): Instructions(_multiply_add_vnni),
    (AVX2, BYTES): Instructions(_multiply_add_avx2),
    (AVX2, WORDS): Instructions(_multiply_add_words),
    (PORTABLE, WORDS): Instructions(_multiply_add_anywhere),
}


def _tile(rows: int) -> Any:
    """An intrinsic (path, kind, activations, row stride, weights, steps, out, out stride), of addresses and bytes:
    out[r, 0:16] = the sum over the steps of row r's activations times the weights of 16 columns, int32."""

    @intrinsic
    def tile(context, path, kind, activations, stride, weights, steps, out, out_stride):  # type: ignore[no-untyped-def]
        signature = types.void(*[types.int64] * 8)

        def build(context, builder, _, arguments):  # type: ignore[no-untyped-def]
            path, kind, *where = arguments
            done = builder.append_basic_block("tiled")
            chosen = builder.switch(builder.add(builder.mul(path, I64(len(KINDS))), kind), done)
            for (path_of, kind_of), instructions in INSTRUCTIONS.items():
                if can_take(path_of) and (rows <= ROWS or instructions.lanes == 16):
                    begin = builder.append_basic_block("begin")
                    chosen.add_case(I64(path_of * len(KINDS) + kind_of), begin)
                    builder.position_at_end(begin)
                    _emit(builder, rows, instructions, *where)
                    builder.branch(done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        return signature, build

    return tile


def _emit(
    builder: Any,
    rows: int,
    instructions: Instructions,
    activations: Any,
    stride: Any,
    weights: Any,
    steps: Any,
    out: Any,
    out_stride: Any,
) -> None:
    """The loop of one tile, by one set of instructions."""
    multiply_add, lanes, unrolled = instructions
    vectors, chains = COLUMNS // lanes, min(unrolled, lanes // 8)
    ints, zeros = ir.VectorType(I32, lanes), ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
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
        vectors_of = [builder.add(ahead, I64(4 * lanes * v)) for v in range(vectors)]
        values = [load(builder, address, ir.VectorType(I8, 4 * lanes)) for address in vectors_of]
        chain = sums[turn % chains]
        for r in range(rows):
            row = builder.add(builder.add(pointers[r // 3], strides[r % 3]), I64(4 * turn))
            four = load(builder, row, I32)
            lane = builder.insert_element(ir.Constant(ints, ir.Undefined), four, I32(0))
            four_each = builder.bitcast(builder.shuffle_vector(lane, lane, zeros), values[0].type)
            for v, value in enumerate(values):
                chain[vectors * r + v] = multiply_add(builder, chain[vectors * r + v], four_each, value)
        ahead = builder.add(ahead, I64(4 * COLUMNS))
    following = builder.add(step, I64(unrolled))
    later = [builder.add(at, I64(4 * unrolled)) for at in pointers]
    builder.cbranch(builder.icmp_signed("<", following, steps), loop, done)
    phis = [(step, I64(0), following), (place, weights, ahead)]
    phis += zip(moving, starts, later, strict=True)
    for first, last in zip(begun, sums, strict=True):
        phis += [(phi, zeros, result) for phi, result in zip(first, last, strict=True)]
    carry(phis, before, loop)
    builder.position_at_end(done)
    for r in range(rows):
        row = builder.add(out, builder.mul(out_stride, I64(r)))
        for v in range(vectors):
            total = reduce(builder.add, [chain[vectors * r + v] for chain in sums])
            store(builder, total, builder.add(row, I64(4 * lanes * v)))


eight_rows, four_rows, one_row = (_tile(rows) for rows in (MORE_ROWS, ROWS, 1))


def _decoded(context, codes, table, out):  # type: ignore[no-untyped-def]
    """A step of weights, 64 bytes, from 32 bytes of 4-bit codes: the low halves of the bytes are the first 32 weights,
    the high halves the others; a byte shuffle looks each code up in the table of 16 levels. All by address."""

    def build(context, builder, _, arguments):  # type: ignore[no-untyped-def]
        if not can_take(AVX2):  # nor are there layers of codes
            return context.get_dummy_value()
        codes, table, out = arguments
        once = load(builder, table, ir.VectorType(I8, 16))
        twice = builder.shuffle_vector(once, once, ir.Constant(ir.VectorType(I32, 32), [*range(16)] * 2))
        both = load(builder, codes, EIGHTS)
        high = builder.lshr(builder.bitcast(both, SIXTEENS), ir.Constant(SIXTEENS, [4] * 16))
        for i, half in enumerate((both, builder.bitcast(high, EIGHTS))):
            index = builder.and_(half, ir.Constant(EIGHTS, [15] * 32))
            levels = _call(builder, "llvm.x86.avx2.pshuf.b", EIGHTS, [twice, index])
            store(builder, levels, builder.add(out, I64(32 * i)))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), build


_decode: Any = intrinsic(_decoded)


@kept(_nrt=False)
def product(path, kind, codes, stride, steps, weights, table, decoded, sums):  # type: ignore[no-untyped-def]
    """sums (rows, columns) = codes @ weights, int32; columns in whole tiles.

    Args:
        path, kind: FOUR_BIT, or one of INSTRUCTIONS.
        codes: address of the activations, `stride` bytes from row to row; 4 * `steps` bytes of each are read.
        weights: address of the tiles.
        table, decoded: for FOUR_BIT, addresses of the 16 levels and of room for a tile of bytes, which all rows read.
    """
    i64 = np.int64  # one type for all kinds of whole numbers: a second form of the next function would take a second
    _product(i64(path), i64(kind), i64(codes), i64(stride), i64(steps), i64(weights), i64(table), i64(decoded), sums)


@kept(_nrt=False)
def _product(path, kind, codes, stride, steps, weights, table, decoded, sums):  # type: ignore[no-untyped-def]
    width, four_bit = 4 * sums.shape[1], kind == FOUR_BIT
    for column in range(sums.shape[1] // COLUMNS):
        tile = weights + column * 4 * COLUMNS * steps
        if four_bit:
            tile = decoded
            for step in range(steps):
                _decode(weights + (column * steps + step) * 2 * COLUMNS, table, tile + step * 4 * COLUMNS)
        kind_of = BYTES if four_bit else kind
        at, to, left = codes, sums.ctypes.data + column * 4 * COLUMNS, len(sums)
        while path == VNNI512 and left >= MORE_ROWS:
            eight_rows(path, kind_of, at, stride, tile, steps, to, width)
            at, to, left = at + MORE_ROWS * stride, to + MORE_ROWS * width, left - MORE_ROWS
        while left >= ROWS:
            four_rows(path, kind_of, at, stride, tile, steps, to, width)
            at, to, left = at + ROWS * stride, to + ROWS * width, left - ROWS
        while left > 0:
            one_row(path, kind_of, at, stride, tile, steps, to, width)
            at, to, left = at + stride, to + width, left - 1
