"""The machine a network is laid out on: clock, arithmetic, memories, bits. One TOML file a machine."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fifo_sim.energy_table import EnergyTable
from vit.errors import InputError, did_you_mean, require_choice, require_float, require_int, require_known_keys
from vit.files import read_text

STYLES = ("spatial", "systolic")
DATAFLOWS = ("os", "ws", "is")
CODINGS = ("int", "pot", "apot")
VECTOR_UNITS = ("own", "array")
PRESET_FOLDER = Path(__file__).parent / "presets"
_RANGES = {
    "clock_mhz": (1e-3, 1e6),
    "sram_kib": (1e-3, 1e9),
    "dram_gbps": (1e-6, 1e6),
    "dram_chunk_kib": (1 / 16, 1e6),
}
_ONLY = {"spatial": ("mac_lanes",), "systolic": ("array_rows", "array_cols", "dataflow", "vector_unit")}


@dataclass(frozen=True)
class Hardware:
    """A machine, as `lower` needs it. The same keys make a TOML file; a key left out takes the default here.

    Attributes:
        name: what reports call it.
        style: "spatial" (every layer has multipliers of its own, a share of `mac_lanes`) or "systolic" (one array of
            `array_rows` x `array_cols` multipliers that the layers use in turn).
        clock_mhz: clock of the datapath.
        mac_lanes: spatial: multiply-accumulates a cycle, over all layers together.
        array_rows, array_cols: systolic: size of the array.
        dataflow: systolic: what stays in place: "os" outputs, "ws" weights, "is" inputs.
        vector_unit: systolic: LayerNorm, softmax, GELU and additions run on a unit of their "own", or on the "array"
            (as on a CPU, whose cores do one thing at a time).
        elementwise_lanes: elements a cycle in one pass of LayerNorm, softmax, GELU or an addition. Spatial: in each of
            these stages. Systolic: of the one vector unit.
        sram_kib: on-chip memory for weights, FIFOs and buffers, KiB.
        dram_gbps: bandwidth of the port to memory outside, gigabits a second (10^9 bits).
        dram_latency_cycles: cycles from the last bit leaving that memory to the data being usable.
        dram_chunk_kib: weights that do not fit stream in chunks of at most this size, double-buffered, KiB; in smaller
            ones, down to a sixteenth of a layer, where only these fit.
        stream_weights: false if weights cannot come from outside while it runs; then they must all fit.
        weight_bits, activation_bits: width of what is stored, where the model does not say (or says float).
        accumulator_bits: width of partial sums, biases and LayerNorm parameters.
        weight_coding: what a multiplication by a weight is, where the model does not say: "int" a multiplication, "pot"
            a shift, "apot" two shifts and an addition.
        zero_skipping: spatial: true if multiplications by pruned weights take neither cycles nor energy.
        energy: pJ of single operations.

    Raises:
        InputError: a value out of range, or a key that has no meaning in this style.
    """

    name: str
    style: str
    clock_mhz: float
    sram_kib: float
    dram_gbps: float
    elementwise_lanes: int
    mac_lanes: int | None = None
    array_rows: int | None = None
    array_cols: int | None = None
    dataflow: str | None = None
    vector_unit: str | None = None
    dram_latency_cycles: int = 64
    dram_chunk_kib: float = 4.0
    stream_weights: bool = True
    weight_bits: int = 8
    activation_bits: int = 8
    accumulator_bits: int = 32
    weight_coding: str = "int"
    zero_skipping: bool = False
    energy: EnergyTable = field(default_factory=EnergyTable)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InputError("hardware.name", self.name, "a name")
        require_choice("hardware.style", self.style, STYLES)
        self._check_style()
        for key, (low, high) in _RANGES.items():
            object.__setattr__(self, key, require_float(f"hardware.{key}", getattr(self, key), low, high))
        require_int("hardware.elementwise_lanes", self.elementwise_lanes, 1, 2**30)
        require_int("hardware.dram_latency_cycles", self.dram_latency_cycles, 1, 2**30)
        for key in ("weight_bits", "activation_bits", "accumulator_bits"):
            require_int(f"hardware.{key}", getattr(self, key), 1, 64)
        require_choice("hardware.weight_coding", self.weight_coding, CODINGS)
        for key in ("stream_weights", "zero_skipping"):
            if not isinstance(getattr(self, key), bool):
                raise InputError(f"hardware.{key}", getattr(self, key), "true or false")
        if self.zero_skipping and self.style == "systolic":
            raise InputError("hardware.zero_skipping", True, "false: an array in lockstep cannot skip zeros")
        if not isinstance(self.energy, EnergyTable):
            raise InputError("hardware.energy", self.energy, "a table of pJ constants")

    def _check_style(self) -> None:
        other = "systolic" if self.style == "spatial" else "spatial"
        for key in _ONLY[other]:
            if getattr(self, key) is not None:
                raise InputError(f"hardware.{key}", getattr(self, key), f'absent with style = "{self.style}"')
        if self.style == "spatial":
            require_int("hardware.mac_lanes", self.mac_lanes, 1, 2**30)
            return
        for key in ("array_rows", "array_cols"):
            require_int(f"hardware.{key}", getattr(self, key), 1, 2**20)
        object.__setattr__(self, "dataflow", require_choice("hardware.dataflow", self.dataflow or "os", DATAFLOWS))
        unit = require_choice("hardware.vector_unit", self.vector_unit or "own", VECTOR_UNITS)
        object.__setattr__(self, "vector_unit", unit)

    @property
    def dram_bits_per_cycle(self) -> float:
        """Bits the port to DRAM moves in one cycle."""
        return self.dram_gbps * 1000 / self.clock_mhz

    @property
    def macs_per_cycle(self) -> int:
        """Multiply-accumulates a cycle when nothing waits."""
        return self.mac_lanes or (self.array_rows or 1) * (self.array_cols or 1)

    def milliseconds(self, cycles: float) -> float:
        """How long `cycles` last at this clock, ms."""
        return cycles / (self.clock_mhz * 1000)

    def to_dict(self) -> dict[str, Any]:
        """The keys as plain values, as `from_dict` takes them; those of the other style are left out."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain["energy"] = self.energy.to_dict()
        return {key: value for key, value in plain.items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Hardware:
        """The machine in a mapping of the attributes above.

        Raises:
            InputError: an unknown key (the nearest known one is suggested), a key missing, or a value out of range.
        """
        if not isinstance(values, Mapping):
            raise InputError("hardware", values, "a table of keys")
        require_known_keys("hardware", values, [f.name for f in fields(cls)])
        for key in ("name", "style", "clock_mhz", "sram_kib", "dram_gbps", "elementwise_lanes"):
            if key not in values:
                raise InputError(f"hardware.{key}", None, "given: it has no default")
        given = dict(values)
        energy = given.pop("energy", {})
        if not isinstance(energy, Mapping):
            raise InputError("hardware.energy", energy, "a table of pJ constants")
        return cls(**given, energy=EnergyTable.from_dict(energy))

    @classmethod
    def from_toml(cls, path: str | Path) -> Hardware:
        """The machine in a TOML file, its keys named as the attributes above.

        Raises:
            InputError: the file cannot be read, is no TOML (with line and column), or has a wrong key or value.
        """
        text = read_text(path, "hardware")
        try:
            values = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise InputError("hardware", str(path), "a TOML file", f"it does not parse: {error}") from error
        return cls.from_dict(values)

    @classmethod
    def presets(cls) -> list[str]:
        """Names of the machines that come with the package, sorted."""
        return sorted(path.stem for path in PRESET_FOLDER.glob("*.toml"))

    @classmethod
    def preset(cls, name: str) -> Hardware:
        """A machine that comes with the package.

        Raises:
            InputError: no preset has this name (the nearest one is suggested).
        """
        require_choice("hardware", name, cls.presets())
        return cls.from_toml(PRESET_FOLDER / f"{name}.toml")

    @classmethod
    def load(cls, spec: Hardware | str | Path) -> Hardware:
        """The machine that `spec` names: a Hardware, a preset, or the path of a TOML file."""
        if isinstance(spec, Hardware):
            return spec
        if not isinstance(spec, (str, Path)):
            raise InputError("hardware", spec, "a preset name, or the path of a TOML file")
        if str(spec).endswith(".toml") or Path(spec).is_file():
            return cls.from_toml(spec)
        if str(spec) not in cls.presets():
            allowed = "the path of a .toml file, or one of " + ", ".join(cls.presets())
            raise InputError("hardware", str(spec), allowed, did_you_mean(spec, cls.presets()))
        return cls.preset(str(spec))
