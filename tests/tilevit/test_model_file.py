"""A winner in a TOML file: what is trained and simulated is what was searched."""

import json

import pytest

from fifo_sim import Hardware, lower, simulate
from tilevit.cli import _exit_code
from tilevit.models import load_model

SHAPE = "image_size = 8\npatch_size = 2\nin_channels = 1\ndim = 8\ndepth = 1\nheads = 2\n"
WINNER = f"""
[model]
{SHAPE}
[streaming]
tile = 4
fifo = 2
attention = "tile"
[hardware]
machine = "ultra96"
elementwise_lanes = 3
"""


@pytest.fixture
def best(tmp_path):
    path = tmp_path / "best.toml"
    path.write_text(WINNER)
    return path


@pytest.fixture
def run(capsys):
    """A command's result on stdout, and what it said on stderr."""

    def run(*arguments: object, code: int = 0):
        capsys.readouterr()
        assert _exit_code([str(argument) for argument in arguments]) == code
        out, err = capsys.readouterr()
        return (json.loads(out) if out else None), err

    return run


def cycles(hardware, tile=4, fifo=2, attention="tile"):
    shape = {"image_size": 8, "patch_size": 2, "in_channels": 1, "dim": 8, "depth": 1, "heads": 2}
    return simulate(lower(shape, hardware, tile, fifo, attention).pipeline).cycles


def test_a_winner_is_simulated_on_its_machine_unless_an_option_says_otherwise(best, run):
    own = Hardware.from_dict({**Hardware.preset("ultra96").to_dict(), "elementwise_lanes": 3})
    for options, expected in (
        ([], cycles(own)),
        (["--tile", 8, "--attention", "full"], cycles(own, 8, attention="full")),
        (["--hardware", "zcu104"], cycles(Hardware.preset("zcu104"))),
    ):
        told, _ = run("simulate", best, "--json", *options)
        assert told["cycles"] == expected
    assert cycles(own) != cycles(Hardware.preset("ultra96")) != cycles(Hardware.preset("zcu104"))
    sized, _ = run("size-fifos", best, "--target", "deadlock-free", "--json")
    full, _ = run("size-fifos", best, "--target", "deadlock-free", "--attention", "full", "--json")
    assert sized["total_bytes"] < full["total_bytes"]


def test_a_winner_is_trained_with_the_attention_it_was_chosen_for(best, run, tmp_path):
    flags = ["--epochs", 1, "--json", "--out"]
    cut, err = run("train", best, *flags, tmp_path / "cut")
    assert cut["attention"] == "tile"
    assert "attention tile, as [streaming] in" in err
    loaded = load_model(cut["checkpoint"])
    assert loaded.kind == "float"
    sweep = ["sweep", cut["checkpoint"], "--data", "digits", "--tiles", "4", "--fifos", "2", "--json"]
    rows, _ = run(*sweep, "--attention", "tile,full")
    assert rows[0]["accuracy"] == cut["val_accuracy"]
    assert rows[0]["accuracy"] != rows[1]["accuracy"]
    best.write_text(WINNER.replace('"tile"', '"full"'))
    whole, err = run("train", best, *flags, tmp_path / "whole")
    assert "attention" not in whole
    assert whole["val_accuracy"] != cut["val_accuracy"]
    _, err = run("train", best, *flags, tmp_path / "cut", code=2)
    assert "another attention" in err


def test_a_command_that_does_not_heed_the_attention_says_so(best, run, tmp_path):
    _, err = run("prune", best, "--sparsity", 0.5, "--json", "--out", tmp_path / "pruned")
    assert "full attention" in err


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("tile = 0", "tile = 0: allowed is a whole number from 1"),
        ("tiles = 4", "did you mean 'tile'?"),
        ('machine = "ultra69"', "did you mean 'ultra96'?"),
        ("elementwise_lanes = 0", "hardware.elementwise_lanes = 0"),
        ("elementwise = 3", "did you mean 'elementwise_lanes'?"),
    ],
)
def test_a_wrong_line_of_the_file_is_named(wrong, told, best, run):
    key = wrong.split(" ")[0]
    line = next(line for line in WINNER.splitlines() if line.startswith(key[:4]))
    best.write_text(WINNER.replace(line, wrong))
    _, err = run("simulate", best, "--json", code=2)
    assert told in err
    assert len(err.strip().splitlines()) == 1
