"""`tilevit profile`: the table of models, and the change against a baseline."""

import csv
import io
import json
from pathlib import Path

import pytest
import torch

from prune import magnitude_prune, structured_prune
from quant import PackedModel, QuantConfig, convert, prepare_qat, save_qat
from tilevit import metrics
from tilevit.cli import _exit_code
from tilevit.metrics import packed_accuracy
from tilevit.models import load_model
from vit import InputError, VisionTransformer, ViTConfig, create_model, describe, evaluate, load_data, save_checkpoint

SHAPE = ViTConfig(image_size=8, patch_size=2, in_channels=1, dim=16, depth=1, heads=2, pool="mean")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Files of a baseline, of the same pruned and cut, prepared for QAT, and pruned, prepared and packed."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    base = VisionTransformer(SHAPE)
    save_checkpoint(folder / "base.safetensors", base)
    cut = magnitude_prune(structured_prune(base, heads=0.5, mlp=0.5), 0.5)
    save_checkpoint(folder / "cut.safetensors", cut)
    images = load_data("digits").train.take(torch.arange(8)).floats()
    save_qat(folder / "qat.safetensors", prepare_qat(base, QuantConfig(), calibration=images))
    convert(prepare_qat(cut, QuantConfig(), calibration=images)).save(folder / "packed.safetensors")
    return {name: str(folder / f"{name}.safetensors") for name in ("base", "cut", "qat", "packed")}


