"""Hardware files: presets, defaults, and every way to get a key wrong."""

from __future__ import annotations

import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fifo_sim.energy_table import EnergyTable
from fifo_sim.hardware import PRESET_FOLDER, Hardware
from vit.errors import InputError

SPATIAL = {
    "name": "board",
    "style": "spatial",
    "clock_mhz": 100,
    "sram_kib": 64,
    "dram_gbps": 8,
    "elementwise_lanes": 4,
    "mac_lanes": 32,
}
SYSTOLIC = {
    **{k: v for k, v in SPATIAL.items() if k != "mac_lanes"},
    "style": "systolic",
    "array_rows": 4,
    "array_cols": 8,
}
DOCS = Path(__file__).parents[2] / "docs" / "hardware.md"


def test_the_eight_machines_are_there_and_load() -> None:
    wanted = ["coral-edge-tpu", "eyeriss", "gap9", "max78000", "raspberry-pi-4", "stm32h743", "ultra96", "zcu104"]
    assert Hardware.presets() == wanted
    for name in wanted:
        machine = Hardware.preset(name)
        assert Hardware.from_dict(machine.to_dict()) == machine
        assert Hardware.load(name) == machine
        assert machine.macs_per_cycle >= 2


@pytest.mark.parametrize("path", sorted(PRESET_FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_every_number_of_a_preset_has_its_source_above_it(path: Path) -> None:
    """A line without a comment above it belongs to the group that the nearest comment speaks of."""
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    bare = {"name", "style", "weight_bits", "activation_bits", "accumulator_bits"}
    for i, line in enumerate(lines):
        if "=" in line and not line.startswith("#") and line.split(" = ")[0] not in bare:
            paragraph = lines[max(j for j in range(i) if not lines[j]) : i]
            assert any(text.startswith("# ") for text in paragraph), line


def test_units() -> None:
    machine = Hardware.from_dict(SPATIAL)
    assert machine.dram_bits_per_cycle == 80  # 8 Gb/s over 100 M cycles/s
    assert machine.milliseconds(250_000) == 2.5
    assert Hardware.from_dict(SYSTOLIC).macs_per_cycle == 32


def test_defaults_of_a_style() -> None:
    machine = Hardware.from_dict(SYSTOLIC)
    assert (machine.dataflow, machine.vector_unit, machine.mac_lanes) == ("os", "own", None)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"clok_mhz": 5}, "did you mean 'clock_mhz'"),
        ({"style": "spacial"}, "did you mean 'spatial'"),
        ({"clock_mhz": 0}, "hardware.clock_mhz = 0"),
        ({"clock_mhz": "fast"}, "hardware.clock_mhz = 'fast'"),
        ({"clock_mhz": float("nan")}, "hardware.clock_mhz = nan"),
        ({"mac_lanes": 2.5}, "hardware.mac_lanes = 2.5"),
        ({"mac_lanes": None}, "hardware.mac_lanes = None"),
        ({"array_rows": 4}, 'absent with style = "spatial"'),
        ({"dataflow": "os"}, 'absent with style = "spatial"'),
        ({"weight_bits": True}, "hardware.weight_bits = True"),
        ({"weight_coding": "pot4"}, "did you mean 'pot'"),
        ({"stream_weights": 1}, "true or false"),
        ({"energy": 3}, "hardware.energy = 3"),
        ({"energy": {"dram": 3}}, "did you mean 'dram_pj'"),
        ({"energy": {"dram_pj": -3}}, "energy.dram_pj = -3"),
        ({"name": ""}, "hardware.name"),
    ],
)
def test_wrong_keys_are_named(change: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as caught:
        Hardware.from_dict({**SPATIAL, **change})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["name", "style", "clock_mhz", "sram_kib", "dram_gbps", "elementwise_lanes"])
def test_keys_without_default(key: str) -> None:
    with pytest.raises(InputError, match=f"hardware.{key} = None"):
        Hardware.from_dict({k: v for k, v in SPATIAL.items() if k != key})


def test_a_lockstep_array_cannot_skip() -> None:
    with pytest.raises(InputError, match="zero_skipping"):
        Hardware.from_dict({**SYSTOLIC, "zero_skipping": True})


def test_files(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text("\n".join(f"{k} = {v!r}" for k, v in SPATIAL.items()) + "\n[energy]\ndram_pj = 7\n")
    assert Hardware.load(str(good)) == replace(Hardware.from_dict(SPATIAL), energy=EnergyTable(dram_pj=7))
    bad.write_text("name = \n")
    with pytest.raises(InputError, match="line 1"):
        Hardware.from_toml(bad)
    with pytest.raises(InputError, match="system says"):
        Hardware.from_toml(tmp_path / "absent.toml")
    with pytest.raises(InputError, match="did you mean 'zcu104'"):
        Hardware.load("zcu140")
    with pytest.raises(InputError, match="did you mean 'zcu104'"):
        Hardware.preset("zcu14")
    with pytest.raises(InputError, match="preset name"):
        Hardware.load(3)  # type: ignore[arg-type]


def test_every_key_is_documented() -> None:
    page = DOCS.read_text()
    for key in [f.name for f in fields(Hardware)] + [f.name for f in fields(EnergyTable)]:
        assert f"`{key}`" in page, key
    for name in Hardware.presets():
        assert f"`{name}`" in page, name


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=5), st.floats(), max_size=2),
)
keys = st.sampled_from([f.name for f in fields(Hardware)] + ["extra", ""])


@settings(max_examples=300, deadline=None)
@given(base=st.sampled_from([SPATIAL, SYSTOLIC]), changes=st.dictionaries(keys, values, max_size=3))
def test_any_table_is_a_machine_or_one_clear_line(base: dict[str, Any], changes: dict[str, Any]) -> None:
    try:
        machine = Hardware.from_dict({**base, **changes})
    except InputError:  # anything else would fail the test
        return
    assert Hardware.from_dict(machine.to_dict()) == machine


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(alphabet="abc_= []\"'\\\n#{}.1e-+\x00é", max_size=60),
    where=st.integers(0, 400),
    cut=st.integers(0, 40),
)
def test_any_text_is_a_machine_or_one_clear_line(
    tmp_path_factory: pytest.TempPathFactory, text: str, where: int, cut: int
) -> None:
    preset = (PRESET_FOLDER / "eyeriss.toml").read_text()
    path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    path.write_text(preset[:where] + text + preset[where + cut :], encoding="utf-8")
    try:
        machine = Hardware.from_toml(path)
    except InputError:
        return
    assert tomllib.loads(path.read_text(encoding="utf-8"))["name"] == machine.name


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"name = '\xff\xfe'")
    with pytest.raises(InputError, match="UTF-8"):
        Hardware.from_toml(path)
