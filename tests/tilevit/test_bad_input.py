"""Bad input at the command line: exit code 2, one line that names what is wrong, and no file touched."""

import errno
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from quant import QuantConfig, convert, prepare_qat
from tilevit.cli import _exit_code
from tilevit.idle import refuse_idle_in_step
from vit import VisionTransformer, ViTConfig, save_checkpoint

CHAIN = {
    "tiles": 4,
    "stages": [{"name": "a", "service": 2}, {"name": "b", "service": 3}],
    "edges": [{"src": "a", "dst": "b", "depth": 2}],
}


@pytest.fixture
def refused(tmp_path, capsys):
    """Give the arguments to the command; its one line, once it is seen to have left `out` and the folder alone."""

    def check(*arguments: str) -> str:
        before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
        capsys.readouterr()
        assert _exit_code(list(arguments)) == 2
        told = capsys.readouterr()
        assert told.out == ""
        lines = told.err.strip().splitlines()
        assert len(lines) == 1, told.err
        assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before
        return lines[0]

    return check


@pytest.fixture
def folder(tmp_path):
    """A folder of two classes with three images each."""
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for i in range(3):
                pixels = np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / part / name / f"{i}.png")
    return tmp_path / "images"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--sparsity", "1.0"], ["sparsity", "1.0", "[0, 1)"]),
        (["--sparsity=-0.1"], ["sparsity", "-0.1"]),
        (["--weights", "pot5"], ["weights", "pot5", "pot4"]),
        (["--activations", "int9"], ["activations", "int9"]),
        (["--hardware", "zcu10"], ["hardware", "zcu10", "zcu104"]),
        (["--stems", "patches"], ["stems", "patches", "patch"]),
        (["--pools", "max"], ["pools", "max", "cls, mean, seq"]),
        (["--attention", "global"], ["attention", "global", "full"]),
        (["--dims", "0"], ["dims", "0", "from 1 to"]),
        (["--dims", "-4"], ["dims", "-4"]),
        (["--dims", "x"], ["dims", "x"]),
        (["--dims", "33", "--heads", "2"], ["heads", "dim"]),
        (["--patch-sizes", "3"], ["patch_size", "image_size"]),
        (["--tile", "0"], ["tile", "0"]),
        (["--epochs", "0"], ["epochs", "0"]),
        (["--epochs", "many"], ["epochs", "many"]),
        (["--device", "cuda:7"], ["device", "cuda:7"]),
        (["--device", "tpu"], ["device", "tpu", "cpu"]),
        (["--data", "digit"], ["data", "digit", "digits"]),
        (["--epoch", "3"], ["--epoch"]),
        (["--seed", "99999999999999999999"], ["seed", "99999999999999999999"]),
        (["--image-size", "100000000"], ["image_size", "4096"]),
        (["--batch-size", "99999999999999999999"], ["batch_size"]),
        (["--data", ""], ["data"]),
        (["--config", "no-such.toml"], ["no-such.toml"]),
        (["--epochs", "3", "--epochs=4"], ["--epochs", "2 times", "once"]),
        (["--val-fraction", "1"], ["val_fraction", "1.0", "(0, 1)"]),
    ],
)
def test_run_refuses(refused, tmp_path, flags, words):
    line = refused("run", "--out", str(tmp_path / "out"), *flags)
    for word in words:
        assert word in line


def test_run_refuses_a_place_it_cannot_write(refused):
    assert "/proc/tilevit" in refused("run", "--out", "/proc/tilevit")


def test_a_disk_that_fills_up_under_a_library_is_told_in_one_line(refused, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "some.file")

    monkeypatch.setattr("tilevit.settings.resolve", full)
    assert "some.file" in refused("run")


@pytest.mark.parametrize("part", ["train", "test"])
def test_run_refuses_an_unreadable_image_by_name_before_it_begins(refused, folder, tmp_path, monkeypatch, part):
    monkeypatch.chdir(tmp_path.parent)  # the cache of decoded images goes there
    (folder / part / "cat" / "1.png").write_bytes(b"no image")
    line = refused("run", "--data", str(folder), "--out", str(tmp_path / "out"))
    assert str(folder / part / "cat" / "1.png") in line


def test_run_refuses_a_folder_of_one_class(refused, folder, tmp_path):
    for part in ("train", "test"):
        for image in (folder / part / "dog").iterdir():
            image.unlink()
        (folder / part / "dog").rmdir()
    assert "class" in refused("run", "--data", str(folder), "--out", str(tmp_path / "out"))


