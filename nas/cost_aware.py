"""A sampler for objectives of which some are known before any trial: cycles, parameters, energy, latency tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.ehvi import expected_improvement, free_boxes
from nas.pareto import non_dominated
from nas.pool import ENUMERATED, Encoder, Params, Pool, draw, enumerate_grid, grid_size, mutate
from nas.surrogate import GaussianProcess
from vit.errors import InputError, require_int

Floats = npt.NDArray[np.float64]
DRAWN = 4096  # candidates looked at for a trial where the space is too large to enumerate
PARENTS = 32  # of the best trials, whose neighbours join them


class CostAwareSampler(BaseSampler):
    """Picks the next trial by expected hypervolume improvement, with the costs known exactly.

    Most samplers learn every objective from finished trials. Here the objectives in `known` are computed for every
    candidate; only the others (an accuracy) are modelled, by a Gaussian process over the parameters and the known
    objectives. A candidate that was tried already is not tried again while there are others.

    Given a seed, a trial depends on the seed and on the finished and running trials alone, so a study that was stopped
    goes on as it would have.

    Args:
        space: the distribution of every parameter, as the objective suggests them.
        known: {index of the objective: function of the parameters that gives its value}, at least one.
        constraints: function of the parameters that gives numbers, feasible where all are <= 0 (as Optuna's). What is
            infeasible is never proposed, and `known` is not asked about it.
        seed: None draws one.
        startup: trials before the model is used, spread over the costs.
        reference: {index of the objective: value} beyond which improvement is worth nothing. Left out, it is the worst
            known value of all candidates, and for a modelled objective the median of the finished trials.

    Raises:
        InputError: an empty space, no known objective, or no feasible candidate.
    """

    def __init__(
        self,
        space: Mapping[str, BaseDistribution],
        known: Mapping[int, Callable[[Params], float]],
        constraints: Callable[[Params], Sequence[float]] | None = None,
        seed: int | None = None,
        *,
        startup: int = 10,
        reference: Mapping[int, float] | None = None,
    ) -> None:
        if not space:
            raise InputError("space", space, "a table of at least one parameter")
        if not known:
            raise InputError("known", known, "at least one objective that is computed")
        self._space, self._known, self._constraints = dict(space), dict(sorted(known.items())), constraints
        self._startup = require_int("startup", startup)
        self._reference = dict(reference or {})
        self._seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self._encode = Encoder(self._space)
        self._costs: dict[tuple[Any, ...], Floats | None] = {}
        self._grid: Pool | None = None

    def reseed_rng(self) -> None:
        self._seed = int(np.random.SeedSequence().generate_state(1)[0])

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        signs = np.array([-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in study.directions])
        self._check_objectives(len(signs))
        trials = [t for t in study.get_trials(deepcopy=False) if all(name in t.params for name in self._space)]
        done = [t for t in trials if t.state == TrialState.COMPLETE]
        running = [t for t in trials if t.state == TrialState.RUNNING and t.number != trial.number]
        rng = np.random.default_rng([self._seed, len(done), len(running)])
        pool = self._pool(done, signs, rng)
        tried = {self._key(t.params) for t in (*done, *running)}
        fresh = [i for i, params in enumerate(pool.candidates) if self._key(params) not in tried]
        pool = pool.take(fresh) if fresh else pool
        if len(done) < self._startup or len(done) < 2:
            return dict(pool.candidates[self._spread(pool, len(done) + len(running), rng)])
        return dict(pool.candidates[int(np.argmax(self._improvement(pool, done, running, signs, rng)))])

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise InputError("space", param_name, "a parameter the sampler was given: " + ", ".join(self._space))

    def _check_objectives(self, count: int) -> None:
        wrong = [index for index in (*self._known, *self._reference) if not 0 <= index < count]
        if wrong:
            raise InputError("known", wrong[0], f"an index of one of the study's {count} objectives")

    def _pool(self, done: Sequence[FrozenTrial], signs: Floats, rng: np.random.Generator) -> Pool:
        """The candidates to choose from: all, or where they are too many a draw and the neighbours of the best."""
        if grid_size(self._space) <= ENUMERATED:
            if self._grid is None:
                self._grid = self._feasible(enumerate_grid(self._space))
            return self._grid
        drawn = draw(self._space, DRAWN, rng)
        losses = np.array([t.values for t in done]).reshape(len(done), len(signs)) * signs
        best = [done[i].params for i in np.flatnonzero(non_dominated(losses)).tolist()] if done else []
        for params in best[-PARENTS:]:
            drawn += [mutate(params, self._space, rng) for _ in range(DRAWN // PARENTS // 2)]
        return self._feasible(drawn)

    def _feasible(self, candidates: Iterable[Params]) -> Pool:
        kept = {key: params for params in candidates if self._cost(key := self._key(params), params) is not None}
        if not kept:
            raise InputError(
                "constraints", "all candidates", "constraints that leave a candidate", "none of them is feasible"
            )
        costs = np.array([self._costs[key] for key in kept])
        listed = list(kept.values())
        return Pool(listed, self._encode(listed), costs)

    def _cost(self, key: tuple[Any, ...], params: Params) -> Floats | None:
        """The known objectives of a candidate, computed once; None where it is infeasible."""
        if key not in self._costs:
            feasible = self._constraints is None or all(value <= 0 for value in self._constraints(params))
            self._costs[key] = np.array([f(params) for f in self._known.values()], dtype=float) if feasible else None
        return self._costs[key]

    def _spread(self, pool: Pool, index: int, rng: np.random.Generator) -> int:
        """A candidate at random from one part of the pool along the first known objective; the parts take turns."""
        order = np.argsort(pool.costs[:, 0], kind="stable")
        start = int(radical_inverse(index) * len(order))
        width = max(1, len(order) // self._startup)
        return int(rng.choice(order[start : start + width]))

    def _improvement(
        self,
        pool: Pool,
        done: Sequence[FrozenTrial],
        running: Sequence[FrozenTrial],
        signs: Floats,
        rng: np.random.Generator,
    ) -> Floats:
        """Expected hypervolume improvement of each candidate of the pool."""
        is_known = np.array([i in self._known for i in range(len(signs))])
        losses = np.array([t.values for t in done]) * signs
        cost = pool.costs * signs[is_known]
        features = self._features(pool.encoded, pool.costs, pool.costs)
        tried = [t.params for t in (*done, *running)]
        tried_costs = np.array([self._known_values(params) for params in tried])
        seen = self._features(self._encode(tried), tried_costs, pool.costs)
        means, deviations, front = [], [], np.empty((len(tried), len(signs)))
        front[:, is_known] = tried_costs * signs[is_known]
        categorical = np.append(self._encode.categorical, np.zeros(len(self._known), dtype=bool))
        for objective in np.flatnonzero(~is_known).tolist():
            model = GaussianProcess(categorical, int(rng.integers(2**31)))
            model.fit(seen[: len(done)], losses[:, objective])
            mean, deviation = model.predict(features)
            means.append(mean)
            deviations.append(deviation)
            front[:, objective] = np.append(losses[:, objective], model.predict(seen[len(done) :])[0])
        reference = np.empty(len(signs))
        reference[is_known] = cost.max(axis=0)
        reference[~is_known] = np.median(losses[:, ~is_known], axis=0)
        for objective, value in self._reference.items():
            reference[objective] = value * signs[objective]
        lower, upper = free_boxes(front, reference)
        shape = (len(pool.candidates), -1)
        unknown = np.array(means).T.reshape(shape), np.array(deviations).T.reshape(shape)
        return expected_improvement(lower, upper, cost, is_known, *unknown)

    def _known_values(self, params: Params) -> Floats:
        found = self._cost(self._key(params), params)
        return np.full(len(self._known), np.inf) if found is None else found

    def _features(self, encoded: Floats, costs: Floats, pool_costs: Floats) -> Floats:
        """The parameters, and the known objectives by their rank in the pool: what the accuracy is modelled from."""
        ranks = [
            np.searchsorted(np.sort(pool_costs[:, i]), costs[:, i]) / len(pool_costs) for i in range(costs.shape[1])
        ]
        return np.column_stack([encoded, *ranks])

    def _key(self, params: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(params[name] for name in self._space)


def radical_inverse(index: int) -> float:
    """The binary digits of `index` mirrored at the point: 0, 1/2, 1/4, 3/4, 1/8 ... (van der Corput)."""
    found, weight = 0.0, 0.5
    while index:
        found += weight * (index & 1)
        index, weight = index >> 1, weight / 2
    return found
