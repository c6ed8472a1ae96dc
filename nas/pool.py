"""The candidates a sampler chooses from, as rows of numbers: parameters encoded, known objectives computed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from vit.errors import InputError

Floats = npt.NDArray[np.float64]
Params = dict[str, Any]
NEAR = 0.1  # of a range: how far a number moves to a near one


@dataclass(frozen=True)
class Pool:
    """Candidates, by row: a key, the parameters, these as numbers (rows, columns) and the costs (rows, known)."""

    keys: Sequence[tuple[Any, ...]]
    candidates: Sequence[Params]
    encoded: Floats
    costs: Floats

    def without(self, keys: Set[tuple[Any, ...]]) -> Pool:
        """The candidates with other keys."""
        return self._take([i for i, key in enumerate(self.keys) if key not in keys])

    def joined(self, other: Pool) -> Pool:
        """These candidates and those of `other` that are not among them."""
        known = set(self.keys)
        new = other._take([i for i, key in enumerate(other.keys) if key not in known])
        return Pool(
            [*self.keys, *new.keys],
            [*self.candidates, *new.candidates],
            np.vstack([self.encoded, new.encoded]),
            np.vstack([self.costs, new.costs]),
        )

    def _take(self, rows: list[int]) -> Pool:
        return Pool(
            [self.keys[i] for i in rows], [self.candidates[i] for i in rows], self.encoded[rows], self.costs[rows]
        )


class Encoder:
    """Parameters as numbers: one column between 0 and 1 if they have an order, else a one-hot code over sqrt(2).

    The code puts any two values without order at distance 1. A categorical parameter whose choices are all numbers has
    an order, and its values lie evenly.

    Attributes:
        owner: the parameter that each column belongs to, by its place in the space.
    """

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        self._columns = {name: _Column(name, distribution) for name, distribution in space.items()}
        widths = [column.width for column in self._columns.values()]
        self.owner = np.repeat(np.arange(len(widths)), widths)

    def __call__(self, candidates: Sequence[Mapping[str, Any]]) -> Floats:
        """(candidates, columns)."""
        found = np.zeros((len(candidates), len(self.owner)))
        start = 0
        for name, column in self._columns.items():
            places = np.array([column.place(params[name]) for params in candidates])
            if column.width == 1:
                found[:, start] = places
            else:
                found[np.arange(len(candidates)), start + places.astype(int)] = np.sqrt(0.5)
            start += column.width
        return found


def identity_of(params: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> tuple[Any, ...]:
    """What the same candidate has in common: of a float with a step not its last digits, but its place on the grid."""

    def part(value: Any, distribution: BaseDistribution) -> Any:
        if isinstance(distribution, FloatDistribution) and distribution.step:
            return round((value - distribution.low) / distribution.step)
        return value

    return tuple(part(params[name], distribution) for name, distribution in space.items())


def grid_size(space: Mapping[str, BaseDistribution]) -> float:
    """Combinations of values; infinite with a continuous parameter."""
    return math.prod(_count(distribution) for distribution in space.values())


def enumerate_grid(space: Mapping[str, BaseDistribution]) -> Iterator[Params]:
    """Every combination of values of a space without continuous parameters."""
    values = [_values(distribution) for distribution in space.values()]
    for combination in itertools.product(*values):
        yield dict(zip(space, combination, strict=True))


def draw(space: Mapping[str, BaseDistribution], count: int, rng: np.random.Generator) -> list[Params]:
    """`count` combinations drawn at random, with repeats."""
    return [{name: _random(d, rng) for name, d in space.items()} for _ in range(count)]


def mutate(params: Params, space: Mapping[str, BaseDistribution], rng: np.random.Generator) -> Params:
    """The candidate with one parameter, sometimes two, drawn anew: numbers near the old value as often as anywhere."""
    names = list(space)
    changed = rng.choice(len(names), size=min(len(names), 1 + int(rng.random() < 0.3)), replace=False)
    return params | {name: _other(space[name], params[name], rng) for name in (names[i] for i in changed)}


class _Column:
    """How many columns a parameter takes, and the place of a value: in the column, or of the column that is hot."""

    def __init__(self, name: str, distribution: BaseDistribution) -> None:
        self.width = 1
        if isinstance(distribution, CategoricalDistribution):
            choices: list[Any] = list(distribution.choices)
            if not all(choice is None or isinstance(choice, (bool, int, float, str)) for choice in choices):
                raise InputError("space", name, "choices that are numbers, text, true, false or None")
            ordered = all(isinstance(c, (int, float)) and not isinstance(c, bool) for c in choices)
            self._places = {c: i / max(1, len(choices) - 1) for i, c in enumerate(sorted(choices))} if ordered else {}
            if not ordered:
                self.width, self._places = len(choices), {c: float(i) for i, c in enumerate(choices)}
        elif isinstance(distribution, (IntDistribution, FloatDistribution)):
            self._places, self._scale = {}, math.log if distribution.log else float
            self._low, high = self._scale(distribution.low), self._scale(distribution.high)
            self._range = (high - self._low) or 1.0
        else:
            raise InputError("space", name, "a categorical, int or float distribution of Optuna")

    def place(self, value: Any) -> float:
        return self._places[value] if self._places else (self._scale(value) - self._low) / self._range


def _count(distribution: BaseDistribution) -> float:
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return (distribution.high - distribution.low) // distribution.step + 1
    if isinstance(distribution, FloatDistribution) and distribution.step:
        return round((distribution.high - distribution.low) / distribution.step) + 1
    return math.inf


def _values(distribution: BaseDistribution) -> Sequence[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1, distribution.step)
    assert isinstance(distribution, FloatDistribution)
    assert distribution.step
    return [_on_grid(distribution, i) for i in range(int(_count(distribution)))]


def _other(distribution: BaseDistribution, value: Any, rng: np.random.Generator) -> Any:
    if isinstance(distribution, CategoricalDistribution) or rng.random() < 0.5:
        return _random(distribution, rng)
    assert isinstance(distribution, (IntDistribution, FloatDistribution))
    low, high, step = distribution.low, distribution.high, distribution.step
    width = NEAR * rng.normal()
    moved = value * (high / low) ** width if distribution.log else value + (high - low) * width
    if step:
        moved = low + step * round((moved - low) / step)
    moved = min(max(moved, low), high)
    return int(moved) if isinstance(distribution, IntDistribution) else float(moved)


def _random(distribution: BaseDistribution, rng: np.random.Generator) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(rng.integers(len(distribution.choices)))]
    if isinstance(distribution, FloatDistribution) and distribution.step:
        return _on_grid(distribution, int(rng.integers(int(_count(distribution)))))
    assert isinstance(distribution, (IntDistribution, FloatDistribution))
    if not distribution.log:
        if isinstance(distribution, IntDistribution):
            return distribution.low + distribution.step * int(rng.integers(int(_count(distribution))))
        return float(rng.uniform(distribution.low, distribution.high))
    value = math.exp(rng.uniform(math.log(distribution.low), math.log(distribution.high)))
    if isinstance(distribution, IntDistribution):
        return min(max(round(value), distribution.low), distribution.high)
    return min(max(value, distribution.low), distribution.high)


def _on_grid(distribution: FloatDistribution, index: int) -> float:
    return min(distribution.low + index * (distribution.step or 0.0), distribution.high)
