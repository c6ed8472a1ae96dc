"""The one exception for bad input: what a person at the keyboard can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input, told in one line: which field, what value, what is allowed, what to try.

    The command line prints it and exits with 2. It is a ValueError, so library users may catch either.
    """

    def __init__(self, field: str, value: object, allowed: str, hint: str = "") -> None:
        self.field, self.value, self.allowed, self.hint = field, value, allowed, hint
        shown = repr(value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        line = f"{field} = {shown}: allowed is {allowed}"
        super().__init__(" ".join((line + (f"; {hint}" if hint else "")).split()))

    def __reduce__(self) -> tuple[type[InputError], tuple[str, object, str, str]]:
        return type(self), (self.field, self.value, self.allowed, self.hint)


class EarlierWork(InputError):
    """A place that holds work with other settings. Commands that can forget it say how."""


def first_line(error: BaseException) -> str:
    """What an error of another library says, as far as it fits a line; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def require_int(field: str, value: object, low: int = 1, high: int | None = None) -> int:
    """`value` as an int in [low, high]; a bool, a fraction or anything else is an InputError."""
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if not is_int or value < low or (high is not None and value > high):  # type: ignore[operator]
        allowed = f"a whole number >= {low}" if high is None else f"a whole number from {low} to {high}"
        raise InputError(field, value, allowed)
    return value  # type: ignore[return-value]


def require_float(
    field: str, value: object, low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> float:
    """`value` as a float between `low` and `high` (an open end excludes the bound); anything else is an InputError."""
    allowed = f"a number in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise InputError(field, value, allowed)
    above = value > low if open_low else value >= low
    below = value < high if open_high else value <= high
    if not (above and below):  # also refuses NaN
        raise InputError(field, value, allowed)
    return float(value)


def require_choice(field: str, value: object, choices: Iterable[str]) -> str:
    """`value` if it is one of `choices`; otherwise an InputError that names them and the nearest one."""
    names = list(choices)
    if isinstance(value, str) and value in names:
        return value
    raise InputError(field, value, "one of " + ", ".join(names), did_you_mean(value, names))


def require_known_keys(field: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise an InputError for the first key in `given` that is not in `known`, suggesting the nearest known one."""
    names = list(known)
    for key in given:
        if key not in names:
            raise InputError(field, key, "one of " + ", ".join(names), did_you_mean(key, names))


def did_you_mean(word: object, names: Iterable[str]) -> str:
    """'did you mean X?' for the name nearest to `word`, or ''."""
    near = difflib.get_close_matches(str(word), list(names), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else ""
