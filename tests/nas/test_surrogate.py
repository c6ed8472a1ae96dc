import numpy as np
import pytest
from scipy.optimize import check_grad

from nas.surrogate import GaussianProcess, _loss, _squared_distances, matern52, matern52_slope


def plain_matern(a: np.ndarray, b: np.ndarray) -> float:
    d = float(np.sqrt(((a - b) ** 2).sum()))
    return (1 + np.sqrt(5) * d + 5 / 3 * d**2) * np.exp(-np.sqrt(5) * d)


def test_kernel_by_definition() -> None:
    rows = np.random.default_rng(0).random((5, 3))
    expected = [[plain_matern(a, b) for b in rows] for a in rows]
    np.testing.assert_allclose(matern52(_squared_distances(rows, rows)), expected, atol=1e-7)
    squared, step = np.array([0.1, 0.5, 2.0]), 1e-6
    difference = (matern52(squared + step) - matern52(squared - step)) / (2 * step)
    np.testing.assert_allclose(matern52_slope(squared), difference, rtol=1e-6)


def test_gradient_of_the_fit() -> None:
    rng = np.random.default_rng(1)
    rows, z = rng.random((12, 3)), rng.normal(size=12)
    parts = np.stack([_squared_distances(rows[:, [i]], rows[:, [i]]) for i in range(3)])
    prior = np.array([(-1.0, 2.0)] * 3 + [(0.0, 1.0), (-4.0, 1.5)])
    theta = rng.normal(-1, 0.5, 5)
    error = check_grad(lambda t: _loss(t, parts, z, prior)[0], lambda t: _loss(t, parts, z, prior)[1], theta)
    assert error < 1e-4 * np.linalg.norm(_loss(theta, parts, z, prior)[1])


def test_it_learns_which_parameters_matter() -> None:
    rng = np.random.default_rng(2)
    names = rng.integers(0, 3, 60)
    rows = np.column_stack([rng.random((60, 2)), np.eye(3)[names] * np.sqrt(0.5)])
    owner = np.array([0, 1, 2, 2, 2])

    def objective(r: np.ndarray) -> np.ndarray:
        return np.sin(4 * r[:, 0]) + 2 * r[:, 3]

    model = GaussianProcess(owner).fit(rows[:40], objective(rows[:40]))
    mean, deviation = model.predict(rows[40:])
    assert np.abs(mean - objective(rows[40:])).max() < 0.15
    assert model._weights[1] < 0.5 * min(model._weights[0], model._weights[3])
    assert model.predict(rows[:40])[1].max() < deviation.max()  # surer of what it has seen


def test_constant_targets_are_no_problem() -> None:
    mean, deviation = GaussianProcess(np.array([0])).fit(np.zeros((3, 1)), np.full(3, 7.0)).predict(np.ones((2, 1)))
    assert mean == pytest.approx([7.0, 7.0])
    assert np.isfinite(deviation).all()
