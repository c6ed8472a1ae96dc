from pathlib import Path

import optuna
import pytest

from nas.storage import forget, holds_study, open_place
from vit import InputError


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    optuna.create_study(storage=open_place(path).storage, study_name="one")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":4,"worker')
    assert optuna.load_study(storage=open_place(path).storage, study_name="one").trials == []
    assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"\x89PNG\r\n", b"no journal, no newline", b'{"a": 1}\n'])
def test_a_file_that_is_no_journal_is_refused_and_kept(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match="journal file of Optuna"):
        open_place(path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="storage"):
        open_place(tmp_path / "file" / "s.journal")


def test_running_trials_of_living_workers_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    place = open_place(path)
    study = optuna.create_study(storage=place.storage)
    with place.working() as alive:
        for worker in (alive, "gone"):
            trial = study.ask({"x": optuna.distributions.IntDistribution(0, 9)})
            trial.set_user_attr("worker", worker)
        assert place.retry_abandoned(study) == 1
        assert [trial.state.name for trial in study.trials] == ["RUNNING", "FAIL", "WAITING"]
        assert study.trials[2].system_attrs["fixed_params"] == study.trials[1].params
    assert place.retry_abandoned(study) == 1


def test_a_journal_is_forgotten_with_what_is_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    (tmp_path / "other").write_text("kept")
    assert not holds_study(path)
    with open_place(path).working():
        pass
    optuna.create_study(storage=open_place(path).storage)
    assert holds_study(path)
    forget(path)
    assert [left.name for left in tmp_path.iterdir()] == ["other"]
