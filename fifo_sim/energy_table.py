"""What one operation costs, in pJ: the published constants, and how they scale to other widths and memory sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import log, sqrt
from typing import Any

from vit.errors import require_float, require_known_keys

WORD_BITS = 64  # the access width of the memory constants


@dataclass(frozen=True)
class EnergyTable:
    """Energy of single operations in pJ, at the anchor points of the literature.

    The defaults are those of a 45 nm process at 0.9 V: integer arithmetic, SRAM and DRAM from M. Horowitz, "Computing's
    energy problem (and what we can do about it)", ISSCC 2014, figure 1.1.9; shifts from ShiftAddViT (You et al. 2023).
    They are kept for every preset, so that machines compare by what they do and not by their process.

    Attributes:
        add_8b_pj, add_32b_pj: integer addition.
        multiply_8b_pj, multiply_32b_pj: integer multiplication.
        shift_8b_pj, shift_32b_pj: shift, what a multiplication by a power of two costs.
        sram_8kib_pj, sram_32kib_pj, sram_1mib_pj: reading or writing 64 bits of an SRAM of that size.
        dram_pj: moving 64 bits to or from DRAM (Horowitz gives 1,300 to 2,600; the lower end is used).

    Raises:
        InputError: a constant is no number above 0.
    """

    add_8b_pj: float = 0.03
    add_32b_pj: float = 0.1
    multiply_8b_pj: float = 0.2
    multiply_32b_pj: float = 3.1
    shift_8b_pj: float = 0.024
    shift_32b_pj: float = 0.13
    sram_8kib_pj: float = 10.0
    sram_32kib_pj: float = 20.0
    sram_1mib_pj: float = 100.0
    dram_pj: float = 1300.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = require_float(f"energy.{field.name}", getattr(self, field.name), 0, 1e9, open_low=True)
            object.__setattr__(self, field.name, value)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EnergyTable:
        """The table with the given constants and the defaults for the rest; an unknown name is an InputError."""
        require_known_keys("energy", values, [f.name for f in fields(cls)])
        return cls(**values)

    def to_dict(self) -> dict[str, float]:
        """All constants, in pJ."""
        return asdict(self)

    def add(self, bits: float) -> float:
        """One integer addition of `bits` wide operands, pJ."""
        return _power_law(bits, (8, self.add_8b_pj), (32, self.add_32b_pj))

    def multiply(self, bits_a: float, bits_b: float) -> float:
        """One integer multiplication, pJ. A multiplier's area is the product of its widths: a x b costs as sqrt(ab)."""
        return _power_law(sqrt(bits_a * bits_b), (8, self.multiply_8b_pj), (32, self.multiply_32b_pj))

    def shift(self, bits: float) -> float:
        """One shift of a `bits` wide operand, pJ."""
        return _power_law(bits, (8, self.shift_8b_pj), (32, self.shift_32b_pj))

    def mac(self, weight_bits: float, activation_bits: float, accumulator_bits: float, coding: str = "int") -> float:
        """One multiply-accumulate, pJ.

        Args:
            coding: what the weights are. "int": a multiplication. "pot" (one power of two): a shift. "apot" (a sum of
                two powers of two): two shifts and an addition. Each is followed by the addition to the accumulator.
        """
        accumulate = self.add(accumulator_bits)
        if coding == "pot":
            return self.shift(activation_bits) + accumulate
        if coding == "apot":
            return 2 * self.shift(activation_bits) + 2 * accumulate
        return self.multiply(weight_bits, activation_bits) + accumulate

    def sram(self, bits: float, size_bytes: float) -> float:
        """Moving `bits` in or out of an SRAM of `size_bytes`, pJ; constant below 8 KiB, log-log between the anchors."""
        small, middle, large = (8192.0, self.sram_8kib_pj), (32768.0, self.sram_32kib_pj), (2.0**20, self.sram_1mib_pj)
        size = max(size_bytes, small[0])
        anchors = (small, middle) if size < middle[0] else (middle, large)
        return bits / WORD_BITS * _power_law(size, *anchors)

    def dram(self, bits: float) -> float:
        """Moving `bits` to or from DRAM, pJ."""
        return bits / WORD_BITS * self.dram_pj


def _power_law(x: float, low: tuple[float, float], high: tuple[float, float]) -> float:
    """The value at `x` of the power law through two points: additions grow about linearly, multiplications squared."""
    exponent = log(high[1] / low[1]) / log(high[0] / low[0])
    return low[1] * float((x / low[0]) ** exponent)
