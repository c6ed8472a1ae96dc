"""The tables of `tilevit sweep`, as a person without a wide terminal reads them."""

from __future__ import annotations

import pytest

from tilevit.cli import main

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