@pytest.fixture
def told(capsys):
    """Run the command; what it printed on stdout."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert _exit_code(["profile", *arguments, "--rounds", "2", "--batch", "2"]) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def quick(monkeypatch):
    """In place of starting a process for each model."""
    monkeypatch.setattr(metrics, "process_memory", lambda *_: 3 * 2**20)


@pytest.mark.usefixtures("quick")
def test_compared_as_json(told, models):
    result = json.loads(told(models["cut"], models["qat"], "--compare", models["base"], "--data", "digits", "--json"))
    assert result["baseline"] == models["base"]
    base, cut, qat = (result["models"][models[name]] for name in ("base", "cut", "qat"))
    changed = result["change_percent"][models["cut"]]
    assert list(result["change_percent"]) == [models["cut"], models["qat"]]
    for key in ("params", "macs", "flops", "file_bytes", "energy_mj", "accuracy"):
        assert changed[key] == pytest.approx(100 * (cut[key] / base[key] - 1))
    assert changed["macs"] < 0
    assert changed["sparsity"] is None  # of a baseline without zeros
    assert cut["sparsity"] == pytest.approx(0.5, abs=0.01)
    assert base["flops"] == 2 * base["macs"]
    assert qat["modelled_energy_pj"] < base["modelled_energy_pj"]


@pytest.mark.usefixtures("quick")
def test_the_accuracy_is_that_of_the_split_asked_for(told, models):
    data = load_data("digits")
    for split in ("val", "test"):
        row = json.loads(told(models["base"], "--data", "digits", "--split", split, "--json"))
        torch.manual_seed(0)
        assert row["accuracy"] == evaluate(VisionTransformer(SHAPE), getattr(data, split)).accuracy


@pytest.mark.usefixtures("quick")
def test_markdown_has_both_tables_and_how_it_was_measured(told, models):
    text = told(models["cut"], "--compare", models["base"], "--format", "markdown", "--threads", "1")
    lines = text.splitlines()
    tables = [i for i, line in enumerate(lines) if line.startswith("| model |")]
    assert len(tables) == 2
    for start in tables:
        assert len({line.count("|") for line in lines[start : start + 3]}) == 1
    assert "| accuracy" not in text
    assert "1 thread;" in lines[-1]
    assert "modelled on ZCU104" in lines[-1] or "RAPL" in lines[-1]


@pytest.mark.usefixtures("quick")
def test_csv_is_one_rectangle(told, models):
    rows = list(csv.DictReader(io.StringIO(told(models["cut"], "--compare", models["base"], "--format", "csv"))))
    assert [(row["model"], row["what"]) for row in rows] == [
        (models["base"], "measured"),
        (models["cut"], "measured"),
        (models["cut"], "change_percent"),
    ]
    assert all(None not in row for row in rows)
    assert int(rows[0]["macs"]) > int(rows[1]["macs"])
    assert float(rows[2]["macs"]) == pytest.approx(100 * (int(rows[1]["macs"]) / int(rows[0]["macs"]) - 1))


@pytest.mark.usefixtures("quick")
def test_the_terminal_shows_a_column_a_model(told, models, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    text = told(models["cut"], "--compare", models["base"])
    assert text.count("MACs") >= 2
    assert "Change against" in text


def test_a_packed_model_is_counted_and_timed_beside_the_checkpoint_it_comes_from(told, models):
    arguments = [models["packed"], "--compare", models["cut"], "--data", "digits", "--json"]
    rows = json.loads(told(*arguments))["models"]
    packed, cut = rows[models["packed"]], rows[models["cut"]]
    assert [packed[key] for key in ("params", "macs")] == [cut[key] for key in ("params", "macs")]
    assert packed["sparsity"] >= cut["sparsity"]  # small weights round to 0 too
    assert packed["file_bytes"] == Path(models["packed"]).stat().st_size < cut["file_bytes"]
    assert packed["modelled_energy_pj"] < cut["modelled_energy_pj"]
    assert packed["accuracy"] == packed_accuracy(PackedModel.load(models["packed"]), load_data("digits").val)[0]
    assert 2**20 < packed["process_memory_bytes"] < cut["process_memory_bytes"]  # no torch in it
    assert min(packed["latency_ms"], packed["throughput"]) > 0
    assert (packed["engine"], cut["engine"], packed["peak_memory_bytes"]) == ("integer", "torch", None)


def test_what_stands_for_a_packed_model_is_laid_out_as_the_model_prepared_for_qat(models):
    packed, qat = load_model(models["packed"]).counted(), load_model(models["qat"]).counted()
    bits = [[(layer.weight_bits, layer.activation_bits, layer.weight_scheme) for layer in describe(model)]
            for model in (packed, qat)]  # fmt: skip
    assert bits[0] == bits[1]


@pytest.mark.usefixtures("quick")
def test_a_model_that_cannot_be_laid_out_is_measured_and_the_table_says_so(told, models, tmp_path):
    small = tmp_path / "small.toml"
    small.write_text(Path("fifo_sim/presets/ultra96.toml").read_text().replace("sram_kib = 972", "sram_kib = 1"))
    mobile = tmp_path / "mobile.toml"
    mobile.write_text('[model]\ntimm = "mobilevit_xxs"\nimage_size = 32\n')
    row = json.loads(told(str(mobile), "--json"))
    assert row["modelled_cycles"] is None
    assert row["power_source"] is None or "modelled" not in row["power_source"]
    text = told(models["base"], models["packed"], str(mobile), "--hardware", str(small), "--format", "markdown")
    base, packed, other = (line for line in text.splitlines() if line.startswith("| /"))
    assert base.count("does not fit") == packed.count("does not fit") == 2  # cycles and SRAM
    assert other.count("no plain ViT") == 2
    assert f"{models['base']}: hardware.sram_kib" in text.splitlines()[-1]


def test_models_are_timed_on_the_device_asked_for_and_packed_ones_on_the_cpu(models, monkeypatch):
    def timed(sides, **_):
        networks = {name: getattr(side, "network", side) for name, side in sides.items()}
        raise LookupError(*(f"{name} {network.head.weight.device}" for name, network in networks.items()))

    monkeypatch.setattr(metrics, "profile_models", timed)
    loaded = {name: load_model(models[name]) for name in ("base", "cut", "packed")}
    with pytest.raises(LookupError) as caught:
        metrics.measure(loaded, device=torch.device("meta"))
    assert caught.value.args == ("base meta", "cut meta", "packed cpu")


def test_power_counted_and_power_modelled_are_not_compared():
    row = dict.fromkeys((column.key for column in metrics.COLUMNS), 2.0)
    rows = {"a": {**row, "power_source": "RAPL"}, "b": {**row, "power_source": "modelled on ZCU104"}}
    changed = metrics.changes(rows, "a")["b"]
    assert (changed["power_w"], changed["energy_mj"], changed["params"]) == (None, None, 0.0)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--format", "cvs"], ["format", "did you mean 'csv'"]),
        (["--split", "train"], ["split", "val, test"]),
        (["--compare", "no.safetensors"], ["no.safetensors"]),
        (["--hardware", "zcu10"], ["zcu104"]),
        (["--rounds", "0"], ["rounds", "0"]),
        (["--threads", "0"], ["threads", "0"]),
        (["--device", "cuda:7"], ["device = 'cuda:7'", "such as cpu"]),
    ],
)
def test_bad_requests_are_told_in_one_line(models, capsys, flags, words):
    assert _exit_code(["profile", models["base"], *flags]) == 2
    told = capsys.readouterr()
    assert len(told.err.strip().splitlines()) == 1
    assert told.out == ""
    for word in words:
        assert word in told.err


def test_a_model_given_twice_or_untrained_with_data_is_refused(models, tmp_path, capsys):
    assert _exit_code(["profile", models["base"], "--compare", models["base"]]) == 2
    assert "each model once" in capsys.readouterr().err
    new = tmp_path / "new.toml"
    new.write_text("[model]\nimage_size = 8\npatch_size = 2\nin_channels = 1\ndim = 16\ndepth = 1\nheads = 2\n")
    assert _exit_code(["profile", str(new), "--data", "digits"]) == 2
    assert "not trained" in capsys.readouterr().err


def test_accuracy_is_of_images_of_the_size_that_a_mobilevit_was_trained_on(tmp_path):
    mobile = tmp_path / "mobile.safetensors"
    save_checkpoint(mobile, create_model("mobilevit_xxs", image_size=64, in_channels=1))
    with pytest.raises(InputError, match="model image_size = 64: allowed is 8, as in the data digits"):
        load_model(str(mobile), load_data("digits"))
