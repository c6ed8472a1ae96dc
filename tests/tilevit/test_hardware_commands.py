"""`tilevit simulate` and `tilevit sweep`: their tables, where they run, and what they take."""

from __future__ import annotations

import json

import pytest
import torch

from quant import QuantConfig, convert, prepare_qat, save_qat
from tilevit.cli import main
from vit import VisionTransformer, ViTConfig

MODEL = "[model]\nimage_size = 8\npatch_size = 2\nin_channels = 1\ndim = 16\ndepth = 1\nheads = 2\n"


def test_a_sweep_fits_in_eighty_columns_and_says_what_does_not_fit(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    model = tmp_path / "m.toml"
    model.write_text(MODEL)
    with pytest.raises(SystemExit) as ended:
        main(["sweep", str(model), "--hardware", "eyeriss", "--tiles", "2", "--fifos", "1,400"])
    shown = capsys.readouterr().out
    assert ended.value.code in (0, None)
    headers = ["attention", "tile", "fifo", "cycles", "starved", "blocked", "KiB", "nJ"]
    heading, rows = shown.splitlines()[-9], shown.splitlines()[-7:-1]
    assert heading.replace("┃", " ").split() == headers
    assert ["no fit" in row for row in rows] == [" 400 " in row for row in rows] == [False, True] * 3


def test_a_cluster_simulates_the_same_table(tmp_path):
    distributed = pytest.importorskip("distributed", reason="Dask is not installed: the tests of it are skipped")
    (tmp_path / "m.toml").write_text(MODEL)
    asked = ["sweep", str(tmp_path / "m.toml"), "--tiles", "2,4", "--fifos", "1,2", "--json", "--out"]
    with distributed.LocalCluster(
        n_workers=1, processes=False, scheduler_kwargs={"dashboard": False}, worker_dashboard_address=None
    ) as made:
        for name, place in (("here", []), ("there", ["--dask", made.scheduler_address])):
            with pytest.raises(SystemExit) as ended:
                main([*asked, str(tmp_path / name), *place])
            assert ended.value.code in (0, None)
    assert (tmp_path / "here").read_text() == (tmp_path / "there").read_text()


def test_a_cluster_that_does_not_answer_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    pytest.importorskip("distributed", reason="Dask is not installed: the tests of it are skipped")
    monkeypatch.setattr("nas.dask_client.CONNECT_SECONDS", 0.5)
    (tmp_path / "m.toml").write_text(MODEL)
    with pytest.raises(SystemExit) as ended:
        main(["sweep", str(tmp_path / "m.toml"), "--dask", "tcp://127.0.0.1:9"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "dask = 'tcp://127.0.0.1:9': allowed is the address of a Dask scheduler" in line


def test_a_packed_model_is_laid_out_as_the_one_it_comes_from(tmp_path, capsys):
    torch.manual_seed(0)
    model = VisionTransformer(ViTConfig(8, 2, 1, 10, dim=16, depth=1, heads=2))
    prepared = prepare_qat(model, QuantConfig(), calibration=torch.randn(4, 1, 8, 8))
    save_qat(tmp_path / "qat.safetensors", prepared)
    convert(prepared).save(tmp_path / "packed.safetensors")
    told = {}
    for command in (["simulate"], ["sweep", "--tiles", "2,4", "--fifos", "1,2"]):
        for name in ("qat", "packed"):
            with pytest.raises(SystemExit) as ended:
                main([*command, str(tmp_path / f"{name}.safetensors"), "--hardware", "zcu104", "--json"])
            assert ended.value.code in (0, None)
            told[name] = json.loads(capsys.readouterr().out)
        assert told["packed"] == told["qat"]
    with pytest.raises(SystemExit) as ended:
        main(["sweep", str(tmp_path / "packed.safetensors"), "--data", "digits"])
    assert ended.value.code == 2
    assert "this one is packed" in capsys.readouterr().err
