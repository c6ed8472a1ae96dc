"""Counters of energy, on a made-up tree of files and a made-up library."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vit import profile
from vit.power import EnergyMeter, find_meter, measured_power, nvml_meter, rapl_meter
from vit.zoo import create_model


def zone(root: Path, folder: str, name: str, microjoules: int, full: int = 1000) -> Path:
    """One RAPL domain as Linux shows it."""
    (root / folder).mkdir(parents=True)
    (root / folder / "name").write_text(f"{name}\n")
    (root / folder / "max_energy_range_uj").write_text(f"{full}\n")
    (root / folder / "energy_uj").write_text(f"{microjoules}\n")
    return root / folder / "energy_uj"


def test_rapl_adds_the_packages_alone_and_follows_a_counter_that_starts_again(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", "package-0", 10), zone(tmp_path, "intel-rapl:1", "package-1", 990)
    zone(tmp_path, "intel-rapl:0:0", "core", 5)
    zone(tmp_path, "intel-rapl:2", "psys", 7)
    meter = rapl_meter(tmp_path)
    assert meter is not None
    before = meter.read()
    assert before == (10, 990)
    first.write_text("110\n")
    second.write_text("40\n")  # past 1000, where it starts again
    assert meter.joules(before, meter.read()) == pytest.approx((100 + 50) / 1e6)


def test_without_a_readable_counter_there_is_no_meter(tmp_path: Path) -> None:
    assert rapl_meter(tmp_path / "absent") is None
    zone(tmp_path, "intel-rapl:0", "package-0", 1)
    zone(tmp_path, "intel-rapl:1", "package-1", 1).unlink()
    assert rapl_meter(tmp_path) is None


class FakeNvml:
    """Answers as NVML does: 0 for success, results through pointers."""

    def __init__(self, counts: bool = True) -> None:
        self.millijoules, self.counts, self.asked = 500, counts, b""

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        self.asked = uuid
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, result: Any) -> int:
        ctypes.cast(result, ctypes.POINTER(ctypes.c_ulonglong))[0] = self.millijoules
        return 0 if self.counts else 3


def test_nvml_counts_the_board_of_that_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="1234"))
    library = FakeNvml()
    meter = nvml_meter(torch.device("cuda", 0), library)
    assert meter is not None
    assert library.asked == b"GPU-1234"
    before = meter.read()
    library.millijoules += 2000
    assert meter.joules(before, meter.read()) == 2.0
    assert nvml_meter(torch.device("cuda", 0), FakeNvml(counts=False)) is None


def test_power_is_energy_over_time_and_energy_is_that_of_a_run() -> None:
    spent = iter(range(0, 10_000_000, 3_000_000))
    meter = EnergyMeter("test", (lambda: next(spent),), (0,))
    watts, joules = measured_power(lambda: None, meter, 0.0)
    assert joules == 3.0
    assert watts > 3.0


def test_a_profile_has_the_power_where_there_is_a_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model({"dim": 8, "depth": 1, "heads": 2}, image_size=8)
    monkeypatch.setattr(profile, "find_meter", lambda _: None)
    without = profile.profile_model(model, batch_size=2, rounds=1)
    assert (without.power_w, without.energy_mj, without.power_source) == (None, None, None)
    joules = iter((0, 8_000_000))
    monkeypatch.setattr(profile, "find_meter", lambda _: EnergyMeter("a test", (lambda: next(joules),), (0,)))
    measured = profile.profile_model(model, batch_size=2, rounds=1, power_seconds=1e-9)
    assert measured.power_source == "a test"
    assert measured.energy_mj == 4000  # 8 J for a batch of two
    assert measured.power_w is not None
    assert measured.power_w > 0


def test_a_processor_is_never_asked_for_the_energy_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vit.power.nvml_meter", lambda _: pytest.fail("asked NVML"))
    find_meter(torch.device("cpu"))
