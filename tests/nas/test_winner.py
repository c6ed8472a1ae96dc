import warnings

import optuna
import pytest

from nas import pick
from vit import InputError

DISTRIBUTIONS = {"x": optuna.distributions.IntDistribution(0, 100)}


def study_of(*values: tuple[float, ...], names: tuple[str, ...] = ("accuracy", "params", "cycles")) -> optuna.Study:
    study = optuna.create_study(directions=["maximize" if name == "accuracy" else "minimize" for name in names])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls them experimental
        study.set_metric_names(list(names))
    for i, row in enumerate(values):
        study.add_trial(optuna.trial.create_trial(values=row, params={"x": i}, distributions=DISTRIBUTIONS))
    return study


STUDY = study_of((0.90, 100, 900), (0.95, 400, 900), (0.94, 200, 300), (0.95, 300, 1000), (0.5, 10, 10))


def test_the_most_accurate_and_of_equals_the_cheaper() -> None:
    assert pick(STUDY).number == 3  # 300 * 1000 is less than 400 * 900
    assert pick(STUDY, slack=0.01).number == 2
    assert pick(STUDY, slack=1.0).number == 4


def test_the_knee_is_nearest_to_the_best_of_everything() -> None:
    assert pick(STUDY, "knee").number == 2


def test_one_objective() -> None:
    assert pick(study_of((0.3,), (0.8,), (0.8,), names=("accuracy",))).number == 1
    assert pick(study_of((5, 5), (3, 3), names=("params", "cycles")), "knee").number == 1


@pytest.mark.parametrize(
    ("study", "rule", "slack", "field"),
    [
        (STUDY, "kneee", 0.0, "rule"),
        (STUDY, "accuracy", -0.1, "slack"),
        (STUDY, "knee", 0.1, "slack"),
        (study_of(), "accuracy", 0.0, "study"),
        (study_of((1, 2), names=("params", "cycles")), "accuracy", 0.0, "rule"),
    ],
)
def test_bad_input_is_named(study: optuna.Study, rule: str, slack: float, field: str) -> None:
    with pytest.raises(InputError) as caught:
        pick(study, rule, slack)
    assert caught.value.field == field
