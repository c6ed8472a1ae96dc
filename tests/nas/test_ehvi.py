import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from nas import hypervolume
from nas.ehvi import expected_improvement, free_boxes
from tests.nas.reference import dominated_cells
from tests.nas.reference import expected_improvement as by_averaging

POINTS = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(st.integers(0, 5), min_size=width, max_size=width), min_size=0, max_size=8).map(
        lambda rows: np.array(rows, dtype=float).reshape(-1, width)
    )
)


@settings(max_examples=100, deadline=None)
@given(POINTS)
def test_free_boxes_fill_what_the_points_leave(points: np.ndarray) -> None:
    reference = np.full(points.shape[1], 5.0)
    lower, upper = free_boxes(points, reference)
    inside = np.maximum(lower, 0.0)
    free = np.maximum(upper - inside, 0.0).prod(axis=1).sum()
    assert free == 5.0 ** points.shape[1] - dominated_cells(points, reference)


@settings(max_examples=30, deadline=None)
@given(POINTS.filter(lambda points: points.shape[1] >= 2), st.data())
def test_certain_candidates_improve_by_the_exact_growth(points: np.ndarray, data: st.DataObject) -> None:
    width = points.shape[1]
    is_known = np.array(data.draw(st.lists(st.booleans(), min_size=width, max_size=width)))
    candidates = np.array(data.draw(st.lists(st.lists(st.integers(0, 6), min_size=width, max_size=width), min_size=1)))
    reference = np.full(width, 5.0)
    found = expected_improvement(
        points,
        reference,
        candidates[:, is_known],
        is_known,
        candidates[:, ~is_known],
        np.full_like(candidates[:, ~is_known], 1e-9, dtype=float),
    )
    before = hypervolume(points, reference)
    exact = [hypervolume(np.vstack([points, one]), reference) - before for one in candidates]
    np.testing.assert_allclose(found, exact, atol=1e-6)


@pytest.mark.parametrize("is_known", [(False, True), (True, False, True), (False, True, False)])
def test_uncertain_candidates_improve_as_on_average_over_their_quantiles(is_known: tuple[bool, ...]) -> None:
    rng = np.random.default_rng(0)
    mask, width = np.array(is_known), len(is_known)
    points, candidate, reference = rng.random((6, width)), rng.random(width) * 0.4, np.ones(width)
    unknown = int((~mask).sum())
    deviation = np.full((1, unknown), 0.2)
    found = expected_improvement(points, reference, candidate[None, mask], mask, candidate[None, ~mask], deviation)
    quantiles = norm.ppf((np.arange(36) + 0.5) / 36) * 0.2
    grid = np.array(list(itertools.product(quantiles, repeat=unknown)))
    samples = np.tile(candidate, (len(grid), 1))
    samples[:, ~mask] += grid
    assert found[0] == pytest.approx(by_averaging(points, reference, samples, hypervolume), rel=0.02, abs=1e-3)
