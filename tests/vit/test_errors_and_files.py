from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from vit.errors import InputError, did_you_mean, require_choice, require_float, require_int, require_known_keys
from vit.files import read_json, read_text, read_toml, write_json, write_text, written_aside


def test_an_error_is_one_line_with_field_value_and_remedy() -> None:
    error = InputError("lr", "x\ny" * 99, "a number", "try\n0.1")
    assert str(error).startswith("lr = 'x\\ny")
    assert str(error).endswith("allowed is a number; try 0.1")
    assert "\n" not in str(error)
    assert len(str(error)) < 200
    assert isinstance(error, ValueError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # crosses from a worker process


def test_ranges_and_choices() -> None:
    assert require_int("n", 3) == 3
    assert require_float("x", 1, 0, 1) == 1.0
    assert require_choice("c", "a", ["a", "b"]) == "a"
    require_known_keys("t", ["a"], ["a", "b"])
    for call in (
        lambda: require_int("n", 0),
        lambda: require_int("n", 5, 1, 4),
        lambda: require_int("n", "3"),
        lambda: require_float("x", 1, 0, 1, open_high=True),
        lambda: require_float("x", 0, 0, 1, open_low=True),
        lambda: require_float("x", float("nan"), 0, 1),
        lambda: require_float("x", "1", 0, 2),
        lambda: require_choice("c", "z", ["a"]),
        lambda: require_known_keys("t", ["z"], ["a"]),
    ):
        with pytest.raises(InputError):
            call()
    assert did_you_mean("cifar", ["digits", "cifar10"]) == "did you mean 'cifar10'?"
    assert did_you_mean("qqq", ["digits"]) == ""


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "result.json"
    write_json(path, {"a": [1, 2.5]})
    assert read_json(path) == {"a": [1, 2.5]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})

    def interrupted() -> None:
        with written_aside(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert read_json(path) == {"a": [1, 2.5]}
    assert os.listdir(path.parent) == ["result.json"]


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(InputError, match="a folder, a device or a pipe"):
            write_text(path, "x")
    assert (tmp_path / "pipe").is_fifo()


def test_places_that_cannot_be_written_or_read_are_named(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "x")
    with pytest.raises(InputError, match="output"):
        write_text(tmp_path / "file" / "below", "y")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "broken.json").write_text("{")
    for call in (
        lambda: read_text(tmp_path / "absent"),
        lambda: read_text(tmp_path / "latin"),
        lambda: read_json(tmp_path / "broken.json"),
    ):
        with pytest.raises(InputError):
            call()


@pytest.mark.parametrize(
    ("text", "where"),
    [("a = 1\nb = ", "line 2: is it cut off"), ("", ""), ("a = 1\nb = = 3\n", "line 2, column 5"), ("a = ", "line 1")],
)
def test_a_toml_file_that_does_not_parse_is_told_with_its_line(tmp_path: Path, text: str, where: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    if not where:
        assert read_toml(tmp_path / "a.toml") == {}
        return
    with pytest.raises(InputError, match=where):
        read_toml(tmp_path / "a.toml")


def test_a_key_given_twice_is_refused(tmp_path):
    path = tmp_path / "twice.json"
    path.write_text('{"a": {"b": 1, "b": 2}}')
    with pytest.raises(InputError, match="'b' stands twice in one table"):
        read_json(path)
