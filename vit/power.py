"""Power as the machine itself counts it: a GPU's board through NVML, a processor's packages through RAPL."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")  # Linux; readable by root alone since 2020 (CVE-2020-8694)
NVML_LIBRARY = "libnvidia-ml.so.1"


@dataclass(frozen=True)
class EnergyMeter:
    """Counters of energy that only ever grow, and start again at 0 where they are full.

    Attributes:
        source: whose energy it is, in words.
        counters: each gives microjoules.
        ranges: microjoules at which each counter starts again; 0 for never.
    """

    source: str
    counters: tuple[Callable[[], int], ...]
    ranges: tuple[int, ...]

    def read(self) -> tuple[int, ...]:
        """Each counter now."""
        return tuple(counter() for counter in self.counters)

    def joules(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        """Energy between two readings; of a counter that started again, once at most."""
        spent = (
            (late - early) % full if full else late - early
            for early, late, full in zip(before, after, self.ranges, strict=True)
        )
        return sum(spent) / 1e6


def find_meter(device: torch.device) -> EnergyMeter | None:
    """The meter of what computes on `device`, or None where the machine has none that this process may read."""
    return nvml_meter(device) if device.type == "cuda" else rapl_meter()


def measured_power(run: Callable[[], Any], meter: EnergyMeter, seconds: float) -> tuple[float, float]:
    """Repeat `run` for at least `seconds`; (watts meanwhile, joules of one run)."""
    runs, began, before = 0, time.perf_counter(), meter.read()
    while (elapsed := time.perf_counter() - began) < seconds or not runs:
        run()
        runs += 1
    joules = meter.joules(before, meter.read())
    return joules / elapsed, joules / runs


def rapl_meter(root: Path = POWERCAP) -> EnergyMeter | None:
    """All packages of the processor, of Intel's or AMD's; everything else that runs on them is counted too."""
    counters, ranges = [], []
    for zone in sorted(root.glob("intel-rapl:*")):
        if not re.fullmatch(r"intel-rapl:\d+", zone.name):  # parts of a package, which it counts already
            continue
        try:
            if not (zone / "name").read_text().startswith("package"):
                continue
            counter = _file_counter(zone / "energy_uj")
            counter()
            ranges.append(int((zone / "max_energy_range_uj").read_text()))
        except (OSError, ValueError):
            return None  # part of the energy is worse than none
        counters.append(counter)
    return EnergyMeter("RAPL, the whole processor", tuple(counters), tuple(ranges)) if counters else None


def nvml_meter(device: torch.device, library: Any = None) -> EnergyMeter | None:
    """The whole board of a GPU, its memory included. NVML counts millijoules from Volta on."""
    try:
        nvml = library or ctypes.CDLL(NVML_LIBRARY)
        name = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
        handle = ctypes.c_void_p()
        if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByUUID(name, ctypes.byref(handle)):
            return None
    except (OSError, AttributeError):
        return None

    def counter() -> int:
        millijoules = ctypes.c_ulonglong()
        if nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)):
            raise OSError("NVML does not count the energy of this GPU")
        return 1000 * millijoules.value

    try:
        counter()
    except OSError:
        return None
    return EnergyMeter("NVML, the whole board", (counter,), (0,))


def _file_counter(file: Path) -> Callable[[], int]:
    return lambda: int(file.read_text())
