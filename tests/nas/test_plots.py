from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import create_trial

from nas import importances, plot_front, plot_hypervolume, plot_importances, plot_parallel
from nas.plots import DOMINATED, FRONT
from tests.nas.test_winner import STUDY, study_of
from vit import InputError


def test_front_and_dominated_points_are_told_apart(tmp_path: Path) -> None:
    study = study_of((0.9, 10, 5), (0.8, 5, 5), (0.7, 7, 6), (0.9, 11, 5), (0.6, 9, 2))
    figure = plot_front(study, tmp_path / "front.png")
    axes = figure.axes[0]
    assert [len(points.get_offsets()) for points in axes.collections] == [2, 3]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("cycles", "accuracy")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    assert plot_front(STUDY, x="params").axes[0].get_xlabel() == "params"


def test_hypervolume_ends_at_one(tmp_path: Path) -> None:
    figure = plot_hypervolume(STUDY, tmp_path / "volume.svg")
    heights = figure.axes[0].lines[0].get_ydata()
    assert heights[-1] == 1.0
    assert list(heights) == sorted(heights)
    assert "<svg" in (tmp_path / "volume.svg").read_text()


def test_a_study_without_trials_makes_empty_pictures() -> None:
    for plot in (plot_front, plot_hypervolume, plot_importances, plot_parallel):
        plot(study_of())


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one of accuracy, params, cycles"):
        plot_front(STUDY, x="cycle")
    with pytest.raises(InputError, match="two objectives"):
        plot_front(study_of((1.0,), names=("accuracy",)))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="output"):
        plot_front(STUDY, tmp_path / "file" / "front.png")


def spread_study() -> optuna.Study:
    space = {"width": IntDistribution(1, 30), "kind": CategoricalDistribution(["a", "b"])}
    study = study_of(names=("accuracy", "params", "cycles"))
    for i in range(24):
        params = {"width": 1 + 7 * i % 30, "kind": "ab"[i % 2]}
        values = (params["width"] / 40 + 0.1 * (params["kind"] == "b"), 10.0 * params["width"], 5.0)
        study.add_trial(create_trial(values=values, params=params, distributions=space))
    return study


def test_importances_are_shares_and_name_what_matters(tmp_path: Path) -> None:
    study = spread_study()
    found = importances(study)
    assert list(found) == ["accuracy", "params"]  # cycles do not vary
    assert all(sum(shares.values()) == pytest.approx(1) for shares in found.values())
    assert found["params"]["width"] > 0.9
    assert importances(study) == found
    figure = plot_importances(study, tmp_path / "importances.png")
    assert len(figure.axes[0].patches) == 4
    assert importances(study_of((0.9, 10, 5), (0.8, 5, 5))) == {}


def test_parallel_lines_of_choices_of_several_kinds() -> None:
    study = study_of(names=("accuracy", "params"))
    kinds = CategoricalDistribution([None, "a", 2, True])
    for i, kind in enumerate(kinds.choices):
        study.add_trial(create_trial(params={"k": kind}, distributions={"k": kinds}, values=[0.5, i]))
    heights = {float(line.get_ydata()[0]) for line in plot_parallel(study).axes[0].lines[:4]}
    assert heights == {0, 1 / 3, 2 / 3, 1}


def test_parallel_lines_have_a_scale_each(tmp_path: Path) -> None:
    study = spread_study()
    figure = plot_parallel(study, tmp_path / "parallel.png")
    lines = figure.axes[0].lines[:24]
    assert all(len(line.get_xdata()) == 5 for line in lines)
    heights = np.array([line.get_ydata() for line in lines])
    assert heights.min() == 0
    assert heights.max() == 1
    assert {line.get_color() for line in lines} == {FRONT, DOMINATED}
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()][:3] == ["width", "kind", "accuracy"]
