"""A Gaussian process over mixed parameters: what is known about an objective before it is measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

Floats = npt.NDArray[np.float64]
JITTER = 1e-8


class GaussianProcess:
    """Regression with a Matern-5/2 kernel, one length scale a column, and noise; fitted by its marginal likelihood.

    The squared distance of two rows is the sum over columns of (x - x')^2 * w for ordered columns and [x != x'] * w for
    categorical ones, as in Optuna's own GP. Log-normal priors keep the weights, the noise and the scale in
    reasonable bounds when there are few points. Targets are standardised inside.

    Args:
        categorical: for each column, whether its numbers are names without order.
        seed: of the restarts of the fit.
    """

    def __init__(self, categorical: npt.NDArray[np.bool_], seed: int = 0) -> None:
        self._categorical = categorical
        self._rng = np.random.default_rng(seed)

    def fit(self, x: Floats, y: Floats, restarts: int = 1) -> GaussianProcess:
        """Fit to rows (n, columns) with targets (n,)."""
        self._x = x
        self._mean, self._scale = float(y.mean()), float(y.std()) or 1.0
        z = (y - self._mean) / self._scale
        parts = self._distance_parts(x, x)
        columns = x.shape[1]
        starts = [np.concatenate([np.zeros(columns), [0.0, np.log(1e-2)]])]
        starts += [starts[0] + self._rng.normal(0, 1.0, columns + 2) for _ in range(restarts)]
        bounds = [(-8.0, 6.0)] * columns + [(-4.0, 4.0), (np.log(1e-6), 1.0)]
        found = [minimize(_loss, s, (parts, z), jac=True, method="L-BFGS-B", bounds=bounds) for s in starts]
        best: Any = min(found, key=lambda result: float(result.fun))
        self._theta: Floats = best.x
        kernel, noise = self._kernel(parts), float(np.exp(best.x[-1]))
        self._lower = cholesky(kernel + (noise + JITTER) * np.eye(len(z)), lower=True)
        self._alpha = cho_solve((self._lower, True), z)
        return self

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the noise-free objective at rows (m, columns): each (m,)."""
        cross = self._kernel(self._distance_parts(x, self._x))
        mean = cross @ self._alpha
        half = solve_triangular(self._lower, cross.T, lower=True)
        variance = np.exp(self._theta[-2]) - np.square(half).sum(axis=0)
        return mean * self._scale + self._mean, np.sqrt(np.maximum(variance, 1e-10)) * self._scale

    def _distance_parts(self, a: Floats, b: Floats) -> Floats:
        """(columns, len(a), len(b)): each column's squared distance, unweighted."""
        difference = a.T[:, :, None] - b.T[:, None, :]
        return np.where(self._categorical[:, None, None], difference != 0, np.square(difference))

    def _kernel(self, parts: Floats) -> Floats:
        correlation, _ = matern52(np.tensordot(np.exp(self._theta[:-2]), parts, 1))
        return correlation * float(np.exp(self._theta[-2]))


def matern52(squared: Floats) -> tuple[Floats, Floats]:
    """The Matern-5/2 correlation at squared distances, and its derivative with respect to them."""
    root = np.sqrt(5 * squared)
    decay = np.exp(-root)
    return (1 + root + 5 / 3 * squared) * decay, -5 / 6 * (1 + root) * decay


def _loss(theta: Floats, parts: Floats, z: Floats) -> tuple[float, Floats]:
    """Negative log of the marginal likelihood times the priors, and its gradient."""
    weights, scale, noise = np.exp(theta[:-2]), np.exp(theta[-2]), np.exp(theta[-1])
    correlation, slope = matern52(np.tensordot(weights, parts, 1))
    lower = cholesky(scale * correlation + (noise + JITTER) * np.eye(len(z)), lower=True)
    alpha = cho_solve((lower, True), z)
    inverse = cho_solve((lower, True), np.eye(len(z)))
    gap = inverse - np.outer(alpha, alpha)  # dL/dK = gap / 2
    loss = 0.5 * z @ alpha + np.log(np.diag(lower)).sum()
    gradient = np.empty_like(theta)
    gradient[:-2] = 0.5 * weights * np.tensordot(parts, gap * slope * scale, 2)
    gradient[-2] = 0.5 * scale * (gap * correlation).sum()
    gradient[-1] = 0.5 * noise * np.trace(gap)
    centre = np.concatenate([np.full(len(theta) - 2, -1.0), [0.0, np.log(1e-2)]])
    width = np.concatenate([np.full(len(theta) - 2, 2.0), [1.0, 1.5]])
    off = (theta - centre) / width
    return float(loss + 0.5 * off @ off), gradient + off / width
