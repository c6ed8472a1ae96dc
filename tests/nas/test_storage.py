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
        assert place.retry_abandoned(study, ["x"]) == 1
        assert [trial.state.name for trial in study.trials] == ["RUNNING", "FAIL", "WAITING"]
        assert study.trials[2].system_attrs["fixed_params"] == study.trials[1].params
    assert place.retry_abandoned(study, ["x"]) == 1


def test_half_a_candidate_of_a_dead_worker_is_not_completed_by_another(tmp_path: Path) -> None:
    place = open_place(tmp_path / "s.journal")
    study = optuna.create_study(storage=place.storage)
    study.ask({"x": optuna.distributions.IntDistribution(0, 9)})  # it died before it asked for y
    study.enqueue_trial({"x": 3, "y": 4})
    study.ask({"x": optuna.distributions.IntDistribution(0, 9)})  # so did this one, but what it was to try is known
    assert place.retry_abandoned(study, ["x", "y"]) == 2
    waiting = [trial.system_attrs["fixed_params"] for trial in study.trials if trial.state.name == "WAITING"]
    assert waiting == [{"x": 3, "y": 4}]


def test_who_is_killed_while_it_retries_a_trial_neither_loses_nor_repeats_it(tmp_path: Path, monkeypatch) -> None:
    place = open_place(tmp_path / "s.journal")
    study = optuna.create_study(storage=place.storage)
    study.ask({"x": optuna.distributions.IntDistribution(0, 9)})

    class Killed(BaseException):
        """In the place of a signal."""

    def killed(*_: object, **__: object) -> None:
        raise Killed

    for step in ("enqueue_trial", "tell"):
        with monkeypatch.context() as patch:
            patch.setattr(study, step, killed)
            with pytest.raises(Killed):
                place.retry_abandoned(study, ["x"])
    assert place.retry_abandoned(study, ["x"]) == 1
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]


def test_a_journal_is_forgotten_with_what_is_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    others = [tmp_path / "other", tmp_path / "s.journal.bak"]
    for other in others:
        other.write_text("kept")
    assert not holds_study(path)
    with open_place(path).working():
        pass
    optuna.create_study(storage=open_place(path).storage)
    assert holds_study(path)
    forget(path)
    assert sorted(tmp_path.iterdir()) == others


def test_what_is_no_journal_is_not_forgotten(tmp_path: Path) -> None:
    images = tmp_path / "data"
    images.mkdir()
    (images / "notes.txt").write_text("kept")
    for path in (images, images / "notes.txt"):
        with pytest.raises(InputError, match="and is kept"):
            forget(path)
    assert (images / "notes.txt").read_text() == "kept"
