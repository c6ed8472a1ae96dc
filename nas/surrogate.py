"""A Gaussian process over mixed parameters: what is known about an objective before it is measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from threadpoolctl import ThreadpoolController

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
BLAS = ThreadpoolController()
JITTER = 1e-8
STEPS = 60  # of the optimiser that fits the hyper-parameters
# log-normal priors as (centre, width) of the logarithm: relevance of a parameter, scale of the objective, noise
RELEVANCE, SCALE, NOISE = (-1.0, 2.0), (0.0, 1.0), (np.log(1e-2), 1.5)


class GaussianProcess:
    """Regression with a Matern-5/2 kernel, one relevance a parameter, and noise; fitted by its posterior mode.

    Rows are embedded parameters: a parameter owns one or more columns, and the squared distance of two rows is the
    sum over parameters of relevance * |difference of its columns|^2. An ordered parameter is one column; one without
    order is a one-hot code over sqrt(2), so that two of its values are 1 apart. Targets are standardised inside.

    Args:
        owner: the parameter that each column belongs to, counted from 0.
        seed: of the second start of the fit.
    """

    def __init__(self, owner: Integers, seed: int = 0) -> None:
        self._owner, self._rng = owner, np.random.default_rng(seed)

    def fit(self, rows: Floats, targets: Floats) -> GaussianProcess:
        """Fit to rows (n, columns) with targets (n,)."""
        self._mean, self._spread = float(targets.mean()), float(targets.std()) or 1.0
        z = (targets - self._mean) / self._spread
        groups = [rows[:, self._owner == parameter] for parameter in range(int(self._owner.max()) + 1)]
        parts = np.stack([_squared_distances(group, group) for group in groups])
        prior = np.array([RELEVANCE] * len(groups) + [SCALE, NOISE])
        starts = [prior[:, 0], prior[:, 0] + self._rng.normal(0, 1, len(prior))]
        with BLAS.limit(limits=1):  # on matrices this small, threads only wait for one another
            best: Any = min((_optimum(start, parts, z, prior) for start in starts), key=lambda found: float(found.fun))
        self._weights = np.exp(best.x[:-2] / 2)[self._owner]
        self._scale, noise = float(np.exp(best.x[-2])), float(np.exp(best.x[-1]))
        self._rows = rows * self._weights
        kernel = self._scale * matern52(_squared_distances(self._rows, self._rows))
        self._lower = cholesky(kernel + (noise + JITTER) * np.eye(len(z)), lower=True)
        self._alpha = cho_solve((self._lower, True), z)
        return self

    def predict(self, rows: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the noise-free objective at rows (m, columns): each (m,)."""
        cross = self._scale * matern52(_squared_distances(rows * self._weights, self._rows))
        half = solve_triangular(self._lower, cross.T, lower=True)
        variance = np.maximum(self._scale - np.square(half).sum(axis=0), 1e-10)
        return self._mean + self._spread * (cross @ self._alpha), self._spread * np.sqrt(variance)


def _optimum(start: Floats, parts: Floats, z: Floats, prior: Floats) -> Any:
    bounds = [(-8.0, 6.0)] * len(parts) + [(-4.0, 4.0), (np.log(1e-6), 1.0)]
    options = {"maxiter": STEPS}
    return minimize(_loss, start, (parts, z, prior), jac=True, method="L-BFGS-B", bounds=bounds, options=options)


def matern52(squared: Floats) -> Floats:
    """The Matern-5/2 correlation at squared distances (Rasmussen & Williams 2006, equation 4.17)."""
    root = np.sqrt(5 * squared)
    return (1 + root + 5 / 3 * squared) * np.exp(-root)


def matern52_slope(squared: Floats) -> Floats:
    """The derivative of `matern52` with respect to the squared distance."""
    root = np.sqrt(5 * squared)
    return -5 / 6 * (1 + root) * np.exp(-root)


def _squared_distances(a: Floats, b: Floats) -> Floats:
    """(len(a), len(b))."""
    squared: Floats = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T
    return np.maximum(squared, 0.0)


def _loss(theta: Floats, parts: Floats, z: Floats, prior: Floats) -> tuple[float, Floats]:
    """Negative log of the marginal likelihood times the priors, and its gradient.

    Rasmussen & Williams 2006, equations 5.8 and 5.9; theta holds the logarithms of relevances, scale and noise.
    """
    weights, scale, noise = np.exp(theta[:-2]), np.exp(theta[-2]), np.exp(theta[-1])
    squared = np.tensordot(weights, parts, 1)
    correlation = matern52(squared)
    lower = cholesky(scale * correlation + (noise + JITTER) * np.eye(len(z)), lower=True)
    inverse = cho_solve((lower, True), np.eye(len(z)))
    alpha = inverse @ z
    gap = inverse - np.outer(alpha, alpha)  # the loss grows by half of its trace with the change of the kernel
    gradient = np.empty_like(theta)
    gradient[:-2] = 0.5 * scale * weights * np.tensordot(parts, gap * matern52_slope(squared), 2)
    gradient[-2] = 0.5 * scale * (gap * correlation).sum()
    gradient[-1] = 0.5 * noise * np.trace(gap)
    off = (theta - prior[:, 0]) / prior[:, 1]
    loss = 0.5 * z @ alpha + np.log(np.diag(lower)).sum() + 0.5 * off @ off
    return float(loss), gradient + off / prior[:, 1]
