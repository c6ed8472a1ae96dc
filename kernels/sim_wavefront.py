"""A chain of stages along its wavefront: in step t, stage s fires tile t - s, all stages side by side in vector lanes.

No firing waits for another of its step, but for slots given back at their starts, which therefore come first: the token
that it takes was written in the step before, in which its stage also fired the tile before.

What a step gives back is kept in a ring of rows, one a step: 1 + the start of stage s in column s. The room that a FIFO
of depth d behind stage s has for tile t - s came with tile t - s - d of stage s + 1, which started in step t + 1 - d.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from kernels.compiled import entry, inlined
from kernels.sim_vector import Lanes

Times = NDArray[Any]  # int32 or int64
Words = NDArray[np.uint64]
ONE = np.uint64(1)
BEGINS, ROOMS, SERVICE, KEPT = range(4)  # words of `where`: this step's row, the one after it, and where in the rest
_I32, _I64 = ir.IntType(32), ir.IntType(64)


@intrinsic
def _every_stage(
    context: Any,
    free: Any,
    arrivals: Any,
    blocked: Any,
    latencies: Any,
    services: Any,
    ring: Any,
    apart: Any,
    starts: Any,
    ends: Any,
    where: Any,
    even: Any,
    history: Any,
) -> Any:
    """`_stages` for all lanes, as LLVM; `even` if all FIFOs are equally deep."""
    arrays = free, arrivals, blocked, latencies, services, ring, apart, starts, ends, where
    signature = types.void(*arrays, even, history)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        arrays = [context.make_array(signature.args[i])(context, builder, values[i]) for i in range(10)]
        free, arrivals, blocked, latencies, services, ring, apart, starts, ends, where = (a.data for a in arrays)
        vector = Lanes(builder, context.get_value_type(signature.args[0].dtype))
        wide, every = ir.VectorType(_I64, vector.count), _I64(vector.count)
        one = ir.Constant(vector.type, [1] * vector.count)
        numbers = ir.Constant(vector.numbers, list(range(vector.count)))
        width = builder.extract_value(arrays[0].shape, 0)
        mask = builder.sub(builder.extract_value(arrays[5].shape, 0), _I64(1))
        begins, rooms, service, kept = (
            builder.load(builder.gep(where, [_I64(word)], source_etype=_I64), typ=_I64) for word in range(4)
        )

        def load(array: Any, index: Any) -> Any:
            return vector.load(array, index, vector.element, vector.type)

        def keep(times: Any, array: Any, lane: Any) -> None:
            place = builder.gep(array, [builder.add(kept, lane)], source_etype=_I64)
            times = builder.sext(times, wide) if vector.element.width < 64 else times
            builder.store(times, builder.bitcast(place, wide.as_pointer())).align = 8

        def start(history: bool) -> None:
            with cgutils.for_range_slice(builder, _I64(0), width, every, _I64) as (lane, _):
                begun = vector.later(load(free, lane), load(arrivals, lane))
                vector.store(begun, free, lane)
                vector.store(builder.add(begun, one), ring, builder.add(begins, lane))
                if history:
                    keep(begun, starts, lane)

        def end(even: bool, history: bool) -> None:
            depth = builder.load(apart, typ=_I32)
            row = builder.and_(builder.sub(rooms, builder.zext(depth, _I64)), mask)
            after = vector.splat(builder.trunc(rooms, _I32), vector.numbers)
            within = vector.splat(builder.trunc(mask, _I32), vector.numbers)
            with cgutils.for_range_slice(builder, _I64(0), width, every, _I64) as (lane, _):
                beside = builder.add(lane, _I64(1))
                if even:
                    room = load(ring, builder.add(row, beside))
                else:
                    back = vector.load(apart, lane, _I32, vector.numbers)
                    place = builder.and_(builder.sub(after, back), within)
                    room = vector.gather(ring, beside, builder.add(place, numbers))
                done = builder.add(load(free, lane), load(services, builder.add(service, lane)))
                ended = vector.later(done, room)
                vector.store(builder.add(load(blocked, lane), builder.sub(ended, done)), blocked, lane)
                vector.store(ended, free, lane)
                vector.store(builder.add(ended, load(latencies, lane)), arrivals, beside)
                if history:
                    keep(ended, ends, lane)

        even, history = values[10:]
        for keeping, holds in ((True, history), (False, builder.not_(history))):
            with builder.if_then(holds):
                start(keeping)
                with builder.if_else(even) as (then, otherwise):
                    with then:
                        end(True, keeping)
                    with otherwise:
                        end(False, keeping)
        return context.get_dummy_value()

    return signature, generate


_all_stages: Any = _every_stage


@inlined
def _stages(
    free: Times,
    arrivals: Times,
    blocked: Times,
    latencies: Times,
    services: Times,
    ring: Times,
    apart: NDArray[np.uint32],
    starts: Words,
    ends: Words,
    where: Words,
    low: Any,
    high: Any,
) -> None:
    """One step of stages low .. high - 1."""
    mask = np.uint64(ring.size) - ONE
    for s in range(low, high):
        begun = max(free[s], arrivals[s])
        free[s] = begun
        ring[where[BEGINS] + s] = begun + 1
        if starts.size > 0:
            starts[where[KEPT] + s] = np.uint64(begun)
    for s in range(low, high):
        done = free[s] + services[where[SERVICE] + s]
        ended = max(done, ring[((where[ROOMS] - np.uint64(apart[s])) & mask) + s + ONE])
        blocked[s] += ended - done
        free[s] = ended
        arrivals[s + ONE] = ended + latencies[s]
        if ends.size > 0:
            ends[where[KEPT] + s] = np.uint64(ended)


def _wavefront(
    free: Times,
    arrivals: Times,
    blocked: Times,
    latencies: Times,
    services: Times,
    ring: Times,
    apart: NDArray[np.uint32],
    peaks: Words,
    rising: Words,
    starts: Words,
    ends: Words,
    where: Words,
    stages: Any,
    tiles: Any,
    stride: Any,
) -> None:
    """Run a chain whose times all fit.

    A lane is a stage; lanes past the last stage, up to a whole number of vectors, take what that passes on and take no
    time for it, so nothing ever waits for them.

    Args:
        free, blocked: zeros, one a lane; end as the end of each stage, and the cycles it was blocked.
        arrivals: zeros, one more than lanes.
        latencies: of the FIFO behind each stage; 0 in other lanes.
        services: time of tile t - s of stage s at [t * stride + s]; 0 in lanes past the last stage.
        ring: zeros; as many rows as the deepest FIFO has slots, each longer than there are lanes, both powers of two.
        apart: depth of the FIFO behind each stage, times the length of a row; 1 for the depth in other lanes.
        peaks: ones; end as the largest occupancy of the FIFO behind each stage.
        rising: scratch, one for each FIFO.
        starts, ends: filled with the times of tile t - s of stage s at [t * lanes + s]; or of length 0.
        where: scratch of 4 words.
        stages, tiles: how many.
        stride: lanes, or 0 where each stage has one service time.
    """
    mask, row = np.uint64(ring.size) - ONE, np.uint64(apart[stages - ONE])
    history, even = starts.size > 0, True
    for s in range(stages - ONE):
        even = even and apart[s] == apart[0]
        rising[s] = s
    left = stages - ONE
    for t in range(tiles + stages - ONE):
        where[BEGINS], where[ROOMS] = (t * row) & mask, (t + ONE) * row
        where[SERVICE], where[KEPT] = t * stride, t * np.uint64(free.size)
        low, high = t - min(t, tiles - ONE), min(t + ONE, stages)
        if high - low == stages:
            _all_stages(free, arrivals, blocked, latencies, services, ring, apart, starts, ends, where, even, history)
        else:
            _stages(free, arrivals, blocked, latencies, services, ring, apart, starts, ends, where, low, high)
        i = np.uint64(0)
        while i < left:  # FIFOs that have not been full yet may hold one token more than ever before
            s = rising[i]
            if low <= s < high and ring[((where[ROOMS] - peaks[s] * row) & mask) + s + ONE] > free[s] + 1:
                peaks[s] += ONE
            if peaks[s] * row == apart[s]:
                left -= ONE
                rising[i] = rising[left]
            else:
                i += ONE


@cache
def wavefront_of(bits: int) -> Any:
    """The kernel for times of 32 or 64 bits."""
    times = ", ".join([f"int{bits}[::1]"] * 6)
    words = ", ".join(["uint64[::1]"] * 5)
    return entry(f"void({times}, uint32[::1], {words}, uint64, uint64, uint64)", family="sim_")(_wavefront)
