from pathlib import Path

import pytest

from nas import plot_front, plot_hypervolume
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
    plot_front(study_of())
    plot_hypervolume(study_of())


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one of accuracy, params, cycles"):
        plot_front(STUDY, x="cycle")
    with pytest.raises(InputError, match="two objectives"):
        plot_front(study_of((1.0,), names=("accuracy",)))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="output"):
        plot_front(STUDY, tmp_path / "file" / "front.png")
