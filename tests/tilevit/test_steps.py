"""The pipeline step by step, each command on what the one before it wrote, as the README shows it."""

import csv
import json

import pytest

from tilevit.cli import _exit_code
from tilevit.models import model_table
from vit import create_model, save_checkpoint

MODEL = """
[model]
image_size = 8
patch_size = 2
in_channels = 1
dim = 16
depth = 1
heads = 2
pool = "mean"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps")
    (folder / "model.toml").write_text(MODEL)
    return folder


@pytest.fixture(scope="module")
def trained(place):
    assert _exit_code(["train", str(place / "model.toml"), "--epochs", "3", "--out", str(place / "train")]) == 0
    return place / "train" / "model.safetensors"


@pytest.fixture(scope="module")
def pruned(place, trained):
    arguments = ["prune", str(trained), "--sparsity", "0.5", "--epochs", "1", "--out", str(place / "pruned")]
    assert _exit_code(arguments) == 0
    return place / "pruned" / "model.safetensors"


@pytest.fixture(scope="module")
def quantised(place, pruned):
    assert _exit_code(["qat", str(pruned), "--epochs", "1", "--out", str(place / "qat")]) == 0
    return place / "qat" / "model.safetensors"


@pytest.fixture
def told(capsys):
    """Run a command with --json and read what it printed on stdout: the result alone."""

    def run(*arguments: str):
        capsys.readouterr()
        assert _exit_code([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_search_exports_what_train_takes(told, place):
    best = place / "best.toml"
    space = place / "space.toml"
    space.write_text(
        "[choices]\ndim = [8, 16]\nheads = [2]\n[fixed]\n" + MODEL.split("[model]")[1].split("dim")[0] + "depth = 1\n"
    )
    flags = ["--space", str(space), "--trials", "2", "--epochs", "1", "--out", str(place / "search")]
    flags += ["--hardware", "ultra96"]
    result = told("search", *flags, "--export", str(best))
    assert result["trials"] == 2
    assert json.loads((place / "search" / "front.json").read_text()) == result
    assert {path.name for path in (place / "search").glob("*.png")} == {
        "front.png",
        "importances.png",
        "parallel.png",
        "progress.png",
    }
    assert result["front"]
    again = told("search", *flags, "--export", str(best))
    assert again == result
    (searched,) = [row["cycles"] for row in result["front"] if row["candidate"]["dim"] == result["winner"]["dim"]]
    assert told("simulate", str(best))["cycles"] == searched
    assert told("train", str(best), "--epochs", "1", "--out", str(place / "best"))["epochs"] == 1


def test_evaluate_agrees_between_checkpoint_and_packed_file(told, quantised):
    graph = told("evaluate", str(quantised))
    engine = told("evaluate", str(quantised.parent / "packed.safetensors"))
    assert (graph["kind"], engine["kind"]) == ("qat", "packed")
    assert graph["accuracy"] == engine["accuracy"]
    assert graph["images"] == 359


def test_images_are_evaluated_as_the_model_was_trained(told, trained, capsys):
    """Whatever part of the data the seed holds out now."""
    usual = told("evaluate", str(trained))
    other = told("evaluate", str(trained), "--seed", "1")
    assert other == usual  # the test images are the same, and so are mean and deviation
    assert _exit_code(["evaluate", str(trained), "--seed", "1"]) == 0
    assert "normalised as" in capsys.readouterr().err


def test_images_are_evaluated_at_the_models_size(told, place, capsys):
    larger = place / "larger.safetensors"
    save_checkpoint(larger, create_model({**model_table(place / "model.toml"), "image_size": 12}))
    assert told("evaluate", str(larger))["image_size"] == 12
    assert _exit_code(["evaluate", str(larger)]) == 0
    said = capsys.readouterr().err
    assert "12x12" in said
    assert "does not say how its images were normalised" in said


def test_sparsity_holds_through_the_steps(told, pruned, quantised):
    assert told("profile", str(pruned))["sparsity"] == pytest.approx(0.5, abs=0.05)
    assert told("profile", str(quantised))["sparsity"] == pytest.approx(0.5, abs=0.05)


def test_a_stopped_or_repeated_training_is_read_back(told, place, trained):
    before = trained.read_bytes()
    flags = ["train", str(place / "model.toml"), "--epochs", "3", "--out", str(place / "train")]
    told(*flags)
    assert trained.read_bytes() == before
    rows = list(csv.DictReader((place / "train" / "stats.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]


def test_another_training_in_the_folder_is_refused_unless_fresh(place, trained, capsys):
    flags = ["train", str(place / "model.toml"), "--epochs", "2", "--out", str(place / "train")]
    before = trained.read_bytes()
    assert _exit_code(flags) == 2
    assert trained.read_bytes() == before


def test_a_qat_checkpoint_is_refused_before_it_is_trained_again(place, quantised, capsys):
    for command in (["train"], ["prune", "--sparsity", "0.5"], ["qat"]):
        assert _exit_code([command[0], str(quantised), *command[1:], "--out", str(place / "twice")]) == 2
        assert "prepared for QAT already" in capsys.readouterr().err
    assert not (place / "twice").exists()


def test_structured_pruning_makes_the_file_smaller(told, place, trained):
    result = told("prune", str(trained), "--mlp", "0.5", "--round-to", "4", "--out", str(place / "cut"))
    assert (place / "cut" / "model.safetensors").stat().st_size < trained.stat().st_size
    assert result["epochs"] == 0
    assert (result["heads_removed"], result["mlp_removed"], result["channels_removed"]) == (0, 0.5, 0)


@pytest.mark.parametrize("importance", ["taylor", "gate"])
def test_units_are_cut_by_what_they_are_worth_to_the_data(told, place, trained, importance):
    out = place / importance
    flags = ["--heads", "0.5", "--mlp", "0.5", "--importance", importance, "--epochs", "1"]
    flags += ["--gate-epochs", "1"] if importance == "gate" else []
    result = told("prune", str(trained), *flags, "--out", str(out))
    assert (result["heads_removed"], result["mlp_removed"], result["epochs"]) == (0.5, 0.5, 1)
    assert len(list(out.glob(f"{trained.stem}_gates_heads_mlp_1_*/gates_state.safetensors"))) == (importance == "gate")
    first = (out / "model.safetensors").read_bytes()
    assert told("prune", str(trained), *flags, "--out", str(out)) == result
    assert (out / "model.safetensors").read_bytes() == first
    assert told("prune", str(trained), *flags, "--out", str(out), "--fresh") == result


def test_a_recipe_says_what_the_flags_do_not(told, place, trained):
    recipe = place / "recipe.toml"
    recipe.write_text("[recipe]\nepochs = 2\nlr = 1e-4\nweight_decay = 0.0\n")
    out = place / "recipe"
    flags = ["--sparsity", "0.5", "--recipe", str(recipe), "--out", str(out)]
    assert told("prune", str(trained), *flags)["epochs"] == 2
    assert told("prune", str(trained), *flags, "--epochs", "1", "--fresh")["epochs"] == 1
    assert told("prune", str(trained), *flags, "--epochs", "0", "--fresh")["epochs"] == 0


def test_simulate_and_size_a_model(told, quantised):
    result = told("simulate", str(quantised), "--tile", "4", "--fifo", "2")
    assert result["cycles"] > 0
    assert result["memory"]["sram_kib"] > 0
    sized = told("size-fifos", str(quantised), "--tile", "4")
    assert sized["cycles"] <= result["cycles"]


def test_simulate_a_file_and_hold_it_against_its_verilog(told):
    result = told("simulate", "examples/residual_block.json")
    for ledger in result["stalls"].values():
        assert sum(ledger.values()) == result["cycles"]
    assert len(result["starts"]["add"]) == len(result["ends"]["add"]) == 64


def test_sweep_writes_a_row_for_each_combination(told, place, quantised):
    table = place / "sweep.csv"
    flags = ["--tiles", "2,4", "--fifos", "1,2", "--attention", "full,tile", "--data", "digits", "--out", str(table)]
    rows = told("sweep", str(quantised), *flags)
    assert len(rows) == 8
    assert all(0 <= row["accuracy"] <= 1 for row in rows)
    assert len(list(csv.DictReader(table.read_text().splitlines()))) == 8


@pytest.mark.parametrize("method", ["fp16", "int8-dynamic"])
def test_ptq_tells_accuracy_and_size(told, place, trained, method):
    result = told("ptq", str(trained), "--method", method, "--out", str(place / "ptq"))
    assert result["size_bytes"] < result["float_size_bytes"]
    again = told("evaluate", result["path"], "--split", "val")
    assert (again["kind"], again["accuracy"]) == ("onnx", result["accuracy"])


def test_what_export_wrote_is_as_accurate_as_what_it_was_made_from(told, place, trained, quantised, capsys):
    for model in (trained, quantised):
        file = place / "alike.onnx"
        told("export", str(model), "--out", str(file))
        one, other = (told("evaluate", str(path)) for path in (model, file))
        assert {**one, "model": "", "kind": ""} == {**other, "model": "", "kind": ""}
    for command in (["qat", str(file)], ["simulate", str(file)], ["profile", str(file)]):
        assert _exit_code(command) == 2
        assert "an ONNX file can be evaluated alone" in capsys.readouterr().err


def test_export_writes_files_for_other_tools(told, place, trained, quantised):
    assert told("export", str(trained), "--out", str(place / "model.onnx"))["size_bytes"] > 0
    flags = ["--format", "packed", "--data", "digits", "--out", str(place / "again.safetensors")]
    told("export", str(quantised), *flags)
    assert (place / "again.safetensors").read_bytes() == (quantised.parent / "packed.safetensors").read_bytes()
    told("export", "examples/residual_block.json", "--format", "verilog", "--out", str(place / "pipeline.v"))
    assert "module" in (place / "pipeline.v").read_text()


def test_export_writes_qonnx_of_what_is_quantised_alone(told, place, trained, quantised, capsys):
    import onnx

    for model in (quantised, quantised.parent / "packed.safetensors"):
        file = place / "quantised.onnx"
        told("export", str(model), "--format", "qonnx", "--out", str(file))
        assert "qonnx.custom_op.general" in {node.domain for node in onnx.load(file).graph.node}
    file.unlink()
    for form in ("qonnx", "packed"):
        assert _exit_code(["export", str(trained), "--format", form, "--out", str(file)]) == 2
        assert (
            f"{trained}': allowed is a checkpoint that tilevit qat wrote; this one is float" in capsys.readouterr().err
        )
    assert not file.exists()


def test_the_qonnx_package_reads_what_export_wrote(told, place, quantised):
    wrapper = pytest.importorskip("qonnx.core.modelwrapper")
    file = place / "read.onnx"
    told("export", str(quantised), "--format", "qonnx", "--out", str(file))
    assert wrapper.ModelWrapper(str(file)).graph.output[0].name == "logits"


def test_distill_trains_a_student(told, place, trained):
    flags = ["--teacher", str(trained), "--epochs", "1"]
    for name, more in (("soft", []), ("hard", ["--hard"])):
        told_by = told("distill", str(place / "model.toml"), *flags, *more, "--out", str(place / name))
        assert told_by["epochs"] == 1
    soft, hard = (list(csv.DictReader((place / n / "stats.csv").read_text().splitlines())) for n in ("soft", "hard"))
    assert soft[0]["train_loss"] != hard[0]["train_loss"]