def test_run_refuses_a_class_that_has_no_test_images_by_its_name(refused, folder, tmp_path):
    for image in (folder / "test" / "dog").iterdir():
        image.unlink()
    (folder / "test" / "dog").rmdir()
    line = refused("run", "--data", str(folder), "--out", str(tmp_path / "out"))
    assert "'dog' is in train/ and not in test/" in line


def test_run_refuses_a_folder_with_one_image_a_class(refused, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    for name in ("cat", "dog"):
        for i in (1, 2):
            (folder / "train" / name / f"{i}.png").unlink()
    line = refused("run", "--data", str(folder), "--out", str(tmp_path / "out"))
    assert str(folder) in line
    assert "2 images, one a class" in line


def test_run_refuses_a_folder_without_classes(refused, tmp_path):
    (tmp_path / "images" / "train").mkdir(parents=True)
    assert "train" in refused("run", "--data", str(tmp_path / "images"), "--out", str(tmp_path / "out"))


@pytest.fixture
def model(tmp_path):
    """The file of a small model."""
    file = tmp_path / "model.toml"
    file.write_text("[model]\nimage_size = 8\npatch_size = 2\nin_channels = 1\ndim = 16\ndepth = 1\nheads = 2\n")
    return str(file)


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    """The file of a small packed model."""
    network = VisionTransformer(ViTConfig(8, 2, 1, 10, dim=16, depth=1, heads=2))
    file = tmp_path_factory.mktemp("packed") / "packed.safetensors"
    convert(prepare_qat(network, QuantConfig(), calibration=torch.rand(4, 1, 8, 8))).save(file)
    return str(file)


@pytest.mark.parametrize(
    "command",
    [["sweep", "--tiles", "4"], ["export"], ["simulate", "--trace"], ["simulate", "--gantt"], ["search", "--export"]],
)
def test_a_file_that_cannot_be_written_is_refused_before_any_work(refused, model, tmp_path, command):
    arguments = [command[0], *([] if command[0] == "search" else [model]), *command[1:]]
    flag = [] if command[-1].startswith("--") else ["--out"]
    name = (command[-1] if not flag else "--out").removeprefix("--")
    line = refused(*arguments, *flag, f"{model}/no/file.x")
    assert line.startswith(f"tilevit: {name} = '{model}/no/file.x'")
    assert f"{model} is none" in line
    assert "a file that can be written; the system says of /proc" in refused(*arguments, *flag, "/proc/no/file.x")
    assert "this is a folder" in refused(*arguments, *flag, str(tmp_path))
    assert "device" in refused(*arguments, *flag, "/dev/full")


def test_missing_folders_of_a_file_are_made_when_it_is_written(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps(CHAIN))
    trace = tmp_path / "not" / "yet" / "trace.json"
    assert _exit_code(["simulate", str(tmp_path / "p.json"), "--trace", str(trace)]) == 0
    assert json.loads(trace.read_text())


@pytest.mark.parametrize("command", [["search"], ["train"], ["prune", "--sparsity", "0.5"], ["qat"], ["ptq"]])
def test_a_folder_that_cannot_be_written_is_refused_before_any_work(refused, model, command):
    arguments = [command[0], *([] if command[0] == "search" else [model]), *command[1:]]
    line = refused(*arguments, "--out", "/proc/tilevit/out")
    assert "out = '/proc/tilevit/out': allowed is a folder that can be written" in line


@pytest.mark.parametrize("flag", ["--tiles", "--fifos"])
@pytest.mark.parametrize("value", ["0", "-1", "x", "1,,2", "1.5", "4,0", "99999999"])
def test_sweep_refuses_what_is_no_list_of_sizes(refused, model, flag, value):
    line = refused("sweep", model, flag, value)
    assert line.startswith(f"tilevit: {flag.removeprefix('--')} = ")
    assert "whole number" in line


@pytest.mark.parametrize(
    "flag", ["--objectives", "--constraint", "--space", "--sampler", "--export", "--out", "--data"]
)
def test_an_empty_option_is_refused(refused, flag):
    assert refused("search", flag, "") == f"tilevit: {flag} = '': allowed is a value that is not empty"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--channels", "0.999"], ["channels = 0.999", "at most 0.5", "--round-to 8"]),
        (["--heads", "0.9"], ["heads = 0.9", "at most 0.5", "every block keeps one"]),
        (["--mlp", "0.99"], ["mlp = 0.99", "at most 0.75"]),
        (["--mlp", "1"], ["mlp = 1.0", "[0, 1)"]),
        (["--sparsity", "0.99999"], ["sparsity = 0.99999", "leaves a weight"]),
        (["--sparsity", "0.5", "--nm", "2:4"], ["2 ways"]),
        (["--nm", "2"], ["nm", "2:4"]),
        (["--mlp", "0.5", "--importance", "tailor"], ["importance", "did you mean 'taylor'"]),
        (["--sparsity", "0.5", "--importance", "taylor"], ["importance = 'taylor'", "--heads, --mlp or --channels"]),
        (["--mlp", "0.99", "--importance", "gate"], ["mlp = 0.99", "at most 0.75"]),
        (["--heads", "0.2"], ["heads = 0.2", "0, or a share that takes something", "it has 2"]),
        (["--mlp", "0.5", "--channels", "0.2"], ["channels = 0.2", "takes something", "--round-to 8 keeps all"]),
        (["--mlp", "0.1", "--importance", "gate"], ["mlp = 0.1", "takes something"]),
        (["--mlp", "0.5", "--importance", "gate", "--gate-penalty", "0"], ["gate_penalty = 0.0"]),
    ],
)
def test_prune_refuses_what_it_cannot_do(refused, model, tmp_path, flags, words):
    line = refused("prune", model, *flags, "--out", str(tmp_path / "out"))
    for word in words:
        assert word in line


