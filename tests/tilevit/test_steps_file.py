"""Files of steps: what is read, what is refused, and that finished steps are not taken again."""

import csv
import json

import pytest
import torch

from tilevit import metrics, steps_report
from tilevit.cli import _exit_code
from tilevit.folder import flattened
from tilevit.steps_file import read_steps
from tilevit.steps_report import page, why

TRAIN = """
[[steps]]
name = "first"
run = "train"
model = {dim = 16, depth = 1, heads = 2, patch_size = 2, pool = "mean"}
epochs = 2
"""
REST = """
[[steps]]
name = "masked"
run = "prune"
model = "first"
sparsity = 0.5
epochs = 1

[[steps]]
name = "small"
run = "qat"
model = "masked"
epochs = 1

[[steps]]
name = "sides"
run = "profile"
models = ["small"]
compare = "first_latest"
rounds = 2
split = "test"

[[steps]]
name = "test"
run = "evaluate"
models = ["first", "small", "small_packed"]
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """In place of starting a process for each model."""
    monkeypatch.setattr(metrics, "process_memory", lambda *_: 3 * 2**20)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "steps.toml"
    path.write_text(TRAIN + REST)
    return path


def run(file, out, *flags):
    return _exit_code(["run", "--config", str(file), "--out", str(out), *flags])


def test_steps_build_on_one_another(file, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(file, out, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((out / "results.json").read_text())
    steps = found["steps"]
    assert list(steps) == ["first", "masked", "small", "sides", "test"]
    assert steps["masked"]["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert steps["small"]["sparsity"] >= steps["masked"]["sparsity"]
    accuracy = steps["test"]["accuracy"]
    assert accuracy["small"] == accuracy["small_packed"]
    assert steps["sides"]["models"]["small"]["accuracy"] == accuracy["small"]
    assert steps["first"]["best_val_accuracy"] >= steps["first"]["val_accuracy"]
    assert (out / "results.md").read_text() == page(found)
    rows = list(csv.DictReader((out / "stats.csv").read_text().splitlines()))
    assert [row["stage"] for row in rows] == ["first", "first", "masked", "small"]


def test_the_page_is_made_again_from_the_folder_alone(file, tmp_path, capsys):
    out = tmp_path / "out"
    file.write_text(TRAIN)
    assert run(file, out) == 0
    text = (out / "results.md").read_text()
    (out / "results.md").unlink()
    (out / "plots" / "epoch_time.png").unlink()
    assert _exit_code(["report", str(out)]) == 0
    assert (out / "results.md").read_text() == text
    assert (out / "plots" / "epoch_time.png").exists()
    (out / "results.json").write_text('{"steps": {"first": {}}}')
    capsys.readouterr()
    assert _exit_code(["report", str(out)]) == 2
    assert "the folder of a finished run" in capsys.readouterr().err


def test_what_is_finished_is_not_taken_again_and_what_is_damaged_is(file, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(file, out) == 0
    times = {path.name: path.stat().st_mtime_ns for path in (out / "stages").iterdir()}
    before = json.loads((out / "results.json").read_text())
    best = (out / "checkpoints" / "first_best.safetensors").read_bytes()
    assert run(file, out) == 0
    assert {path.name: path.stat().st_mtime_ns for path in (out / "stages").iterdir()} == times
    assert json.loads((out / "results.json").read_text()) == before
    (out / "checkpoints" / "first_best.safetensors").unlink()
    assert run(file, out) == 0
    assert "first_best.safetensors is damaged or gone: first is run again" in capsys.readouterr().err
    assert (out / "checkpoints" / "first_best.safetensors").read_bytes() == best
    assert (out / "stages" / "masked.json").stat().st_mtime_ns == times["masked.json"]


def test_a_stopped_run_ends_as_if_never_stopped(file, tmp_path, monkeypatch):
    assert run(file, tmp_path / "whole") == 0
    seen = []

    def stop_once(*arguments, **options):
        seen.append(arguments)
        if len(seen) == 4:  # in the second training, after its first epoch
            raise KeyboardInterrupt
        return keep(*arguments, **options)

    from vit import training

    keep = training.TrainingState.save
    monkeypatch.setattr(training.TrainingState, "save", stop_once)
    assert run(file, tmp_path / "stopped") == 130
    assert run(file, tmp_path / "stopped") == 0
    for name in ("first_best", "first_latest", "masked", "small", "small_packed"):
        whole, stopped = (tmp_path / side / "checkpoints" / f"{name}.safetensors" for side in ("whole", "stopped"))
        assert whole.read_bytes() == stopped.read_bytes()


def test_other_settings_in_the_folder_are_refused_by_the_key_that_differs(file, tmp_path, capsys):
    out = tmp_path / "out"
    file.write_text(TRAIN)
    assert run(file, out) == 0
    file.write_text(TRAIN.replace("epochs = 2", "epochs = 3"))
    capsys.readouterr()
    assert run(file, out) == 2
    assert "steps.first.epochs = 3: allowed is 2, which the run in" in capsys.readouterr().err
    assert run(file, out, "--fresh") == 0


def test_the_reduced_form_overrides_adds_and_leaves_out(file):
    text = 'data = "cifar10"\n[reduced]\ndata = "digits"\n' + TRAIN + "reduced = {epochs = 1, lr = 1e-2}\n"
    file.write_text(text + REST.replace("sparsity = 0.5", "sparsity = 0.5\nreduced = false"))
    full, small = read_steps(file, {"seed": 3}), read_steps(file, {}, reduced=True)
    assert (full.data, small.data, full.seed) == ("cifar10", "digits", 3)
    assert (full.steps[0].options["epochs"], small.steps[0].options["epochs"]) == (2, 1)
    assert [step.name for step in small.steps] == ["first", "small", "sides", "test"]
    assert "reduced" not in full.to_toml()


def test_a_printed_config_reads_back(file, tmp_path, capsys):
    assert _exit_code(["run", "--config", str(file), "--print-config"]) == 0
    printed = tmp_path / "printed.toml"
    printed.write_text(capsys.readouterr().out)
    assert read_steps(printed, {}) == read_steps(file, {})


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('run = "train"', 'run = "trian"', ["step first: run = 'trian'", "did you mean 'train'"]),
        ("epochs = 2", "epoch = 2", ["step first: key = 'epoch'", "did you mean 'epochs'"]),
        ("epochs = 2", 'epochs = "two"', ["step first: epochs = 'two'", "a whole number"]),
        ("epochs = 2", "epochs = 0", ["epochs = 0"]),
        ("epochs = 2", "lr = nan", ["lr = nan"]),
        ('name = "first"', 'name = "a/b"', ["step 1: name = 'a/b'", "letters"]),
        ('name = "first"', "", ["step 1: name = None"]),
        ('name = "masked"', 'name = "first_best"', ["step 2: name = 'first_best'", "no step before"]),
        ('model = "first"', 'model = "frist"', ["step masked: model = 'frist'", "a step before it (first, first_best"]),
        ('model = "first"', "", ["step masked", "the key model"]),
        ("sparsity = 0.5", 'nm = "2:4"\nscope = "erk"', ["step masked: scope = 'erk'", "left out without sparsity"]),
        ('models = ["small"]', 'models = "small"', ["step sides: models = 'small'", "a list of text"]),
        ("[[steps]]", 'data = "digitz"\n[[steps]]', ["data = 'digitz'"]),
        ("[[steps]]", "epochs = 3\n[[steps]]", ["key = 'epochs'", "title, data"]),
        ("[[steps]]", 'seed = "1"\n[[steps]]', ["seed = '1'", "a whole number"]),
        ("dim = 16", "dim = 17", ["step first: model", "heads"]),
        ("sparsity = 0.5", "", ["0 ways given"]),
    ],
)
def test_bad_files_are_told_in_one_line(file, tmp_path, capsys, old, new, words):
    file.write_text(file.read_text().replace(old, new, 1))
    capsys.readouterr()
    assert run(file, tmp_path / "out") == 2
    lines = [line for line in capsys.readouterr().err.strip().splitlines() if not line.endswith("steps)")]
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ('run = "qat"\nweights = "pot5"', "weights = 'pot5': allowed is one of pot4"),
        ('run = "qat"\nactivations = "int9"', "activations = 'int9'"),
        ('run = "qat"\nweights = {"*" = "int5"}', "weights['*'] = 'int5'"),
        ('run = "qat"\nepochs = -1', "epochs = -1"),
        ('run = "qat"\nrecipe = {epoch = 3}', "recipe = 'epoch'"),
        ('run = "distill"\nteacher = "first"\ntemp = -1', "temp = -1"),
        ('run = "distill"\nteacher = "first"\nlam_f = -0.1', "lam_f = -0.1"),
        ('run = "distill"\nteacher = "frist"', "teacher = 'frist'"),
        ('run = "prune"\nheads = 1.5', "heads = 1.5: allowed is a number in [0, 1)"),
        ('run = "prune"\nsparsity = 2', "sparsity = 2"),
        ('run = "prune"\nsparsity = 0.5\nscope = "all"', "scope = 'all'"),
        ('run = "prune"\nnm = "4:2"', "n = 4"),
        ('run = "prune"\nnm = "half"', "nm = 'half'"),
        ('run = "prune"\nmlp = 0.5\nimportance = "tailor"', "importance = 'tailor'"),
        ('run = "prune"\nmlp = 0.5\nimportance = "gate"\ngate_penalty = -1', "gate_penalty = -1"),
        ('run = "prune"\nmlp = 0.5\nepochs = 1\nlr = 0', "lr = 0"),
        ('run = "ptq"\nmethod = "int3"', "method = 'int3'"),
        ('run = "evaluate"\nmodels = ["first"]\nsplit = "tset"', "split = 'tset'"),
        ('run = "profile"\nmodels = ["first"]\nrounds = 0', "rounds = 0"),
        ('run = "profile"\nmodels = ["first"]\nhardware = "edgey"', "hardware = 'edgey'"),
    ],
)
def test_values_are_refused_before_the_first_step_is_taken(file, tmp_path, capsys, options, words):
    model = "" if "models" in options else 'model = "first"\n'
    file.write_text(f'{TRAIN}\n[[steps]]\nname = "b"\n{model}{options}\n')
    assert run(file, tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert f"step b: {words}" in told
    assert not (tmp_path / "out").exists()


def test_what_leaves_no_checkpoint_is_not_trained_further(file, tmp_path, capsys):
    quantised = '[[steps]]\nname = "b"\nrun = "ptq"\nmodel = "first"\n'
    file.write_text(TRAIN + quantised + '[[steps]]\nname = "c"\nrun = "qat"\nmodel = "b"\n')
    assert run(file, tmp_path / "out") == 2
    assert "step c: model = 'b'" in (told := capsys.readouterr().err)
    assert "it is an ONNX file, which can be evaluated alone" in told
    assert not (tmp_path / "out").exists()


def test_what_only_the_model_can_refuse_names_its_step(file, tmp_path, capsys):
    skipped = '[[steps]]\nname = "b"\nrun = "qat"\nmodel = "first"\nskip = ["blocks.7"]\n'
    file.write_text(TRAIN.replace("epochs = 2", "epochs = 1") + skipped)
    assert run(file, tmp_path / "out") == 2
    assert "step b: skip = 'blocks.7'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "flags", "word"),
    [
        ("steps = 3", [], "one [[steps]] table or more"),
        ("steps = []", [], "one [[steps]] table or more"),
        (TRAIN, ["--epochs", "3"], "change it in the file"),
        (TRAIN, ["--reduced"], "a table [reduced]"),
        ("epochs = 3", ["--reduced"], "a [reduced] table"),
    ],
)
def test_bad_flags_are_told_in_one_line(file, tmp_path, capsys, text, flags, word):
    file.write_text(text)
    assert run(file, tmp_path / "out", *flags) == 2
    assert word in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_reduced_without_a_file_is_refused(capsys):
    assert _exit_code(["run", "--reduced"]) == 2
    assert "--config" in capsys.readouterr().err


def test_lists_of_named_tables_are_flattened():
    values = {"a": 1, "steps": [{"name": "x", "lr": 2, "model": {"dim": 3}}], "tiles": [1, 2]}
    assert flattened(values) == {
        "a": 1,
        "steps": ["x"],
        "steps.x.name": "x",
        "steps.x.lr": 2,
        "steps.x.model.dim": 3,
        "tiles": [1, 2],
    }


def test_the_sentence_follows_the_measurement_and_the_cpu():
    step = {"method": "fp16", "latency_ms": 2.0, "float_latency_ms": 1.0, "compression": 2.0, "change": -0.01}
    step |= {"kept_in_float": ["a"], "bits": {"a": 32, "b": 16}}
    slow = why(step, frozenset({"avx2", "f16c"}))
    assert "this CPU has no FP16 arithmetic, so it converts" in slow
    assert "2.00× as slow" in slow
    assert "-1.00 points" in slow
    assert "1 of 2 layers stayed in float" in slow
    for feature in ("avx512_fp16", "asimdhp"):
        assert "this CPU has FP16 arithmetic" in why(step, frozenset({feature}))
    assert "whether this CPU has FP16 arithmetic is not known" in why(step, frozenset())


def test_features_of_the_cpu_are_read_of_x86_and_of_arm(tmp_path, monkeypatch):
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(steps_report, "CPU_INFO", info)
    assert steps_report.cpu_flags() == frozenset()
    for line in ("flags\t\t: avx2 asimddp", "Features\t: avx2 asimddp"):
        info.write_text(f"processor\t: 0\n{line}\n")
        assert steps_report.cpu_flags() == {"avx2", "asimddp"}


def test_pretrained_weights_that_cannot_be_had_are_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tilevit.steps.take_pretrained", lambda model: "no network")
    file = tmp_path / "steps.toml"
    file.write_text(TRAIN.replace("epochs = 2", "epochs = 1\npretrained = true"))
    assert run(file, tmp_path / "out", "--json") == 0
    told = capsys.readouterr()
    assert "no pretrained weights, it is trained from nothing: no network" in told.err
    assert json.loads(told.out)["steps"]["first"]["pretrained"] is False


def test_a_training_that_began_without_pretrained_weights_goes_on_without(tmp_path, monkeypatch):
    def had(model):
        torch.nn.init.zeros_(model.head.weight)
        return ""

    model = tmp_path / "model.toml"
    model.write_text(
        '[model]\ntimm = "vit_tiny_patch16_224"\npatch_size = 4\nembed_dim = 8\ndepth = 1\nnum_heads = 1\n'
    )
    arguments = ["train", str(model), "--pretrained", "--epochs", "1", "--out", str(tmp_path / "out")]
    monkeypatch.setattr("tilevit.steps.take_pretrained", lambda model: "no network")
    assert _exit_code(arguments) == 0
    first = (tmp_path / "out" / "model.safetensors").read_bytes()
    monkeypatch.setattr("tilevit.steps.take_pretrained", had)
    assert _exit_code(arguments) == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == first
    assert _exit_code([*arguments, "--fresh"]) == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() != first
    assert _exit_code(arguments) == 0
