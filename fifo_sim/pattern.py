"""Integer sequences of a pipeline (service times, need, rel), kept as one period where they repeat.

A billion firings over images of 64 tiles are 64 numbers and a step: memory follows the pattern, not the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vit.errors import InputError, require_int, require_known_keys

LARGEST = 2**61  # of any time or count; leaves room for two additions in int64
CHUNK = 1 << 20  # entries looked at together when long patterns are compared
Ints = npt.NDArray[np.int64]


class Loop(NamedTuple):
    """The part of a pattern that repeats.

    Attributes:
        first, last: where it begins and ends in the pattern's values.
        step: growth from one time round to the next.
        times: how often it runs; None: for ever.
    """

    first: int
    last: int
    step: int
    times: int | None


class Pattern:
    """A sequence: a head, a loop that may grow by a step each time round, and a tail.

    Args:
        values: one period of a sequence without end, or all elements of one that is written out.
        step: growth from one period to the next of a sequence without end.
        written_out: whether `values` are all there is; the part that repeats is looked for.
        grows: whether that part may have a step. Where it may not, it must be the whole sequence.

    Attributes:
        values: head, one time round the loop, and the tail less what the loop has grown until then.
        loop: where in `values` the loop is, and how it goes on.
        count: number of elements, where they were written out.
    """

    __slots__ = ("count", "loop", "values")

    def __init__(self, values: npt.ArrayLike, step: int = 0, written_out: bool = False, grows: bool = True) -> None:
        array = np.array(values, dtype=np.int64)
        self.count: int | None = None
        if written_out:
            self.values, self.loop = _looped(array, grows)
            self.count = len(array)
        else:
            self.values, self.loop = _shortest_divisor(array, step)
        self.values.flags.writeable = False

    @property
    def pure(self) -> bool:
        """Whether the loop is all: the sequence has neither head nor tail."""
        return self.loop.first == 0 and self.loop.times is None

    @property
    def most(self) -> int:
        """Largest number of the first time round."""
        return int(self.values[0]) if len(self.values) == 1 else int(self.values.max())

    def at(self, k: int) -> int:
        """Element k."""
        first, last, step, times = self.loop
        rounds = max(0, (k - first) // (last - first))
        if times is not None:
            rounds = min(rounds, times - 1)
        return int(self.values[k - rounds * (last - first)]) + step * rounds

    def expand(self, stop: int, start: int = 0) -> Ints:
        """Elements start to stop - 1, int64 of shape (stop - start,)."""
        first, last, step, times = self.loop
        k = np.arange(start, stop, dtype=np.int64)
        rounds = np.clip((k - first) // (last - first), 0, None if times is None else times - 1)
        elements: Ints = self.values[k - rounds * (last - first)] + step * rounds
        return elements

    def total(self, stop: int) -> int:
        """Sum of the first `stop` elements, as a Python int: it never wraps."""
        if not self.pure:
            return _exact_sum(self.expand(stop))
        if len(self.values) == 1 and not self.loop.step:
            return stop * int(self.values[0])
        whole, rest = divmod(stop, len(self.values))
        growth = self.loop.step * (len(self.values) * (whole * (whole - 1) // 2) + whole * rest)
        return whole * _exact_sum(self.values) + _exact_sum(self.values[:rest]) + growth

    def to_json(self, length: int, written_out: bool = True) -> list[int] | dict[str, Any]:
        """The first `length` elements as a list, or the repeating form that `parse_pattern` reads."""
        if written_out or not self.pure:
            return self.expand(length).tolist()  # type: ignore[no-any-return]
        return {"repeat": self.values.tolist(), "step": self.loop.step}

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Pattern):
            return NotImplemented
        return self.loop == other.loop and np.array_equal(self.values, other.values)

    def __hash__(self) -> int:
        return hash((self.loop, self.values.tobytes()))

    def __repr__(self) -> str:
        shown = self.values.tolist() if len(self.values) <= 8 else [*self.values[:7].tolist(), "..."]
        return f"Pattern({shown}, {self.loop})"

    def __getstate__(self) -> tuple[Ints, Loop, int | None]:
        return self.values, self.loop, self.count

    def __setstate__(self, state: tuple[Ints, Loop, int | None]) -> None:
        self.values, self.loop, self.count = state


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
    return Pattern(_integers(field, value, low), written_out=True, grows=grows)


def whole_number(value: object) -> object:
    """A numpy integer as the int it is; anything else unchanged."""
    return int(value) if isinstance(value, np.integer) else value


def pairs_in_chunks(a: Pattern, b: Pattern, stop: int) -> Iterator[tuple[int, Ints, Ints]]:
    """(first index, elements of a, elements of b) over as many of the first `stop` firings as tell the two apart.

    Over whole common periods the difference of two endless loops moves in a straight line: the first and the last
    such period suffice.
    """
    common = int(np.lcm(len(a.values), len(b.values)))
    spans = [(0, stop)]
    if a.pure and b.pure and 2 * common < stop:
        spans = [(0, common), (stop - common, stop)]
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


def _looped(array: Ints, grows: bool) -> tuple[Ints, Loop]:
    """Values and loop of a sequence that was written out: a loop around its middle, at least half as long as it is.

    Where there is none (or, unless it `grows`, none that is all there is), the whole sequence is one time round.
    """
    n, middle = len(array), (len(array) - 1) // 2
    growth = np.diff(array)
    for period in _candidates(growth, middle) if n > 1 else ():
        unequal = np.flatnonzero(growth[period:] != growth[:-period])
        where = int(np.searchsorted(unequal, middle))
        first = int(unequal[where - 1]) + 1 if where else 0
        end = int(unequal[where]) + period + 1 if where < len(unequal) else n
        step, times = int(array[first + period] - array[first]), (end - first) // period
        if times < 2 or 2 * (end - first) < n or (not grows and (step or end - first < n)):
            continue
        last = first + period
        if end == n:
            return array[:last].copy(), Loop(first, last, step, None)
        tail = array[first + times * period :] - step * (times - 1)
        return np.concatenate([array[:last], tail]), Loop(first, last, step, times)
    return array, Loop(0, n, 0, None)


def _candidates(growth: Ints, middle: int, most: int = 32) -> Iterator[int]:
    """Shifts at which what follows `middle` appears again: the periods it can be part of. 1 comes first."""
    if middle + 1 >= len(growth) or growth[middle] == growth[middle + 1]:
        yield 1
    text, start = (
        growth[middle:].tobytes(),
        growth[middle : middle + max(1, min(64, (len(growth) - middle) // 2))].tobytes(),
    )
    where = 0
    for _ in range(most):
        where = text.find(start, where + 1)
        while where >= 0 and where % 8:
            where = text.find(start, where + 1)
        if where < 0:
            return
        yield where // 8


def _shortest_divisor(array: Ints, step: int) -> tuple[Ints, Loop]:
    """The shortest period of a sequence without end."""
    n = len(array)
    for period in range(1, n // 2 + 1):
        if n % period == 0 and step % (n // period) == 0:
            part = step // (n // period)
            if np.array_equal(array[period:], array[:-period] + part):
                return array[:period].copy(), Loop(0, period, part, None)
    return array, Loop(0, n, step, None)


def _exact_sum(array: Ints) -> int:
    high, low = array >> 31, array & (2**31 - 1)
    return (int(high.sum()) << 31) + int(low.sum())
