"""The whole pipeline on a tiny budget: what it writes, that it holds together, and that it goes on after kill -9."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quant import PackedModel
from tilevit.cli import _exit_code
from vit import load_data

TINY = """
trials = 3
search_epochs = 1
dims = [16, 32]
depths = [1, 2]
heads = [2]
mlp_ratios = [1.0]
patch_sizes = [2]
stems = ["patch"]
epochs = 3
finetune_epochs = 1
qat_epochs = 2
tiles = [2, 4]
fifos = [1, 2]
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "tiny.toml"
    file.write_text(TINY)
    return file


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """The folder of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert _exit_code(["run", "--config", str(config), "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def results(run):
    return json.loads((run / "results.json").read_text())


def test_every_promised_file_is_there(run):
    for name in ("report.html", "results.json", "stats.csv", "packed.safetensors", "config.toml"):
        assert (run / name).stat().st_size > 0
    assert {path.stem for path in (run / "plots").glob("*.png")} >= {"pareto", "training", "stages", "codes", "stalls"}
    assert {path.name for path in (run / "checkpoints").iterdir()} >= {
        f"{n}.safetensors" for n in ("float", "pruned", "qat")
    }


def test_the_report_is_one_self_contained_page(run):
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(list((run / "plots").glob("*.png")))
    assert 'src="http' not in page
    assert "href=" not in page


def test_stats_has_one_row_an_epoch(run):
    rows = list(csv.DictReader((run / "stats.csv").read_text().splitlines()))
    assert [row["stage"] for row in rows] == ["train"] * 3 + ["finetune"] + ["qat"] * 2


def test_sparsity_never_falls(results):
    measured = {row["name"]: row["sparsity"] for row in results["stages"]}
    assert measured["pruned"] == pytest.approx(0.5, abs=1e-3)
    assert measured["pruned"] <= measured["QAT"] <= measured["packed"]


def test_the_packed_model_predicts_what_the_qat_model_predicts(run, results):
    test = load_data("digits", val_fraction=results["config"]["val_fraction"]).test
    images = len(test)
    assert results["test"]["agreement_of_packed_with_qat"] == f"{images}/{images} test images"
    predictions = PackedModel.load(run / "packed.safetensors").predict(test.images.numpy()).argmax(axis=1)
    accuracy = float((predictions == test.labels.numpy()).mean())
    assert results["test"]["accuracy"]["packed (integer engine)"] == accuracy


def test_the_ledger_of_every_stage_sums_to_the_makespan(results):
    simulation = results["simulation"]
    assert simulation["cycles"] > 0
    for ledger in simulation["stalls"].values():
        assert sum(ledger.values()) == simulation["cycles"]


def test_the_sweep_has_a_row_for_every_combination(results):
    keys = [(row["attention"], row["tile"], row["fifo"]) for row in results["sweep"]]
    assert sorted(keys) == sorted({(a, t, f) for a in ("full", "window", "tile") for t in (2, 4) for f in (1, 2)})
    accurate = {row["accuracy"] for row in results["sweep"] if row["attention"] == "full"}
    assert len(accurate) == 1


def test_a_finished_run_is_read_back_not_run_again(run, config, results, capsys):
    before = (run / "stages" / "train.json").stat().st_mtime_ns
    assert _exit_code(["run", "--config", str(config), "--out", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == results
    assert (run / "stages" / "train.json").stat().st_mtime_ns == before


def test_damaged_and_deleted_files_of_a_finished_run_are_made_again(run, config, results, capsys):
    kept = {name: (run / name).read_bytes() for name in ("checkpoints/qat.safetensors", "packed.safetensors")}
    tested = (run / "stages" / "test.json").stat().st_mtime_ns
    (run / "checkpoints" / "qat.safetensors").write_bytes(kept["checkpoints/qat.safetensors"][:-1])
    (run / "packed.safetensors").unlink()
    assert _exit_code(["run", "--config", str(config), "--out", str(run), "--json"]) == 0
    told = capsys.readouterr()
    assert all(f"{run / name} is damaged or gone" in told.err for name in kept)
    assert {name: (run / name).read_bytes() for name in kept} == kept
    assert (run / "stages" / "test.json").stat().st_mtime_ns == tested
    again = json.loads(told.out)
    assert {**again, "timings": results["timings"]} == results


def test_report_is_made_again_from_the_folder_alone(run):
    page = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    assert _exit_code(["report", str(run)]) == 0
    assert (run / "report.html").read_bytes() == page


def test_killed_anywhere_it_ends_as_if_never_stopped(config, results, tmp_path):
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "tilevit", "run", "--config", str(config), "--out", str(folder)]
    milestones = (
        folder / "search" / "study" / "journal.log",
        folder / "checkpoints" / "train_state.safetensors",
        folder / "checkpoints" / "qat_state.safetensors",
        folder / "packed.safetensors",
    )
    kills = 0
    for milestone in milestones:
        kills += _killed_when_it_appears(command, milestone)
    assert kills >= 2
    subprocess.run(command, check=True, capture_output=True)
    resumed = json.loads((folder / "results.json").read_text())
    assert resumed.pop("timings").keys() == results["timings"].keys()
    assert resumed == {key: value for key, value in results.items() if key != "timings"}


def test_ctrl_c_is_told_in_one_line_with_exit_code_130(config, tmp_path):
    folder = tmp_path / "interrupted"
    command = [sys.executable, "-m", "tilevit", "run", "--config", str(config), "--out", str(folder)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    while process.poll() is None and not (folder / "search" / "study" / "journal.log").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130
    assert out == ""
    lines = [line for line in err.splitlines() if not line.endswith("steps)")]
    assert lines == ["stopped; the same command goes on from here"]


def _killed_when_it_appears(command: list[str], file: Path) -> bool:
    """Start the command and kill -9 it as soon as `file` is there; False if it was there before or it ended first."""
    if file.exists():
        return False
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not file.exists():
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL
