"""Every notebook runs from its first cell to its last, and holds no output."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted(Path("notebooks").glob("*.ipynb"))
REDUCED = {"EPOCHS": 1, "MORE_EPOCHS": 1, "TRIALS": 2}  # what a cell that only sets these becomes


def cells_of(file):
    return json.loads(file.read_text())["cells"]


def reduced(source):
    """The cell, or, where every line of it sets a number in REDUCED, the same with smaller numbers."""
    names = [line.partition(" = ")[0] for line in source.splitlines()]
    return "\n".join(f"{name} = {REDUCED[name]}" for name in names) if set(names) <= set(REDUCED) else source


def test_there_is_one_for_each_thing_a_newcomer_asks():
    names = {file.stem for file in NOTEBOOKS}
    assert names == {"simulate_and_explain", "search_with_known_costs", "prune_quantise_pack"}


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_it_runs_and_is_stored_without_outputs(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for cell in cells_of(Path(__file__).parents[2] / file):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec(compile(reduced("".join(cell["source"])), file.name, "exec"), names)
    assert len(capsys.readouterr().out.splitlines()) > 4
    assert not list(tmp_path.iterdir())
