"""The candidates a sampler chooses from, as rows of numbers: parameters encoded, known objectives computed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
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
ENUMERATED = 65_536  # combinations up to which every candidate is looked at


@dataclass(frozen=True)
class Pool:
    """Candidates with their encoded parameters (candidates, parameters) and known objectives (candidates, known)."""

    candidates: Sequence[Params]
    encoded: Floats
    costs: Floats

    def take(self, indices: Sequence[int]) -> Pool:
        """The candidates at these places."""
        return Pool([self.candidates[i] for i in indices], self.encoded[indices], self.costs[indices])


class Encoder:
    """Parameters as numbers between 0 and 1: values in order by their place, names without order by their index.

    A categorical parameter whose choices are all numbers counts as ordered.
    """

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        self._columns = [_column(name, distribution) for name, distribution in space.items()]
        self._names = list(space)
        self.categorical = np.array([categorical for categorical, _ in self._columns])

    def __call__(self, candidates: Sequence[Mapping[str, Any]]) -> Floats:
        """(candidates, parameters)."""
        rows = [
            [place(params[name]) for name, (_, place) in zip(self._names, self._columns, strict=True)]
            for params in candidates
        ]
        return np.array(rows, dtype=float).reshape(len(candidates), len(self._names))


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
    """The candidate with one parameter, sometimes two, drawn anew."""
    names = list(space)
    changed = rng.choice(len(names), size=min(len(names), 1 + int(rng.random() < 0.3)), replace=False)
    return params | {names[i]: _random(space[names[i]], rng) for i in changed}


def _column(name: str, distribution: BaseDistribution) -> tuple[bool, Callable[[Any], float]]:
    """Whether the parameter is without order, and its place between 0 and 1."""
    if isinstance(distribution, CategoricalDistribution):
        choices = list(distribution.choices)
        numbers = all(isinstance(c, (int, float)) and not isinstance(c, bool) for c in choices)
        places = {c: i for i, c in enumerate(sorted(choices) if numbers else choices)}  # type: ignore[type-var]
        span = max(1, len(choices) - 1) if numbers else 1
        return not numbers, lambda value: places[value] / span
    if isinstance(distribution, (IntDistribution, FloatDistribution)):
        scale: Callable[[float], float] = math.log if distribution.log else float
        low, high = scale(distribution.low), scale(distribution.high)
        return False, lambda value: (scale(value) - low) / ((high - low) or 1.0)
    raise InputError("space", name, "a categorical, int or float distribution of Optuna")


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
