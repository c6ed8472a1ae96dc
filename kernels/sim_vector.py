"""Loops over vector lanes written as LLVM: where a slot is looked up for each lane, plain loops do not vectorise.

A lane is one of many runs side by side. Slots of a FIFO lie as (slot, lane); which slot a lane looks at depends on its
depth, so reading one is a gather. All indices are unsigned; the number of lanes is a multiple of a vector's.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

VECTOR_BITS = 256
_I1, _I32, _I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


class Lanes:
    """Vectors of one element type, and what is done with them."""

    def __init__(self, builder: Any, element: ir.IntType) -> None:
        self.builder, self.element = builder, element
        self.count = VECTOR_BITS // element.width
        self.type = ir.VectorType(element, self.count)
        self.numbers = ir.VectorType(_I32, self.count)

    def splat(self, value: Any, kind: Any) -> Any:
        nothing = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(nothing, value, _I32(0))
        return self.builder.shuffle_vector(first, nothing, ir.Constant(self.numbers, [0] * self.count))

    def load(self, pointer: Any, index: Any, element: Any, kind: Any) -> Any:
        place = self.builder.gep(pointer, [index], source_etype=element)
        loaded = self.builder.load(self.builder.bitcast(place, kind.as_pointer()), typ=kind)
        loaded.align = element.width // 8
        return loaded

    def store(self, value: Any, pointer: Any, index: Any) -> None:
        place = self.builder.gep(pointer, [index], source_etype=self.element)
        stored = self.builder.store(value, self.builder.bitcast(place, self.type.as_pointer()))
        stored.align = self.element.width // 8

    def gather(self, pointer: Any, base: Any, index: Any) -> Any:
        """Elements pointer[base + index] of a vector of 32-bit unsigned indices."""
        if self.element.width == 64:
            index = self.builder.zext(index, self.type)
        places = self.builder.gep(
            self.builder.gep(pointer, [base], source_etype=self.element), [index], source_etype=self.element
        )
        places.type = ir.VectorType(ir.PointerType(), self.count)
        mask = ir.VectorType(_I1, self.count)
        kind = ir.FunctionType(self.type, [places.type, _I32, mask, self.type])
        name = f"llvm.masked.gather.v{self.count}i{self.element.width}.v{self.count}p0"
        function = self.builder.module.globals.get(name) or ir.Function(self.builder.module, kind, name)
        arguments = [places, _I32(self.element.width // 8), ir.Constant(mask, [1] * self.count)]
        return self.builder.call(function, [*arguments, ir.Constant(self.type, ir.Undefined)])

    def later(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.icmp_signed(">", a, b), a, b)

    def looked_up(self, slots: Any, base: Any, shifts: Any, shift: Any, now: Any, mask: Any) -> Any:
        """slots[base + ((now + shifts[shift + lane]) & mask)] for each lane."""
        apart = self.load(shifts, shift, _I32, self.numbers)
        index = self.builder.and_(self.builder.add(apart, now), mask)
        return self.gather(slots, base, index)


OUTPUT_WORDS = 6  # base, there, shift, now, mask, latency of one output


def _quick(inputs: int, outputs: int) -> Any:
    """The loop `quick_of_lanes[inputs, outputs]`."""

    @intrinsic
    def fire(context: Any, free: Any, slots: Any, shifts: Any, where: Any, service: Any, lanes: Any) -> Any:
        signature = types.void(free, slots, shifts, where, service, lanes)

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            free, slots, shifts, where = (
                context.make_array(signature.args[i])(context, builder, values[i]).data for i in range(4)
            )
            service, lanes = values[4:]
            vector = Lanes(builder, context.get_value_type(signature.args[1].dtype))

            def word(number: int) -> Any:
                return builder.load(builder.gep(where, [_I64(number)], source_etype=_I64), typ=_I64)

            def splat_number(value: Any) -> Any:
                return vector.splat(builder.trunc(value, _I32), vector.numbers)

            def splat_time(value: Any) -> Any:
                narrow = value if vector.element.width == 64 else builder.trunc(value, vector.element)
                return vector.splat(narrow, vector.type)

            stage, heres = word(0), [word(1 + i) for i in range(inputs)]
            ways = [[word(1 + inputs + OUTPUT_WORDS * o + w) for w in range(OUTPUT_WORDS)] for o in range(outputs)]
            nows, masks = [splat_number(way[3]) for way in ways], [splat_number(way[4]) for way in ways]
            latencies, service = [splat_time(way[5]) for way in ways], vector.splat(service, vector.type)
            one = ir.Constant(vector.type, [1] * vector.count)
            with cgutils.for_range_slice(builder, _I64(0), lanes, _I64(vector.count), _I64) as (lane, _):
                mine = builder.add(stage, lane)
                begun = vector.load(free, mine, vector.element, vector.type)
                for here in heres:
                    seen = vector.load(slots, builder.add(here, lane), vector.element, vector.type)
                    begun = vector.later(begun, seen)
                for here in heres:
                    vector.store(builder.add(begun, one), slots, builder.add(here, lane))
                ended = builder.add(begun, service)
                for way, now, mask in zip(ways, nows, masks, strict=True):
                    room = vector.looked_up(slots, way[0], shifts, builder.add(way[2], lane), now, mask)
                    ended = vector.later(ended, room)
                vector.store(ended, free, mine)
                for way, latency in zip(ways, latencies, strict=True):
                    vector.store(builder.add(ended, latency), slots, builder.add(way[1], lane))
            return context.get_dummy_value()

        return signature, generate

    return fire


# Fire a stage with so many plain inputs and outputs, in every lane; `where` holds the stage, here for each input, and
# OUTPUT_WORDS for each output:
#   begun = max(free[stage], slots[here] of all inputs); slots[here] = begun + 1
#   free[stage] = max(begun + service, slots[base + ((now + shifts[shift]) & mask)] of all outputs)
#   slots[there] = free[stage] + latency
quick_of_lanes = {(inputs, outputs): _quick(inputs, outputs) for inputs in (1, 2) for outputs in (1, 2, 3)}


@intrinsic
def _wait_for_room(
    context: Any, times: Any, slots: Any, shifts: Any, base: Any, shift: Any, now: Any, mask: Any, lanes: Any
) -> Any:
    """times = max(times, slots[base + ((now + shifts[shift]) & mask)]), in every lane."""
    signature = types.void(times, slots, shifts, base, shift, now, mask, lanes)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        arrays = [context.make_array(signature.args[i])(context, builder, values[i]).data for i in range(3)]
        times, slots, shifts = arrays
        base, shift, now, mask, lanes = values[3:]
        vector = Lanes(builder, context.get_value_type(signature.args[1].dtype))
        now, mask = vector.splat(now, vector.numbers), vector.splat(mask, vector.numbers)
        with cgutils.for_range_slice(builder, _I64(0), lanes, _I64(vector.count), _I64) as (lane, _):
            room = vector.looked_up(slots, base, shifts, builder.add(shift, lane), now, mask)
            time = vector.load(times, lane, vector.element, vector.type)
            vector.store(vector.later(time, room), times, lane)
        return context.get_dummy_value()

    return signature, generate


wait_for_room: Any = _wait_for_room
