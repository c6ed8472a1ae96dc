"""Products of small float32 matrices that are in cache, as those of one attention head: tiles in vector registers.

The tile is a numba intrinsic of plain LLVM vectors: whatever the CPU, its own instructions come out of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from kernels.compiled import kept
from kernels.emit import carry, load, store

F32 = NDArray[np.float32]

I64, LANES = ir.IntType(64), 8
FLOAT = ir.FloatType()
VECTOR = ir.VectorType(FLOAT, LANES)


def _tile(rows: int, vectors: int) -> Any:
    """An intrinsic (a, a stride, a step, b, b stride, inner, out, out stride), addresses and bytes as int64:
    out[0:rows, 0:8 vectors] = a[0:rows, 0:inner] @ b[0:inner, 0:8 vectors]; `step` is from one value of a row of a to
    the next."""

    @intrinsic
    def tile(context, a, a_stride, a_step, b, b_stride, inner, out, out_stride):  # type: ignore[no-untyped-def]
        signature = types.void(*[types.int64] * 8)

        def build(context, builder, _, arguments):  # type: ignore[no-untyped-def]
            a, a_stride, a_step, b, b_stride, inner, out, out_stride = arguments
            starts = [builder.add(a, builder.mul(a_stride, I64(r))) for r in range(rows)]
            before = builder.block
            loop, done = builder.append_basic_block("inner"), builder.append_basic_block("done")
            builder.branch(loop)
            builder.position_at_end(loop)
            step, along, place = builder.phi(I64), builder.phi(I64), builder.phi(I64)
            sums = [builder.phi(VECTOR) for _ in range(rows * vectors)]
            right = [load(builder, builder.add(place, I64(32 * v)), VECTOR, 4) for v in range(vectors)]
            results = []
            for r in range(rows):
                value = load(builder, builder.add(starts[r], along), FLOAT, 4)
                lane = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), value, ir.IntType(32)(0))
                spread = builder.shuffle_vector(
                    lane, lane, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
                )
                for v in range(vectors):
                    product = builder.fmul(spread, right[v], flags=("contract",))
                    results.append(builder.fadd(sums[r * vectors + v], product, flags=("contract",)))
            following, ahead = builder.add(step, I64(1)), builder.add(place, b_stride)
            further = builder.add(along, a_step)
            builder.cbranch(builder.icmp_signed("<", following, inner), loop, done)
            zero = ir.Constant(VECTOR, [0.0] * LANES)
            pairs = zip(sums, results, strict=True)
            counters = (step, I64(0), following), (along, I64(0), further), (place, b, ahead)
            carry((*counters, *((p, zero, r) for p, r in pairs)), before, loop)
            builder.position_at_end(done)
            for r in range(rows):
                row = builder.add(out, builder.mul(out_stride, I64(r)))
                for v in range(vectors):
                    store(builder, results[r * vectors + v], builder.add(row, I64(32 * v)), 4)
            return context.get_dummy_value()

        return signature, build

    return tile


_four_by_two, _four_by_one = _tile(4, 2), _tile(4, 1)
_one_by_two, _one_by_one = _tile(1, 2), _tile(1, 1)


@kept()
def product(a: F32, inner: int, b: F32, out: F32) -> None:
    """out (m, n) = a (m, >= inner) @ b (>= inner, n), n a multiple of 8, inner at least 1.

    Rows of b and out are contiguous; a may have any strides, a transpose's among them.
    """
    rows, columns = len(out), out.shape[1]
    a_stride, a_step, b_stride, out_stride = a.strides[0], a.strides[1], b.shape[1] * 4, out.shape[1] * 4
    for column in range(0, columns, 16):
        right = b.ctypes.data + column * 4
        at, to = a.ctypes.data, out.ctypes.data + column * 4
        wide = column + 16 <= columns
        for _ in range(rows // 4):
            if wide:
                _four_by_two(at, a_stride, a_step, right, b_stride, inner, to, out_stride)
            else:
                _four_by_one(at, a_stride, a_step, right, b_stride, inner, to, out_stride)
            at, to = at + 4 * a_stride, to + 4 * out_stride
        for _ in range(rows % 4):
            if wide:
                _one_by_two(at, a_stride, a_step, right, b_stride, inner, to, out_stride)
            else:
                _one_by_one(at, a_stride, a_step, right, b_stride, inner, to, out_stride)
            at, to = at + a_stride, to + out_stride
