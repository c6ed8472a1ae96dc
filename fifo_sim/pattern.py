"""Integer sequences of a pipeline (service times, need, rel), kept as one period where they repeat.

A billion firings over images of 64 tiles are 64 numbers and a step: memory follows the pattern, not the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from vit.errors import InputError, require_int, require_known_keys

LARGEST = 2**61  # of any time or count; leaves room for two additions in int64
CHUNK = 1 << 20  # entries looked at together when long patterns are compared
Ints = npt.NDArray[np.int64]


class Pattern:
    """The sequence with element k = values[k % period] + step * (k // period).

    Args:
        values: one period.
        step: growth from one period to the next.
        count: how many elements were written out, where they were: a period is looked for; None for a pattern without
            an end.
        grows: whether a sequence that was written out may be taken for one with a step.

    The shortest period is found, so two patterns are equal when their elements are.
    """

    __slots__ = ("count", "step", "values")

    def __init__(self, values: npt.ArrayLike, step: int = 0, count: int | None = None, grows: bool = True) -> None:
        array = np.array(values, dtype=np.int64)
        if count is None:
            array, step = _shortest_divisor(array, step)
        elif count > 1:
            array, step = _shortest_period(array, grows)
        array.flags.writeable = False
        self.values, self.step, self.count = array, step, count

    @property
    def most(self) -> int:
        """Largest number of a period."""
        return int(self.values[0]) if len(self.values) == 1 else int(self.values.max())

    @property
    def period(self) -> int:
        """Length of the part that repeats."""
        return len(self.values)

    def at(self, k: int) -> int:
        """Element k."""
        return int(self.values[k % self.period]) + self.step * (k // self.period)

    def expand(self, stop: int, start: int = 0) -> Ints:
        """Elements start to stop - 1, int64 of shape (stop - start,)."""
        k = np.arange(start, stop, dtype=np.int64)
        return self.values[k % self.period] + self.step * (k // self.period)

    def total(self, stop: int) -> int:
        """Sum of the first `stop` elements, as a Python int: it never wraps."""
        if self.period == 1 and not self.step:
            return stop * int(self.values[0])
        whole, rest = divmod(stop, self.period)
        period_sum, rest_sum = _exact_sum(self.values), _exact_sum(self.values[:rest])
        growth = self.step * (self.period * (whole * (whole - 1) // 2) + whole * rest)
        return whole * period_sum + rest_sum + growth

    def largest(self, stop: int) -> int:
        """Largest of the first `stop` elements; the step must not be negative."""
        whole, rest = divmod(stop, self.period)
        ends = [int(self.values[:rest].max()) + self.step * whole] if rest else []
        return max(ends + ([int(self.values.max()) + self.step * (whole - 1)] if whole else []))

    def to_json(self, length: int, written_out: bool = True) -> list[int] | dict[str, Any]:
        """The first `length` elements as a list, or the repeating form that `parse` reads."""
        if written_out:
            return self.expand(length).tolist()  # type: ignore[no-any-return]
        return {"repeat": self.values.tolist(), "step": self.step}

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Pattern):
            return NotImplemented
        return self.step == other.step and np.array_equal(self.values, other.values)

    def __hash__(self) -> int:
        return hash((self.step, self.values.tobytes()))

    def __repr__(self) -> str:
        shown = self.values.tolist() if self.period <= 8 else [*self.values[:7].tolist(), "..."]
        return f"Pattern({shown}, step={self.step})"

    def __getstate__(self) -> tuple[Ints, int, int | None]:
        return self.values, self.step, self.count

    def __setstate__(self, state: tuple[Ints, int, int | None]) -> None:
        self.values, self.step, self.count = state


@lru_cache(maxsize=256)
def constant(value: int) -> Pattern:
    """The same number for ever."""
    return Pattern([value])


def parse_pattern(field: str, value: object, low: int, grows: bool = True) -> Pattern:
    """A Pattern from what a file or a caller gives: a sequence of whole numbers >= `low`, one a firing, a numpy integer
    array of shape (firings,), or {"repeat": sequence, "step": int} for one without an end.

    Raises:
        InputError: anything else.
    """
    if isinstance(value, Pattern):
        return value
    if isinstance(value, Mapping):
        require_known_keys(field, value, ["repeat", "step"] if grows else ["repeat"])
        if "repeat" not in value:
            raise InputError(field, dict(value), 'a list of whole numbers, or a table with the key "repeat"')
        step = require_int(f"{field}.step", value.get("step", 0), 0, LARGEST)
        return Pattern(_integers(f"{field}.repeat", value["repeat"], low), step)
    array = _integers(field, value, low)
    return Pattern(array, count=len(array), grows=grows)


def whole_number(value: object) -> object:
    """A numpy integer as the int it is; anything else unchanged."""
    return int(value) if isinstance(value, np.integer) else value


def pairs_in_chunks(a: Pattern, b: Pattern, stop: int) -> Iterator[tuple[int, Ints, Ints]]:
    """(first index, elements of a, elements of b) over as many of the first `stop` firings as tell the two apart.

    Over whole common periods the difference of two patterns moves in a straight line: its first and last one suffice.
    """
    common = int(np.lcm(a.period, b.period))
    spans = [(0, stop)] if 2 * common >= stop else [(0, common), (stop - common, stop)]
    for first, last in spans:
        for begin in range(first, last, CHUNK):
            end = min(begin + CHUNK, last)
            yield begin, a.expand(end, begin), b.expand(end, begin)


def _integers(field: str, value: object, low: int) -> Ints:
    allowed = f"a list of whole numbers from {low} to 2^61"
    if isinstance(value, np.ndarray):
        if value.ndim != 1 or value.dtype.kind not in "iu":
            raise InputError(field, f"array of {value.dtype} with shape {value.shape}", allowed)
        smallest, largest = (int(value.min()), int(value.max())) if len(value) else (low, low)
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for wrong in {type(item) for item in value} - {int}:
            if not issubclass(wrong, np.integer):
                item = next(item for item in value if type(item) is wrong)
                raise InputError(field, item, allowed)
        smallest, largest = min(value, default=low), max(value, default=low)
    else:
        raise InputError(field, value, allowed)
    if len(value) == 0:
        raise InputError(field, [], allowed, "it is empty")
    if smallest < low or largest > LARGEST:
        raise InputError(field, int(smallest if smallest < low else largest), allowed)
    return np.asarray(value, dtype=np.int64)


def _shortest_period(array: Ints, grows: bool) -> tuple[Ints, int]:
    """The shortest repeating part of a sequence that was written out, if it repeats at least twice."""
    n, growth = len(array), np.diff(array)
    if (growth == growth[0]).all() and (grows or growth[0] == 0):
        return array[:1].copy(), int(growth[0])
    for period in _candidates(growth):
        step = int(array[period] - array[0])
        if (grows or step == 0) and 2 * period <= n and np.array_equal(growth[period:], growth[:-period]):
            return array[:period].copy(), step
    return array, 0


def _candidates(growth: Ints, most: int = 32) -> Iterator[int]:
    """Shifts at which the start of `growth` appears again: the only ones at which it can repeat."""
    text, start = growth.tobytes(), growth[: min(64, len(growth) // 2)].tobytes()
    where = 0
    for _ in range(most):
        where = text.find(start, where + 1)
        while where >= 0 and where % 8:
            where = text.find(start, where + 1)
        if where < 0:
            return
        yield where // 8


def _shortest_divisor(array: Ints, step: int) -> tuple[Ints, int]:
    n = len(array)
    for period in range(1, n // 2 + 1):
        if n % period == 0 and step % (n // period) == 0:
            part = step // (n // period)
            if np.array_equal(array[period:], array[:-period] + part):
                return array[:period].copy(), part
    return array, step


def _exact_sum(array: Ints) -> int:
    high, low = array >> 31, array & (2**31 - 1)
    return (int(high.sum()) << 31) + int(low.sum())
