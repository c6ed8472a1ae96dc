"""Every example loads at full scale and runs in reduced form, each by one command."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from quant import post_training
from tilevit import metrics
from tilevit.cli import _exit_code
from tilevit.settings import holds_steps, resolve
from tilevit.steps_file import KINDS, read_steps
from vit import create_model

EXAMPLES = sorted(Path("examples").glob("*.toml"))


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    """A function that runs an example in reduced form, once, and gives its folder."""
    folder, ran = tmp_path_factory.mktemp("examples"), set()
    export = post_training.export_onnx

    def exported_once(model, path):
        """torch's exporter takes seconds: of the same weights its file is the same."""
        weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
        kept = folder / f"{hashlib.sha256(weights).hexdigest()}.onnx"
        if not kept.exists():
            export(model, kept)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(kept, path)

    def run(name: str) -> Path:
        if name not in ran:
            ran.add(name)
            with pytest.MonkeyPatch.context() as patched:  # in place of starting a process for each model
                patched.setattr(metrics, "process_memory", lambda *_: 3 * 2**20)
                patched.setattr(post_training, "export_onnx", exported_once)
                arguments = ["run", "--config", f"examples/{name}.toml", "--reduced", "--out", str(folder / name)]
                assert _exit_code(arguments) == 0
        return folder / name

    return run


def results(folder: Path):
    return json.loads((folder / "results.json").read_text())


def test_the_five_pipelines_are_there():
    names = {file.stem for file in EXAMPLES}
    assert names == {"pocket_vit", "vit_metrics", "vit_tiny_ptq", "tiny_pot", "mobilevit_ptq"}


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_it_loads_in_both_forms(file, tmp_path):
    for small in (False, True):
        config = read_steps(file, {}, reduced=small) if holds_steps(file) else resolve(file, {}, reduced=small)
        assert (config.data == "digits") == small
        written = tmp_path / "config.toml"
        written.write_text(config.to_toml())
        assert (read_steps(written, {}) if holds_steps(file) else resolve(written, {})) == config


def test_the_models_of_full_scale_are_of_the_published_sizes():
    def params(example, step, image_size):
        steps = {step.name: step for step in read_steps(Path(f"examples/{example}.toml"), {}).steps}
        spec = steps[step].options["model"]
        shape = {"num_classes": 10, "image_size": image_size, "in_channels": 3}
        with torch.device("meta"):
            model = create_model(spec, **shape)
        return sum(parameter.numel() for parameter in model.parameters())

    assert 20e6 < params("pocket_vit", "teacher", 32) < 23e6
    assert 3.5e6 < params("pocket_vit", "student", 32) < 5e6
    assert 9e6 < params("vit_metrics", "baseline", 32) < 11e6
    assert params("vit_metrics", "tiny", 32) < 2e6
    assert 5e6 < params("vit_tiny_ptq", "vit_tiny", 224) < 6e6
    for size, millions in (("xxs", 0.95), ("xs", 1.94), ("s", 4.94)):
        assert params("mobilevit_ptq", f"mobilevit_{size}", 256) / 1e6 == pytest.approx(millions, abs=0.01)


def test_the_pocket_vit_is_distilled_pruned_and_quantised(reduced):
    folder = reduced("pocket_vit")
    steps = results(folder)["steps"]
    assert {path.stem for path in (folder / "checkpoints").glob("student*")} >= {
        "student_best",
        "student_latest",
        "student_pruned",
        "student_int8",
    }
    rows = list(csv.DictReader((folder / "stats.csv").read_text().splitlines()))
    assert {row["stage"] for row in rows} == {"teacher", "student", "student_pruned"}
    assert {path.stem for path in (folder / "plots").iterdir()} == {
        "training_loss",
        "val_accuracy",
        "learning_rate",
        "epoch_time",
        "accuracy",
    }
    assert steps["student_pruned"]["params"] < steps["student"]["params"]
    assert steps["student_int8"]["size_bytes"] < steps["student_int8"]["float_size_bytes"]
    changed = steps["metrics"]["change_percent"]["student_pruned"]
    assert max(changed["macs"], changed["params"], changed["file_bytes"]) < 0
    assert list(steps["test"]["accuracy"]) == ["teacher_best", "student_best", "student_pruned", "student_int8"]


def test_the_metrics_of_every_model_stand_in_two_tables(reduced):
    folder = reduced("vit_metrics")
    steps = results(folder)["steps"]
    rows = steps["metrics"]["models"]
    assert len(rows) == 7
    sizes = [rows[name]["params"] for name in ("baseline_best", "pruned_20", "pruned_30", "pruned_40")]
    assert sizes == sorted(set(sizes), reverse=True)
    assert rows["pruned_40"]["params"] == rows["pruned_40_by_magnitude"]["params"]
    assert len(list((folder / "checkpoints").glob("*_gates_*"))) == 1  # learned once, for all three shares
    page = (folder / "results.md").read_text()
    assert page.count("| model | accuracy, % | latency, ms |") == 1
    assert "Change against baseline_best, %" in page
    assert "modelled on ZCU104" in page or "RAPL" in page


def test_the_widths_of_vit_tiny_suit_the_hardware_and_each_file_says_why(reduced):
    folder = reduced("vit_tiny_ptq")
    config = json.loads((folder / "stages" / "pruned.json").read_text())["result"]
    assert config["channels_removed"] == pytest.approx(8 / 48)
    page = (folder / "results.md").read_text()
    for name in ("dynamic_int8", "fp16", "static_int8"):
        assert f"- **{name}**: " in page
        assert name in results(folder)["steps"]["test"]["accuracy"]
        assert (folder / "checkpoints" / f"{name}.onnx").exists()


def test_the_sparsity_of_tiny_pot_stays(reduced):
    found = results(reduced("tiny_pot"))
    assert [row["sparsity"] >= 0.599 for row in found["stages"]] == [False, True, True, True]
    assert (reduced("tiny_pot") / "plots" / "stages.png").exists()
    assert found["simulation"]["tile"] == 8


def test_mobilevit_is_trained_and_quantised(reduced):
    steps = results(reduced("mobilevit_ptq"))["steps"]
    assert list(steps) == ["mobilevit_xxs", "xxs_int8", "test"]
    assert 900_000 < steps["mobilevit_xxs"]["params"] < 1_000_000
    assert steps["xxs_int8"]["compression"] > 3
    assert list(steps["test"]["accuracy"]) == ["mobilevit_xxs_best", "xxs_int8"]


def test_every_kind_of_step_is_a_command():
    from tilevit.cli import app

    assert set(KINDS) <= {command.name for command in app.registered_commands}
