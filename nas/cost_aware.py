"""A sampler for objectives of which some are known before any trial: cycles, parameters, energy, latency tables."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas.ehvi import expected_improvement
from nas.pareto import finite, losses_of, non_dominated, signs_of
from nas.pool import Encoder, Params, Pool, draw, enumerate_grid, grid_size, identity_of, mutate
from nas.surrogate import GaussianProcess
from vit.errors import InputError, require_int

Floats = npt.NDArray[np.float64]
POOL = 16_384
MODELLED = 2  # finished trials that a model needs at least
ROUNDS = 16  # draws of a pool until one holds a feasible candidate
NEIGHBOURS = 1 / 16  # of the pool, that join it for a trial where the space is too large to enumerate
PROPOSED = "cost_aware:candidate"  # system attribute of a trial: what it was to try, before it asks for anything
EXPECTED = "expected_values"  # user attribute of a pruned trial: the values it would have had, for the model
TOLERANCE = 0.5  # how far beyond the reference losses are told apart, in parts of its distance to the best


class CostAwareSampler(BaseSampler):
    """Picks the next trial by expected hypervolume improvement, with the costs known exactly.

    Most samplers learn every objective from finished trials. Here the objectives in `known` are computed for every
    candidate; only the others (an accuracy) are modelled, by a Gaussian process over the parameters and the known
    objectives. What lies far beyond the reference is modelled as just beyond it, so that networks that fail to learn
    do not blur the differences between those that do. A candidate that was tried is not tried again while there are
    others; one that is running counts as finished with the value expected of it, so parallel workers spread out. A
    pruned trial is no part of the front; where its user attribute `expected_values` tells the values it would have had
    in the end, the model learns from them. What failed is not tried again. An infinite value counts as the worst finite
    one (or best).

    Given a seed, a trial depends on the seed and on the ended and running trials alone, so a study that was stopped
    goes on as it would have.

    Args:
        space: the distribution of every parameter, as the objective suggests them.
        known: {index of the objective: function of the parameters that gives its value}, at least one.
        constraints: function of the parameters that gives numbers, feasible where all are <= 0 (as Optuna's). What is
            infeasible is never proposed, and `known` is not asked about it. A candidate with a known objective that is
            not finite is infeasible, too.
        seed: None draws one.
        startup: trials before the model is used, spread over the first known objective.
        reference: {index of the objective: value} beyond which improvement is worth nothing. Left out, it is the worst
            known value of all candidates, and for a modelled objective the median of the finished trials.
        pool: candidates that are looked at: all, where the space has no more; else as many drawn at random, joined
            before each trial by neighbours of the best finished trials.
        draw: function of a number and a seed that draws so many candidates where they are too many to enumerate; left
            out, each parameter is drawn by itself, which meets few candidates where most combinations are infeasible.
        retry: whether what failed is proposed again, as if it had not been tried: for trials whose worker died.

    Raises:
        InputError: an empty space, no known objective, an argument of another kind, or no feasible candidate.
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
        pool: int = POOL,
        draw: Callable[[int, int], Sequence[Params]] | None = None,
        retry: bool = False,
    ) -> None:
        if not isinstance(space, Mapping) or not space:
            raise InputError("space", space, "a table of at least one parameter")
        if not isinstance(known, Mapping) or not known:
            raise InputError("known", known, "a table of at least one objective that is computed")
        for index, function in known.items():
            if not isinstance(index, int) or not callable(function):
                raise InputError("known", {index: function}, "indices of objectives, each with a function")
        if reference is not None and not isinstance(reference, Mapping):
            raise InputError("reference", reference, "a table from the index of an objective to a number")
        for index, value in (reference or {}).items():
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                raise InputError("reference", {index: value}, "finite numbers")
        self._space, self._known, self._constraints = dict(space), dict(sorted(known.items())), constraints
        self._startup, self._pool_size = require_int("startup", startup), require_int("pool", pool)
        self._enumerable = grid_size(self._space) <= self._pool_size
        self._reference, self._draw, self._retry = dict(reference or {}), draw, retry
        self._seed = _entropy() if seed is None else require_int("seed", seed, low=0)
        self._encode = Encoder(self._space)
        self._costs: dict[tuple[Any, ...], Floats | None] = {}
        self._base: Pool | None = None
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock())

    def reseed_rng(self) -> None:
        self._seed = _entropy()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        given = self._space.get(param_name)
        if given is not None:
            raise InputError("space", f"{param_name}: {param_distribution}", f"what the sampler was given: {given}")
        raise InputError("space", param_name, "a parameter that the sampler was given: " + ", ".join(self._space))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        with self._lock:  # of several threads, each sees what the others have proposed
            candidate = self._next(study, trial)
            study._storage.set_trial_system_attr(trial._trial_id, PROPOSED, candidate)
        return candidate

    def _next(self, study: Study, trial: FrozenTrial) -> Params:
        signs = signs_of(study)
        self._check_objectives(len(signs))
        by_state: dict[TrialState, list[tuple[FrozenTrial, Params]]] = {state: [] for state in TrialState}
        for other in study.get_trials(deepcopy=False):
            params = {**other.system_attrs.get(PROPOSED, {}), **other.params}
            if other.number != trial.number and self._space.keys() <= params.keys():
                by_state[other.state].append((other, params))
        done, stopped = by_state[TrialState.COMPLETE], by_state[TrialState.PRUNED]
        running, failed = by_state[TrialState.RUNNING], [] if self._retry else by_state[TrialState.FAIL]
        losses = finite(losses_of(study, [t for t, _ in done]))
        ended = len(done) + len(stopped) + len(failed)
        rng = np.random.default_rng([self._seed, ended, len(running)])
        tried = {self._key(params) for _, params in (*done, *stopped, *failed, *running)}
        pool = self._fresh([params for _, params in done], losses, tried, rng)
        if len(done) < MODELLED or ended + len(running) < self._startup:
            return dict(pool.candidates[self._spread(pool, ended + len(running), rng)])
        told = [(t.user_attrs[EXPECTED], p) for t, p in stopped if len(t.user_attrs.get(EXPECTED, ())) == len(signs)]
        expected = finite(np.array([values for values, _ in told]).reshape(len(told), len(signs)) * signs)
        learned = [params for _, params in (*done, *told)]
        under_way = self._priced(params for _, params in running)
        worth = self._improvement(pool, learned, np.vstack([losses, expected]), len(done), under_way, signs, rng)
        return dict(pool.candidates[int(np.argmax(worth))])

    def _check_objectives(self, count: int) -> None:
        for field, given in (("known", self._known), ("reference", self._reference)):
            for index in given:
                if not 0 <= index < count:
                    raise InputError(field, index, f"indices of the study's {count} objectives, from 0")

    def _fresh(self, done: Sequence[Params], losses: Floats, tried: Set[Any], rng: np.random.Generator) -> Pool:
        """The candidates to choose from that were not tried; all, if there are no others."""
        pool = self._pool(done, losses, rng)
        fresh = pool.without(tried)
        for _ in range(0 if self._enumerable else ROUNDS):
            if fresh.candidates:
                break
            fresh = self._priced(self._drawn(rng)).without(tried)
        return fresh if fresh.candidates else pool

    def _pool(self, done: Sequence[Params], losses: Floats, rng: np.random.Generator) -> Pool:
        """The candidates to choose from: all, or if they are too many a draw and the neighbours of the best."""
        if self._base is None:
            self._base = self._all_or_drawn()
        if self._enumerable or not done:
            return self._base
        best = [done[i] for i in np.flatnonzero(non_dominated(losses)).tolist()]
        count = max(1, int(self._pool_size * NEIGHBOURS))
        near = [mutate(best[int(rng.integers(len(best)))], self._space, rng) for _ in range(count)]
        return self._base.joined(self._priced(near))

    def _all_or_drawn(self) -> Pool:
        rng = np.random.default_rng([self._seed])
        for _ in range(ROUNDS):
            pool = self._priced(enumerate_grid(self._space) if self._enumerable else self._drawn(rng))
            if pool.candidates:
                return pool
        raise InputError(
            "constraints",
            "of the sampler",
            "some that a candidate keeps: none of them is feasible, with finite known objectives",
        )

    def _drawn(self, rng: np.random.Generator) -> Sequence[Params]:
        if self._draw is None:
            return draw(self._space, self._pool_size, rng)
        return self._draw(self._pool_size, int(rng.integers(2**31)))

    def _priced(self, candidates: Iterable[Params]) -> Pool:
        """The feasible ones of the candidates, each once, with their costs."""
        kept = {key: p for p in candidates if self._cost(key := self._key(p), p) is not None}
        costs = np.array([self._costs[key] for key in kept]).reshape(len(kept), len(self._known))
        return Pool(list(kept), list(kept.values()), self._encode(list(kept.values())), costs)

    def _cost(self, key: tuple[Any, ...], params: Params) -> Floats | None:
        """The known objectives of a candidate, computed once; None where it is infeasible."""
        if key not in self._costs:
            costs = self._computed(params) if self._keeps_constraints(params) else None
            self._costs[key] = costs if costs is not None and np.isfinite(costs).all() else None
        return self._costs[key]

    def _keeps_constraints(self, params: Params) -> bool:
        if self._constraints is None:
            return True
        found = self._constraints(params)
        if not isinstance(found, (Sequence, np.ndarray)):
            raise InputError("constraints", found, "a function that gives a sequence of numbers")
        return all(value <= 0 for value in found)

    def _computed(self, params: Params) -> Floats:
        found = {index: function(params) for index, function in self._known.items()}
        try:
            return np.array([float(value) for value in found.values()])
        except (TypeError, ValueError) as error:
            raise InputError("known", found, "functions that give a number each") from error

    def _spread(self, pool: Pool, index: int, rng: np.random.Generator) -> int:
        """A candidate at random from one part of the pool along the first known objective; the parts take turns."""
        order = np.argsort(pool.costs[:, 0], kind="stable")
        start = int(radical_inverse(index) * len(order))
        return int(rng.choice(order[start : start + max(1, len(order) // self._startup)]))

    def _improvement(
        self,
        pool: Pool,
        learned: Sequence[Params],
        losses: Floats,
        finished: int,
        running: Pool,
        signs: Floats,
        rng: np.random.Generator,
    ) -> Floats:
        """Expected hypervolume improvement of each candidate of the pool on the first `finished` of those learned."""
        is_known = np.array([objective in self._known for objective in range(len(signs))])
        tried = [*learned, *running.candidates]
        costs = np.vstack([losses[:, is_known] * signs[is_known], running.costs])
        ranks = Ranks(pool.costs)
        rows, seen = ranks.beside(pool.encoded, pool.costs), ranks.beside(self._encode(tried), costs)
        owner = np.append(self._encode.owner, self._encode.owner[-1] + 1 + np.arange(costs.shape[1]))
        reference, front = np.empty(len(signs)), np.empty((len(tried), len(signs)))
        prices = pool.costs * signs[is_known]
        alike = np.ptp(prices, axis=0) == 0  # no volume would be left below the worst
        reference[is_known] = prices.max(axis=0) + alike
        reference[~is_known] = np.median(losses[:, ~is_known], axis=0)
        for objective, value in self._reference.items():
            reference[objective] = value * signs[objective]
        front[:, is_known] = costs * signs[is_known]
        means, deviations = np.empty((2, len(rows), int((~is_known).sum())))
        for column, objective in enumerate(np.flatnonzero(~is_known).tolist()):
            loss, limit = losses[:, objective], reference[objective]
            tame = np.minimum(loss, limit + TOLERANCE * max(0.0, limit - loss.min()))
            model = GaussianProcess(owner, int(rng.integers(2**31))).fit(seen[: len(loss)], tame)
            means[:, column], deviations[:, column] = model.predict(rows)
            front[:, objective] = np.append(loss, model.predict(seen[len(loss) :])[0])
        front = np.delete(front, slice(finished, len(losses)), axis=0)  # what was stopped beats nobody
        return expected_improvement(front, reference, prices, is_known, means, deviations)

    def _key(self, params: Mapping[str, Any]) -> tuple[Any, ...]:
        return identity_of(params, self._space)


class Ranks:
    """Costs by their rank in a pool, between 0 and 1: the scale on which they are put before the model."""

    def __init__(self, costs: Floats) -> None:
        self._sorted = np.sort(costs, axis=0)

    def beside(self, encoded: Floats, costs: Floats) -> Floats:
        """The encoded parameters with the ranks of the costs as further columns."""
        columns = range(costs.shape[1])
        ranks = [np.searchsorted(self._sorted[:, i], costs[:, i]) / len(self._sorted) for i in columns]
        return np.column_stack([encoded, *ranks])


def radical_inverse(index: int) -> float:
    """The binary digits of `index` mirrored at the point: 0, 1/2, 1/4, 3/4, 1/8 ... (van der Corput)."""
    found, weight = 0.0, 0.5
    while index:
        found += weight * (index & 1)
        index, weight = index >> 1, weight / 2
    return found


def _entropy() -> int:
    return int(np.random.SeedSequence().generate_state(1)[0])
