"""The folder of a run: finished stages stay finished, and nobody else's files are touched."""

from dataclasses import replace

import pytest

from tilevit.folder import RunFolder
from tilevit.settings import RunConfig
from vit.errors import InputError


def test_a_finished_stage_is_not_run_again(tmp_path):
    calls = []
    for _ in range(2):
        folder = RunFolder(tmp_path / "run", RunConfig())
        result = folder.stage("train", lambda: {"value": calls.append(1) or 3})
        folder.close()
        assert result["value"] == 3
    assert len(calls) == 1


def test_a_stage_file_that_was_changed_is_refused(tmp_path):
    folder = RunFolder(tmp_path / "run", RunConfig())
    folder.stage("train", lambda: {"value": 1})
    file = tmp_path / "run" / "stages" / "train.json"
    for changed in (file.read_text().replace('"value": 1', '"value": 2'), "{}", "[]"):
        file.write_text(changed)
        with pytest.raises(InputError, match="--fresh"):
            folder.stage("train", lambda: {"value": 1})
    folder.close()


def run_of_two_stages(path, text="weights"):
    """What two stages with a file each give, and which of them were run."""
    run = []
    folder = RunFolder(path, RunConfig())

    def work(name):
        def write():
            run.append(name)
            (path / f"{name}.bin").write_text(f"{text} of {name}")
            return {"value": len(run)}

        return write

    for name in ("train", "prune"):
        folder.stage(name, work(name), [f"{name}.bin"])
    folder.close()
    return run


@pytest.mark.parametrize("damage", ["changed", "cut", "deleted"])
def test_a_stage_whose_file_was_damaged_is_run_again(tmp_path, capsys, damage):
    assert run_of_two_stages(tmp_path / "run") == ["train", "prune"]
    assert run_of_two_stages(tmp_path / "run") == []
    file = tmp_path / "run" / "train.bin"
    if damage == "deleted":
        file.unlink()
    else:
        file.write_text("Weights of train" if damage == "changed" else "weights")
    assert run_of_two_stages(tmp_path / "run") == ["train"]  # its file is as it was: what follows still stands
    assert f"{file} is damaged or gone" in capsys.readouterr().err
    assert file.read_text() == "weights of train"
    assert run_of_two_stages(tmp_path / "run") == []


def test_stages_after_one_that_came_out_differently_are_run_again(tmp_path):
    run_of_two_stages(tmp_path / "run")
    (tmp_path / "run" / "train.bin").unlink()
    assert run_of_two_stages(tmp_path / "run", "others") == ["train", "prune"]
    assert run_of_two_stages(tmp_path / "run") == []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: text[: text.index("epochs =") + 8], "line 12: is it cut off"),
        (lambda text: text[: text.index("search_epochs")], "missing"),
        (lambda text: text + "more = 3\n", "more is too much"),
    ],
)
def test_a_damaged_config_is_told_from_another_config(tmp_path, spoil, words):
    RunFolder(tmp_path / "run", RunConfig()).close()
    file = tmp_path / "run" / "config.toml"
    file.write_text(spoil(file.read_text()))
    with pytest.raises(InputError, match=rf"config\.toml.* as the run wrote it.*{words}.*--fresh"):
        RunFolder(tmp_path / "run", RunConfig())


def test_a_stage_that_fails_is_not_finished(tmp_path):
    folder = RunFolder(tmp_path / "run", RunConfig())
    with pytest.raises(ZeroDivisionError):
        folder.stage("train", lambda: {"value": 1 // 0})
    assert folder.stage("train", lambda: {"value": 1})["value"] == 1
    folder.close()


def test_another_config_is_refused_and_changes_nothing(tmp_path):
    RunFolder(tmp_path / "run", RunConfig()).close()
    before = (tmp_path / "run" / "config.toml").read_text()
    with pytest.raises(InputError, match=r"epochs = 99: .*--fresh"):
        RunFolder(tmp_path / "run", replace(RunConfig(), epochs=99))
    assert (tmp_path / "run" / "config.toml").read_text() == before


def test_fresh_forgets_the_stages_and_keeps_what_is_not_ours(tmp_path):
    folder = RunFolder(tmp_path / "run", RunConfig())
    folder.stage("train", lambda: {"value": 1})
    folder.close()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    folder = RunFolder(tmp_path / "run", replace(RunConfig(), epochs=99), fresh=True)
    assert folder.stage("train", lambda: {"value": 2})["value"] == 2
    folder.close()
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_fresh_refuses_a_folder_that_no_run_made(tmp_path):
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="it holds other files"):
        RunFolder(tmp_path, RunConfig(), fresh=True)
    assert (tmp_path / "stages" / "thesis.txt").read_text() == "years of work"


def test_a_full_disk_leaves_no_folder_behind(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise InputError("output", "config.toml", "a writable place with free space")

    monkeypatch.setattr("tilevit.folder.write_text", full)
    with pytest.raises(InputError, match="free space"):
        RunFolder(tmp_path / "run", RunConfig())
    assert not (tmp_path / "run").exists()


def test_two_processes_cannot_have_the_folder(tmp_path):
    folder = RunFolder(tmp_path / "run", RunConfig())
    with pytest.raises(InputError, match="no other process"):
        RunFolder(tmp_path / "run", RunConfig())
    folder.close()
    RunFolder(tmp_path / "run", RunConfig()).close()


def test_a_file_where_the_folder_should_be_is_refused(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(InputError, match="folder that can be written"):
        RunFolder(tmp_path / "run", RunConfig())
    assert (tmp_path / "run").read_text() == "a file"