@pytest.mark.parametrize("command", [["search"], ["train"], ["prune", "--sparsity", "0.5"], ["qat", "--epochs", "0"]])
def test_a_device_that_is_not_there_is_refused_before_any_work(refused, model, tmp_path, command):
    arguments = [command[0], *([] if command[0] == "search" else [model]), *command[1:]]
    assert "device = 'cuda:7'" in refused(*arguments, "--device", "cuda:7", "--out", str(tmp_path / "out"))


def test_qat_refuses_to_skip_a_layer_that_is_not_there(refused, model, tmp_path):
    line = refused("qat", model, "--skip", "blocks.0.mpl.fc1", "--out", str(tmp_path / "out"))
    assert "did you mean 'blocks.0.mlp.fc1'" in line


def test_qat_refuses_a_rounding_of_probabilities_that_it_has_not(refused, model, tmp_path):
    line = refused("qat", model, "--probabilities", "log4", "--out", str(tmp_path / "out"))
    assert "probabilities = 'log4'" in line


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("dim = 33\nheads = 2", ["heads", "divisor of dim 33"]),
        ("patch_size = 3", ["patch_size", "divisor of image_size 8"]),
        ("dim = -1", ["dim", "-1"]),
        ("depth = 1000000000", ["depth", "1000000000", "from 1 to 4096"]),
        ('stem = "cov"', ["stem", "did you mean 'conv'"]),
        ('pool = "avg"', ["pool", "cls, mean, seq"]),
        ("dims = 3", ["dims", "did you mean 'dim'"]),
    ],
)
def test_train_refuses_an_impossible_model(refused, tmp_path, table, words):
    file = tmp_path / "model.toml"
    file.write_text(f"[model]\n{table}\n")
    line = refused("train", str(file), "--out", str(tmp_path / "out"))
    for word in words:
        assert word in line


@pytest.mark.parametrize("command", ["evaluate", "prune", "qat", "profile", "simulate", "sweep"])
def test_a_damaged_checkpoint_is_refused(refused, tmp_path, command):
    path = tmp_path / "model.safetensors"
    save_checkpoint(
        path, VisionTransformer(ViTConfig(image_size=8, patch_size=2, in_channels=1, dim=16, depth=1, heads=2))
    )
    content = bytearray(path.read_bytes())
    content[-100] ^= 0xFF
    path.write_bytes(content)
    flags = {"prune": ["--sparsity", "0.5"]}.get(command, [])
    line = refused(command, str(path), *flags)
    assert str(path) in line
    assert "damaged" in line


