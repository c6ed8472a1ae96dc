import math

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas import front, hypervolume, hypervolume_history, non_dominated
from tests.nas.reference import dominated_cells
from tests.nas.reference import non_dominated as plain_non_dominated
from vit import InputError

POINTS = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(st.integers(0, 5), min_size=width, max_size=width), min_size=1, max_size=9)
)


@settings(max_examples=150, deadline=None)
@given(POINTS)
def test_front_and_volume_by_definition(rows: list[list[int]]) -> None:
    points = np.array(rows, dtype=float)
    assert non_dominated(points).tolist() == plain_non_dominated(points)
    reference = np.full(points.shape[1], 5.0)
    assert hypervolume(points, reference) == dominated_cells(points, reference)


@pytest.mark.parametrize("width", [2, 3, 4])
def test_volume_agrees_with_optuna(width: int) -> None:
    from optuna._hypervolume import compute_hypervolume

    points = np.random.default_rng(width).random((40, width))
    assert hypervolume(points, np.ones(width)) == pytest.approx(compute_hypervolume(points, np.ones(width)))


def test_no_points_no_volume() -> None:
    assert hypervolume([], [1.0, 1.0]) == 0.0
    assert hypervolume([[2.0, 0.0]], [1.0, 1.0]) == 0.0
    assert non_dominated([]).tolist() == []


def study_of(values: list[tuple[float, float]]) -> optuna.Study:
    study = optuna.create_study(directions=["maximize", "minimize"])
    for i, pair in enumerate(values):
        distributions = {"x": optuna.distributions.IntDistribution(0, 100)}
        study.add_trial(optuna.trial.create_trial(values=pair, params={"x": i}, distributions=distributions))
    return study


def test_front_of_a_study_minds_the_directions() -> None:
    study = study_of([(0.5, 10), (0.9, 30), (0.4, 20), (0.7, 10), (0.9, 31)])
    assert [trial.number for trial in front(study)] == [1, 3]


def test_history_grows_to_the_volume_of_all() -> None:
    study = study_of([(0.5, 10), (0.9, 30), (0.4, 20), (0.7, 10)])
    history = hypervolume_history(study, reference=(0.4, 50))
    assert history.tolist() == sorted(history.tolist())
    # scaled to accuracy 0.4..0.9 and cost 50..10: (0.7, 10) covers 0.6 x 1, (0.9, 30) another 0.4 x 0.5
    assert history[-1] == pytest.approx(0.6 + 0.4 * 0.5)
    assert hypervolume_history(study_of([])).shape == (0,)
    with pytest.raises(InputError, match="2 numbers"):
        hypervolume_history(study, reference=(0.4,))


def test_an_infinite_value_counts_as_the_worst_or_the_best_finite_one() -> None:
    infinite = study_of([(0.5, 9), (0.6, 5), (math.inf, 8), (-math.inf, 7), (0.55, math.inf)])
    finite = study_of([(0.5, 9), (0.6, 5), (0.6, 8), (0.5, 7), (0.55, 9)])
    assert hypervolume_history(infinite).tolist() == hypervolume_history(finite).tolist()


@pytest.mark.parametrize(
    ("losses", "reference", "field"),
    [
        ([[1.0, math.nan]], [2.0, 2.0], "losses"),
        ([[1.0, 1.0]], [2.0, math.nan], "reference"),
        ([[1.0, 1.0]], [2.0], "reference"),
        ([[1.0, 1.0]], [2.0, 2.0, 2.0], "reference"),
        ([[1.0, 1.0]], 2.0, "reference"),
        ([[1.0], [1.0, 2.0]], [2.0], "losses"),
        ([[[1.0]]], [2.0], "losses"),
        ([["low"]], [2.0], "losses"),
    ],
)
def test_losses_without_a_front_are_refused(losses: list[object], reference: object, field: str) -> None:
    with pytest.raises(InputError) as caught:
        hypervolume(losses, reference)
    assert caught.value.field == field
    if field == "losses":
        with pytest.raises(InputError, match="losses"):
            non_dominated(losses)
