from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from vit.errors import InputError
from vit.tensorfile import kind_of, read_tensors, write_tensors

DTYPES = st.sampled_from([np.float32, np.float64, np.uint8, np.int64, np.bool_])
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
FIXED_FOLDER = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FIXED_FOLDER
@given(tensors=st.dictionaries(st.text("abc./é", min_size=1), ARRAYS, max_size=4), note=st.text())
def test_what_is_written_is_read(tmp_path: Path, tensors: dict[str, np.ndarray], note: str) -> None:
    path = tmp_path / "file.safetensors"
    write_tensors(path, tensors, {"note": note}, kind="test")
    found, metadata = read_tensors(path, kind="test", field="file")
    assert metadata == {"note": note}
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def test_a_transposed_array_keeps_its_values(tmp_path: Path) -> None:
    array = np.arange(6).reshape(2, 3).T
    write_tensors(tmp_path / "f", {"x": array}, {}, kind="test")
    assert np.array_equal(read_tensors(tmp_path / "f", kind="test", field="file")[0]["x"], array)


@FIXED_FOLDER
@given(data=st.data())
def test_any_damage_is_noticed(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "file.safetensors"
    write_tensors(path, {"x": np.arange(50.0), "y": np.ones((3, 2), bool)}, {"a": [1, 2]}, kind="test")
    whole = path.read_bytes()
    if data.draw(st.booleans(), label="cut short"):
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    else:
        place = data.draw(st.integers(0, len(whole) - 1))
        changed = bytes([whole[place] ^ data.draw(st.integers(1, 255))])
        path.write_bytes(whole[:place] + changed + whole[place + 1 :])
    try:
        found, metadata = read_tensors(path, kind="test", field="file")
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017 (damage to the padding of the header harms nothing)
    else:
        assert metadata == {"a": [1, 2]}
        assert np.array_equal(found["x"], np.arange(50.0))


def test_other_files_are_refused(tmp_path: Path) -> None:
    save_file({"x": np.ones(2)}, tmp_path / "foreign")
    write_tensors(tmp_path / "other", {}, {}, kind="other")
    label = {"format": "tilevit test", "version": "9", "json": "{}", "crc32": "0"}
    save_file({"x": np.ones(2)}, tmp_path / "newer", {"tilevit": json.dumps(label)})
    save_file({"x": np.ones(2)}, tmp_path / "odd", {"tilevit": "3"})
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "pickle").write_bytes(b"\x80\x04K\x01.")
    for name, message in {
        "foreign": "no file of tilevit",
        "odd": "no file of tilevit",
        "other": "tilevit other",
        "newer": "version 9",
        "empty": "damaged",
        "pickle": "damaged",
        "absent": "existing",
        ".": "existing",
    }.items():
        with pytest.raises(InputError, match=message):
            read_tensors(tmp_path / name, kind="test", field="file")
        if name not in ("other", "newer"):
            with pytest.raises(InputError):
                kind_of(tmp_path / name, "file")
    assert kind_of(tmp_path / "other", "file") == "other"
