import math

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from nas.pool import Encoder, draw, enumerate_grid, grid_size, mutate
from vit import InputError

SPACE = {
    "op": CategoricalDistribution(["conv", "pool", None]),
    "dim": CategoricalDistribution([64, 16, 32]),
    "depth": IntDistribution(1, 9, step=4),
    "rate": FloatDistribution(0.0, 0.5, step=0.25),
    "lr": IntDistribution(1, 100, log=True),
    "wd": FloatDistribution(1e-4, 1e-2, log=True),
    "x": FloatDistribution(-1.0, 3.0),
}
GRID = {name: SPACE[name] for name in ("op", "dim", "depth", "rate")}


def test_grid_is_every_combination() -> None:
    listed = list(enumerate_grid(GRID))
    assert len(listed) == grid_size(GRID) == 3**4
    assert len({tuple(p.values()) for p in listed}) == 3**4
    assert all(d._contains(d.to_internal_repr(p[name])) for p in listed for name, d in GRID.items())
    assert grid_size(SPACE) == math.inf


def test_draws_and_neighbours_are_values_of_the_space() -> None:
    rng = np.random.default_rng(0)
    drawn = draw(SPACE, 200, rng)
    near = [mutate(drawn[0], SPACE, rng) for _ in range(200)]
    for params in [*drawn, *near]:
        assert all(d._contains(d.to_internal_repr(params[name])) for name, d in SPACE.items())
    assert max(sum(params[name] != drawn[0][name] for name in SPACE) for params in near) == 2


def test_values_with_order_lie_evenly_and_names_stand_apart() -> None:
    encode = Encoder(SPACE)
    assert encode.owner.tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6]
    low = {"op": "conv", "dim": 16, "depth": 1, "rate": 0.0, "lr": 1, "wd": 1e-4, "x": -1.0}
    high = {"op": None, "dim": 64, "depth": 9, "rate": 0.5, "lr": 100, "wd": 1e-2, "x": 3.0}
    rows = encode([low, high, low | {"dim": 32, "lr": 10}])
    np.testing.assert_allclose(rows[0, 3:], 0)
    np.testing.assert_allclose(rows[1, 3:], 1)
    np.testing.assert_allclose(rows[2, 3:], [0.5, 0, 0, 0.5, 0, 0])
    assert ((rows[0] - rows[1])[:3] ** 2).sum() == pytest.approx(1.0)


def test_other_distributions_are_refused() -> None:
    with pytest.raises(InputError, match="distribution"):
        Encoder({"x": object()})
