"""Schemes for a budget: what is trained keeps it, and another run takes the choice from a file."""

import csv
import json
import tomllib
from dataclasses import replace

import numpy as np
import pytest
import torch

from fifo_sim import Hardware, lower
from quant import PackedModel, QuantConfig, load_qat, prepare_qat, sensitivity
from quant.mixed import total_divergence
from tests.quant.models import float_model, images
from tilevit.cli import _exit_code
from tilevit.mixed_precision import Energies, within_energy
from vit import save_checkpoint
from vit.errors import InputError

SMALL = {"image_size": 8, "patch_size": 2, "in_channels": 1, "dim": 16, "depth": 1, "heads": 2}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("mixed") / "model.safetensors"
    save_checkpoint(path, float_model(**SMALL))
    return path


@pytest.fixture
def qat(checkpoint, tmp_path, capsys):
    """A run of `tilevit qat` without training: its result, or its message."""

    def run(*options: object, code: int = 0):
        capsys.readouterr()
        command = ["qat", checkpoint, "--epochs", 0, "--json", "--fresh", "--out", tmp_path, *options]
        assert _exit_code([str(part) for part in command]) == code
        out, err = capsys.readouterr()
        return json.loads(out) if code == 0 else err

    return run


def test_a_budget_of_bytes_is_kept_by_what_is_packed(qat, tmp_path) -> None:
    whole = {scheme: qat("--budget-kib", 1000, "--schemes", scheme)["spent_kib"] for scheme in ("pot4", "int8")}
    budget = (whole["pot4"] + whole["int8"]) / 2
    told = qat("--budget-kib", budget, "--schemes", "pot4,int8")
    assert set(told["schemes"].values()) == {"pot4", "int8"}
    assert whole["pot4"] < told["spent_kib"] <= budget
    packed = PackedModel.load(tmp_path / "packed.safetensors")
    assert packed.schemes == told["schemes"]
    with (tmp_path / "sensitivity.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["layer"]: row["scheme"] for row in rows if row["chosen"] == "1"} == told["schemes"]
    assert sum(int(row["bytes"]) for row in rows if row["chosen"] == "1") == told["spent_kib"] * 1024
    assert tomllib.loads((tmp_path / "schemes.toml").read_text())["weights"] == told["schemes"]
    again = qat("--weights", tmp_path / "schemes.toml")
    assert load_qat(again["checkpoint"])[0].quant_config.weights == told["schemes"]


def test_what_is_refused_leaves_what_was_there_and_another_run_takes_it_away(qat, checkpoint, tmp_path, capsys) -> None:
    qat("--budget-kib", 2)
    there = {name: (tmp_path / name).read_text() for name in ("schemes.toml", "sensitivity.csv")}
    command = ["qat", checkpoint, "--budget-kib", 1.5, "--epochs", 1, "--lr", -1, "--out", tmp_path]
    assert _exit_code([str(part) for part in command]) == 2
    assert {name: (tmp_path / name).read_text() for name in there} == there
    qat("--weights", "int6")
    assert not any((tmp_path / name).exists() for name in there)


def test_layers_that_are_skipped_are_not_counted(qat) -> None:
    told = qat("--budget-kib", 1000, "--skip", "head", "--skip", "blocks.*.mlp")
    assert not {"head", "blocks.0.mlp.fc1"} & told["schemes"].keys()
    assert told["spent_kib"] < qat("--budget-kib", 1000)["spent_kib"]


def test_a_budget_of_energy_is_kept_on_the_machine(checkpoint) -> None:
    network = float_model(**SMALL)
    energies = Energies(network, "ultra96", "int8")

    def exact(schemes) -> float:
        prepared = prepare_qat(network, QuantConfig(schemes))
        return lower(prepared, "ultra96").energy().total_pj / 1000

    whole = {scheme: within_energy(network, _images(), [scheme], 1e9, energies).spent for scheme in ("pot4", "int8")}
    assert whole == pytest.approx({scheme: exact(scheme) for scheme in whole}, rel=1e-12)
    budget = (whole["pot4"] + whole["int8"]) / 2
    found = within_energy(network, _images(), ["pot4", "int8"], budget, energies)
    assert set(found.schemes.values()) == {"pot4", "int8"}
    assert found.spent <= budget
    assert found.spent == pytest.approx(exact(found.schemes), rel=1e-12)


def test_energies_that_do_not_add_up_are_kept_as_a_whole() -> None:
    network = float_model(**SMALL)

    def jumping(schemes) -> float:  # two wide layers together cost more than each alone
        wide = sum(scheme == "int8" for scheme in schemes.values())
        return 10.0 + wide + 5.0 * (wide > 2)

    found = within_energy(network, _images(), ["pot4", "int8"], 14.0, jumping)
    assert found.spent == jumping(found.schemes) == 12.0
    everything = within_energy(network, _images(), ["pot4", "int8"], 22.0, jumping)
    assert set(everything.schemes.values()) == {"int8"}


def test_where_room_on_chip_decides_no_change_of_one_layer_is_better() -> None:
    """Some of the weights fit, and which do changes with the widths of the others."""
    network = float_model(**SMALL)
    machine = replace(Hardware.preset("ultra96"), sram_kib=20.0, dram_chunk_kib=0.25)
    energies, schemes = Energies(network, machine, "int8"), ["pot4", "apot6", "int8"]
    table = sensitivity(network, _images(), schemes)
    whole = [energies(dict.fromkeys({row.layer for row in table}, scheme)) for scheme in schemes]
    assert whole != sorted(whole) or max(whole) > 1.2 * min(whole)
    for budget in np.linspace(min(whole), max(whole), 5):
        found = within_energy(network, _images(), schemes, float(budget), energies)
        held = total_divergence(table, found.schemes)
        assert found.spent <= budget
        for row in table:
            changed = {**found.schemes, row.layer: row.scheme}
            assert total_divergence(table, changed) >= held or energies(changed) > budget
        for scheme, spent in zip(schemes, whole, strict=True):
            assert spent > budget or total_divergence(table, dict.fromkeys(found.schemes, scheme)) >= held


def test_a_budget_below_the_least_is_refused() -> None:
    network = float_model(**SMALL)

    def jumping(schemes) -> float:
        return 10.0 + sum(scheme == "int8" for scheme in schemes.values())

    with pytest.raises(InputError, match=r"budget_nj = 9\.0: allowed is at least 10"):
        within_energy(network, _images(), ["pot4", "int8"], 9.0, jumping)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--budget-kib", 0.1], "what the smallest schemes take"),
        (["--budget-nj", 0.1], "what the most frugal schemes take"),
        (["--budget-kib", 0], "budget_kib = 0.0"),
        (["--budget-kib", 9, "--skip", "*"], "leave at least one layer"),
        (["--budget-kib", 9, "--budget-nj", 9], "left out beside budget_kib"),
        (["--budget-kib", 9, "--schemes", "pot5"], "did you mean"),
        (["--budget-kib", 9, "--schemes", "pot4,int8,pot4"], "one scheme or more, each once"),
        (["--budget-kib", 9, "--weights", "pot4"], "left out beside budget_kib"),
        (["--schemes", "pot4"], "left out without budget_kib or budget_nj"),
        (["--budget-kib", 9, "--hardware", "zcu104"], "left out without budget_nj"),
    ],
)
def test_what_cannot_be_is_refused(qat, options, told) -> None:
    message = qat(*options, code=2)
    assert told in message
    assert len(message.strip().splitlines()) == 1


def _images() -> torch.Tensor:
    return images(8, channels=1, size=8)