def test_a_model_of_another_shape_is_refused(refused, tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, VisionTransformer(ViTConfig(dim=16, depth=1, heads=2)))
    assert "in_channels" in refused("evaluate", str(path), "--data", "digits")
    flags = ["--data", "digits", "--sparsity", "0.5", "--out", str(tmp_path / "out")]
    assert "image_size" in refused("prune", str(path), *flags)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tiles": 0}, ["tiles", "0"]),
        ({"stages": []}, ["stages"]),
        ({"stage": []}, ["stage", "did you mean 'stages'"]),
        ({"edges": [{"src": "a", "dst": "c", "depth": 2}]}, ["c"]),
        ({"edges": [{"src": "a", "dst": "b", "depth": 0}]}, ["depth", "0"]),
        ({"edges": [{"src": "a", "dst": "b", "depth": 1}, {"src": "b", "dst": "a", "depth": 1}]}, ["cycle"]),
    ],
)
def test_simulate_refuses_what_is_no_pipeline(refused, tmp_path, change, words):
    file = tmp_path / "pipeline.json"
    file.write_text(json.dumps(CHAIN | change))
    line = refused("simulate", str(file))
    for word in words:
        assert word in line


def test_no_command_and_unknown_commands_are_refused(refused):
    assert "simulat" in refused("simulat")


def test_report_refuses_a_folder_that_is_no_run(refused, tmp_path):
    assert "results.json" in refused("report", str(tmp_path))


def test_a_front_has_no_target(refused, tmp_path):
    (tmp_path / "p.json").write_text(json.dumps(CHAIN))
    line = refused("size-fifos", str(tmp_path / "p.json"), "--pareto", "--target", "deadlock-free")
    assert "target = 'deadlock-free': allowed is left out with --pareto" in line


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["simulate", "PIPELINE", "--hardware", "zcu104"], "hardware = 'zcu104': allowed is left out with a pipeline"),
        (["simulate", "PIPELINE", "--tile=8"], "tile = 8"),
        (["simulate", "PIPELINE", "--fifo", "2"], "fifo = 2"),
        (["simulate", "PIPELINE", "--attention", "full"], "attention = 'full'"),
        (["simulate", "PIPELINE", "--images", "2"], "images = 2"),
        (["size-fifos", "PIPELINE", "--pareto", "--hardware", "no-such"], "hardware = 'no-such'"),
        (["profile", "MODEL", "--split", "test"], "split = 'test': allowed is left out without --data"),
        (["profile", "MODEL", "--json", "--format", "csv"], "format = 'csv': allowed is left out with --json"),
        (
            ["distill", "MODEL", "--teacher", "MODEL", "--hard", "--temp", "2"],
            "temp = 2.0: allowed is left out with hard",
        ),
        (["prune", "MODEL", "--nm", "2:4", "--scope", "erk"], "scope = 'erk': allowed is left out without sparsity"),
        (["prune", "MODEL", "--sparsity", "0.5", "--round-to", "4"], "round_to = 4: allowed is left out unless units"),
        (
            ["prune", "MODEL", "--mlp", "0.5", "--gate-epochs", "4"],
            "gate_epochs = 4: allowed is left out unless importance",
        ),
        (["prune", "MODEL", "--sparsity", "0.5", "--lr", "0.1"], "lr = 0.1: allowed is left out without epochs"),
        (["prune", "MODEL", "--sparsity", "0.5", "--recipe", "MODEL"], "recipe = '"),
        (["qat", "MODEL", "--epochs", "0", "--lr", "0.1"], "lr = 0.1: allowed is left out without epochs"),
        (["search", "--supernet", "2", "--epochs", "2"], "epochs = 2: allowed is left out with --supernet"),
        (
            ["search", "--objectives", "params,macs", "--slack", "0.1"],
            "slack = 0.1: allowed is left out where accuracy",
        ),
        (["search", "--fresh", "--resume"], "resume = True: allowed is left out with --fresh"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(refused, model, tmp_path, command, line):
    (tmp_path / "p.json").write_text(json.dumps(CHAIN))
    files = {"PIPELINE": str(tmp_path / "p.json"), "MODEL": model}
    assert refused(*(files.get(word, word) for word in command)).startswith(f"tilevit: {line}")


def test_options_that_count_are_not_idle():
    for given in (
        {"sparsity": 0.5, "scope": "erk", "epochs": 1, "lr": 0.1},
        {"sparsity": 0.5, "recipe": {"epochs": 1}, "lr": 0.1},
        {"mlp": 0.5, "round_to": 4, "importance": "gate", "gate_epochs": 2, "lr": 0.1},
    ):
        refuse_idle_in_step("prune", given)
    refuse_idle_in_step("qat", {"lr": 0.1})
    refuse_idle_in_step("distill", {"temp": 2.0})
