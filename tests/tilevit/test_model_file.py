"""A winner in a TOML file: what is trained and simulated is what was searched."""

import json

import pytest
import torch

from fifo_sim import Hardware, lower, simulate
from quant import QuantConfig, load_qat, prepare_qat
from tilevit.cli import _exit_code
from tilevit.models import load_model
from vit import VisionTransformer, ViTConfig

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


@pytest.fixture
def quantised(best):
    """The winner, with the head in 8 bits and the rest in 4."""
    best.write_text(f'activations = "int6"\n{best.read_text()}[weights]\nhead = "int8"\n"*" = "pot4"\n')
    return best


def test_a_quantised_winner_is_simulated_in_its_bits(quantised, run):
    torch.manual_seed(0)
    config = ViTConfig.from_dict({"image_size": 8, "patch_size": 2, "in_channels": 1, "dim": 8, "depth": 1, "heads": 2})
    network = prepare_qat(VisionTransformer(config), QuantConfig({"head": "int8", "*": "pot4"}, activations="int6"))
    own = Hardware.from_dict({**Hardware.preset("ultra96").to_dict(), "elementwise_lanes": 3})
    lowered = lower(network, own, 4, 2, "tile")
    told, _ = run("simulate", quantised, "--json")
    assert told["cycles"] == simulate(lowered.pipeline).cycles
    assert told["memory"] == lowered.memory.to_dict()
    assert told["energy_pj"] == lowered.energy().to_dict()
    rows, _ = run("sweep", quantised, "--tiles", 4, "--fifos", 2, "--attention", "tile", "--json")
    assert rows[0]["energy_pj"] == lowered.energy().total_pj
    elsewhere, _ = run("sweep", quantised, "--tiles", 4, "--fifos", 2, "--hardware", "zcu104", "--json")
    assert elsewhere[0]["energy_pj"] == lower(network, "zcu104", 4, 2).energy().total_pj
    profiled, _ = run("profile", quantised, "--rounds", 1, "--json")
    assert profiled["modelled_energy_pj"] == lower(network, "zcu104").energy().total_pj


def test_a_winner_is_quantised_as_its_file_says(quantised, run, tmp_path):
    schemes = {"head": "int8", "*": "pot4"}
    for options, expected in (
        ([], (schemes, "int6")),
        (["--weights", quantised], (schemes, "int6")),
        (["--activations", "int8"], (schemes, "int8")),
        (["--weights", "int6"], ("int6", "int8")),
    ):
        run("qat", quantised, *options, "--epochs", 0, "--fresh", "--json", "--out", tmp_path)
        config = load_qat(tmp_path / "model.safetensors")[0].quant_config
        assert (config.weights, config.activations) == expected


def test_activations_without_weights_are_refused(best, run):
    best.write_text(f'activations = "int6"\n{WINNER}')
    _, err = run("simulate", best, code=2)
    assert "activations = 'int6': allowed is left out without a table [weights]" in err
    best.write_text(f'{WINNER}[weights]\nblocks.0.mlp = "int8"\n')
    _, err = run("simulate", best, code=2)
    assert 'a pattern with points stands in quotes: "blocks.0" = ...' in err
    best.write_text(f'{WINNER}[weights]\nheads = "int8"\n')
    _, err = run("simulate", best, code=2)
    assert "weights = 'heads': allowed is patterns that fit a layer; did you mean 'head'?" in err


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
