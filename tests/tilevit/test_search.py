"""`tilevit search`: what it shows, what it leaves behind, and how it goes on."""

import io
import json
import tomllib
import warnings

import optuna
import pytest
import torch
from optuna.distributions import IntDistribution
from optuna.trial import TrialState, create_trial
from rich.console import Console

import nas
from nas import Progress
from quant import load_qat
from tilevit.cli import _exit_code
from tilevit.commands.search_view import front_table, live_front
from vit import describe

SPACE = """
[choices]
dim = [4, 8, 12]
depth = [1, 2]
[fixed]
image_size = 8
patch_size = 4
in_channels = 1
heads = 2
"""


def study_of(*values: tuple[float, float]) -> optuna.Study:
    study = optuna.create_study(directions=["maximize", "minimize"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls them experimental
        study.set_metric_names(["accuracy", "params"])
    for i, row in enumerate(values):
        study.add_trial(create_trial(values=row, params={"dim": i}, distributions={"dim": IntDistribution(0, 99)}))
    return study


def text_of(renderable: object) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(renderable)
    return console.file.getvalue()


def test_the_table_shows_the_front_alone_the_most_accurate_first() -> None:
    study = study_of((0.5, 10), (0.9, 40), (0.4, 30), (0.7, 20))
    study.add_trial(create_trial(state=TrialState.PRUNED))
    text = text_of(front_table(study))
    assert "Pareto front of 4 trials, 1 more stopped early" in " ".join(text.split())
    study.set_user_attr("settings", {"supernet": {"weights": "0"}})
    assert "accuracy with the weights of a supernet" in " ".join(text_of(front_table(study)).split())
    places = [text.index(part) for part in ("90.00 %", "70.00 %", "50.00 %")]
    assert places == sorted(places)
    assert "40.00 %" not in text
    assert "and 2 more" in text_of(front_table(study, rows=1))


def test_the_front_grows_while_the_search_runs() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    study = study_of((0.5, 10))
    with live_front(2, 3, console) as show:
        show(Progress(0, 2, {"dim": 0}, 1, 3))
        show(Progress(1, 2, {"dim": 0}, 3, 3, {"accuracy": 0.5, "params": 10}, study=study))
        show(Progress(2, 2, {"dim": 1}, 2, 3, stopped=True, study=study))
    shown = console.file.getvalue()
    assert "trial 1/2" in shown
    assert "trial 2/2" in shown
    assert "50.00 %" in shown


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # more only wait for one another on networks this small
    yield
    torch.set_num_threads(before)


@pytest.fixture
def searched(tmp_path, capsys):
    """Run the search in one folder with --json; the result."""
    (tmp_path / "space.toml").write_text(SPACE)

    def run(*options: str, epochs: int = 1):
        capsys.readouterr()
        flags = ["--space", str(tmp_path / "space.toml"), "--out", str(tmp_path / "out"), "--json"]
        trained = [] if "--supernet" in options else ["--epochs", str(epochs)]
        code = _exit_code(["search", *flags, *trained, *options])
        told = capsys.readouterr()
        return json.loads(told.out) if code == 0 else told.err

    return run


def test_it_leaves_pictures_and_goes_on(searched, tmp_path) -> None:
    first = searched("--trials", "2")
    assert (first["trials"], first["stopped"], first["epochs"]) == (2, 0, 2)
    for name in ("front", "progress", "importances", "parallel"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert searched("--trials", "2", "--resume") == first
    more = searched("--trials", "4")
    assert (more["trials"], more["epochs"]) == (4, 4)
    assert "--fresh starts over" in searched("--trials", "4", "--no-resume")
    refused = searched("--trials", "4", "--early-stopping", "volume")
    assert "stopping is null there" in refused
    assert refused.endswith("; --fresh starts over\n")
    assert searched("--trials", "4", "--fresh") == more


@pytest.mark.parametrize("rule", ["volume", "front", "halving"])
def test_stopped_candidates_are_among_the_trials(searched, rule) -> None:
    result = searched("--trials", "4", "--objectives", "accuracy", "--early-stopping", rule, epochs=2)
    assert result["trials"] == 4
    assert result["epochs"] == 8 - result["stopped"]
    assert (result["stopped"] > 0) == (rule == "halving")  # the others ask for more finished trainings


def test_candidates_may_be_parts_of_a_supernet(searched, tmp_path, monkeypatch) -> None:
    for name in ("plot_front", "plot_hypervolume", "plot_importances", "plot_parallel"):
        monkeypatch.setattr(nas, name, lambda *_: None)
    flags = ["--objectives", "accuracy,params", "--supernet", "2"]
    first = searched("--trials", "3", *flags)
    assert (first["trials"], first["epochs"], first["accuracy_from"]) == (3, 0, "supernet")
    state = tmp_path / "out" / "supernet_state.safetensors"
    trained = state.stat().st_mtime_ns
    more = searched("--trials", "5", *flags)
    assert more["trials"] == 5
    assert state.stat().st_mtime_ns == trained  # once for all
    assert "another recipe; --fresh starts over" in searched(*flags[:3], "3")
    assert "supernet is {" in searched(*flags[:2])
    assert searched("--trials", "5", *flags, "--fresh") == more
    assert state.stat().st_mtime_ns > trained


def test_a_winner_tells_its_schemes_and_its_machine(searched, tmp_path, monkeypatch, capsys) -> None:
    for name in ("plot_front", "plot_hypervolume", "plot_importances", "plot_parallel"):
        monkeypatch.setattr(nas, name, lambda *_: None)
    own = '"weights.blocks.*.mlp" = ["apot6"]\nweights = ["pot4"]\nactivations = ["int6"]\n'
    own += 'hardware = ["ultra96"]\n"hardware.sram_kib" = [64]\n'
    (tmp_path / "space.toml").write_text(SPACE.replace("[fixed]", f"{own}[fixed]"))
    best = tmp_path / "best.toml"
    assert "left out with a space that names the hardware" in searched("--hardware", "zcu104")
    searched("--trials", "2", "--objectives", "accuracy,energy_pj", "--export", str(best))
    tables = tomllib.loads(best.read_text())
    assert tables["weights"] == {"blocks.*.mlp": "apot6", "*": "pot4"}
    assert tables["activations"] == "int6"
    assert tables["hardware"] == {"machine": "ultra96", "sram_kib": 64}
    flags = ["--epochs", "1", "--out", str(tmp_path / "qat")]
    assert _exit_code(["qat", str(best), "--weights", str(best), *flags]) == 0
    quantised, _ = load_qat(tmp_path / "qat" / "model.safetensors")
    schemes = {layer.name: layer.weight_scheme for layer in describe(quantised)}
    assert {schemes["blocks.0.mlp.fc1"], schemes["blocks.0.mlp.fc2"]} == {"apot6"}
    assert {schemes["blocks.0.attn.qkv"], schemes["head"]} == {"pot4"}
    capsys.readouterr()
    (tmp_path / "bare.toml").write_text("[model]\ndim = 8\n")
    assert _exit_code(["qat", str(best), "--weights", str(tmp_path / "bare.toml"), *flags]) == 2
    assert "a TOML file with a table [weights]" in capsys.readouterr().err


def test_an_export_without_accuracy_is_refused_before_any_work(searched, tmp_path) -> None:
    told = searched("--objectives", "params,cycles", "--export", str(tmp_path / "best.toml"))
    assert "export = " in told
    assert "left out where accuracy is no objective" in told
    assert not (tmp_path / "out").exists()


def test_what_a_search_refuses_is_told_before_a_supernet_is_trained(searched, tmp_path) -> None:
    for options, told in (
        (["--early-stopping", "front"], "supernet = 2: allowed is 0 with --early-stopping"),
        (["--objectives", "params,cycles"], "supernet = 2: allowed is 0"),
        (["--constraint", "params <= 3"], "params <= 3 refuses"),
        (["--sampler", "best"], "sampler = 'best'"),
    ):
        assert told in searched("--supernet", "2", *options)
    (tmp_path / "space.toml").write_text(
        SPACE.replace("patch_size = 4\n", "").replace("[fixed]", "patch_size = [2, 4]\n[fixed]")
    )
    assert "space.patch_size = [2, 4]: allowed is a single value with a supernet" in searched("--supernet", "2")
    assert not (tmp_path / "out").exists()


def test_two_processes_share_the_study(searched) -> None:
    result = searched("--trials", "4", "--workers", "2")
    assert result["trials"] == 4


def test_servers_that_do_not_answer_are_told_in_one_line(searched, monkeypatch) -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    pytest.importorskip("distributed", reason="Dask is not installed")
    monkeypatch.setattr("nas.postgres.PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("nas.dask_client.CONNECT_SECONDS", 1)
    for option, address in (("--storage", "postgresql://me:secret@127.0.0.1:9/x"), ("--dask", "tcp://127.0.0.1:9")):
        told = searched("--trials", "1", option, address)
        line = [line for line in told.splitlines() if line.startswith("tilevit:")]
        assert len(line) == 1
        assert option[2:] in line[0]
        assert "secret" not in told
