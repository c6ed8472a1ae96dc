"""What a candidate costs, known exactly without training it: parameters, MACs, cycles, SRAM, energy, bytes."""

from __future__ import annotations

import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.fields import HARDWARE, key_of
from nas.space import Params, SearchSpace, told
from quant.config import FLOAT, QuantConfig
from quant.level_sets import bits_of
from vit.config import ViTConfig
from vit.errors import InputError, did_you_mean
from vit.layers import FLOAT_BITS, LayerInfo, layers_of

if TYPE_CHECKING:
    from fifo_sim import Hardware

TRAINED = ("accuracy",)  # what only training tells; maximised, all the rest is minimised
SHAPE = ("params", "macs")
STREAMED = ("cycles", "sram_kib", "energy_pj", "bytes", "dram_bytes")
METRICS = (*TRAINED, *SHAPE, *STREAMED)
MACHINES = 65_536  # candidates whose machines are tried before anything is trained
_COMPARISON = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+0-9.eE_]+)\s*")
_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Constraint:
    """A bound on a cost, such as cycles <= 20000. Costs are exact, so a candidate that breaks it is never trained."""

    metric: str
    sign: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """The constraint in "METRIC <= NUMBER" (or <, >=, >).

        Raises:
            InputError: not of that form, an unknown metric, or accuracy, which no candidate shows before it is trained.
        """
        found = _COMPARISON.fullmatch(text) if isinstance(text, str) else None
        try:
            bound = float(found[3]) if found else math.nan
        except ValueError:
            bound = math.nan
        if found is None or math.isnan(bound):
            raise InputError("constraints", text, 'METRIC <= NUMBER, such as "cycles <= 20000"')
        known = (*SHAPE, *STREAMED)
        if found[1] not in known:
            raise InputError(
                "constraints", text, "a bound on one of " + ", ".join(known), did_you_mean(found[1], known)
            )
        return cls(found[1], found[2], bound)

    def holds(self, costs: Mapping[str, float]) -> bool:
        """Whether costs with this metric among them keep the bound."""
        return _OPERATORS[self.sign](costs[self.metric], self.bound)

    def __str__(self) -> str:
        short = f"{self.bound:g}"
        return f"{self.metric} {self.sign} {short if float(short) == self.bound else repr(self.bound)}"


class Costs:
    """The exact costs of candidates, each computed once.

    Args:
        space: what the candidates come from.
        hardware: a fifo_sim.Hardware, the name of a preset or the path of a TOML file; needed for STREAMED only, and
            there only where the space names none.
        metrics: the costs wanted, out of SHAPE and STREAMED.

    Raises:
        InputError: a metric of the hardware without a hardware, or a machine of the space that cannot be.
    """

    def __init__(self, space: SearchSpace, hardware: Hardware | str | Path | None, metrics: Iterable[str]) -> None:
        self.space = space
        self.metrics = tuple(dict.fromkeys(metrics))
        self.hardware: Hardware | None = None
        streamed = [name for name in self.metrics if name in STREAMED]
        named = HARDWARE in {**space.choices, **space.fixed}
        if streamed and hardware is None and not named:
            raise InputError("hardware", hardware, f"a preset or a TOML file: {', '.join(streamed)} depend on it")
        if hardware is not None:
            from fifo_sim import Hardware

            self.hardware = Hardware.load(hardware)
        self._machines: dict[str, Hardware] = {}
        if streamed:
            self._try_machines()
        self._known: dict[tuple[Any, ...], tuple[dict[str, float], str]] = {}

    def __call__(self, params: Params) -> dict[str, float]:
        """{metric: value} of a candidate; the streamed ones are infinite if it cannot run."""
        return self._looked_up(params)[0]

    def of(self, metric: str) -> Callable[[Params], float]:
        """One metric as a function of a candidate."""
        return lambda params: self(params)[metric]

    def broken(self, params: Params, constraints: Sequence[Constraint]) -> list[str]:
        """Why a candidate may not be trained, as text: constraints it breaks, no room on chip, deadlock; or nothing."""
        costs, reason = self._looked_up(params)
        return [reason] if reason else [str(constraint) for constraint in constraints if not constraint.holds(costs)]

    def feasible(self, candidates: Iterable[Params], constraints: Sequence[Constraint]) -> list[Params]:
        """The candidates that run and keep every constraint.

        Raises:
            InputError: none does; it tells how many each constraint refuses.
        """
        kept: list[Params] = []
        refused: Counter[str] = Counter()
        total = 0
        for params in candidates:
            total += 1
            broken = self.broken(params, constraints)
            refused.update(broken)
            if not broken:
                kept.append(params)
        if not kept:
            texts = [str(constraint) for constraint in constraints]
            raise InputError("constraints", texts, "bounds that leave a candidate", f"of {total}, {told(refused)}")
        return kept

    def _looked_up(self, params: Params) -> tuple[dict[str, float], str]:
        key = tuple(params[name] for name in self.space.choices)
        if key not in self._known:
            self._known[key] = self._computed(params)
        return self._known[key]

    def _computed(self, params: Params) -> tuple[dict[str, float], str]:
        config, reason = self.space.config(params), ""
        found: dict[str, float] = {}
        if set(SHAPE) & set(self.metrics):
            found = {"params": float(config_params(config)), "macs": float(sum(x.macs for x in layers_of(config)))}
        streamed = [name for name in self.metrics if name in STREAMED]
        if streamed:
            layers = layers_as(config, self.space.quantisation(params))
            costs, reason = streamed_costs(
                config, layers, self.machine(params), streamed, **self.space.streaming(params)
            )
            found |= costs
        return {name: found[name] for name in self.metrics}, reason

    def machine(self, params: Params) -> Hardware:
        """What a candidate runs on: the machine of the search or the one it names, with the keys that it sets.

        Raises:
            InputError: there is no such machine, or a key has no meaning or another range there.
        """
        from fifo_sim import Hardware

        name, keys = self.space.machine(params)
        key = repr((name, sorted(keys.items())))
        if key not in self._machines:
            base = self.hardware if name is None else Hardware.load(name)
            assert base is not None
            self._machines[key] = replace(base, **keys)
        return self._machines[key]

    def named_machines(self) -> dict[str, dict[str, Any]]:
        """{name: keys} of the machines that the space names: a file may have others later."""
        from fifo_sim import Hardware

        if not set(STREAMED) & set(self.metrics):
            return {}
        fixed = [self.space.fixed[HARDWARE]] if HARDWARE in self.space.fixed else []
        return {name: Hardware.load(name).to_dict() for name in (*self.space.choices.get(HARDWARE, ()), *fixed)}

    def _try_machines(self) -> None:
        """Build each machine of the space once, so that one that cannot be is told before anything is trained."""
        names = [name for name in self.space.choices if name == HARDWARE or key_of(name)]
        seen = set()
        for params in islice(self.space, MACHINES if names else 0):
            chosen = tuple(params[name] for name in names)
            if chosen not in seen:
                seen.add(chosen)
                self.machine(params)
            if len(seen) == math.prod(len(self.space.choices[name]) for name in names):
                break
        if not names:
            self.machine(next(iter(self.space)))


def config_params(config: ViTConfig) -> int:
    """Parameters of a VisionTransformer of this shape, counted from the shape alone."""
    norms = (2 * config.depth + 1) * 2 * config.dim
    tokens = config.tokens * config.dim + (config.dim if config.pool == "cls" else 0)
    return sum(layer.params for layer in layers_of(config)) + norms + tokens


def layers_as(config: ViTConfig, quantisation: QuantConfig | None) -> list[LayerInfo]:
    """The layers of a network of this shape, with the widths that `prepare_qat` would give them.

    Raises:
        InputError: a pattern of the weights fits none of them.
    """
    layers = layers_of(config)
    if quantisation is None:
        return layers
    quantisation.require_layers([layer.name for layer in layers if layer.params])
    return [_as(layer, quantisation) for layer in layers]


def _as(layer: LayerInfo, quantisation: QuantConfig) -> LayerInfo:
    if not layer.params:
        return layer
    scheme = quantisation.scheme_of(layer.name)
    if scheme == FLOAT:
        return replace(layer, weight_scheme=scheme)
    inputs = FLOAT_BITS if quantisation.activations == FLOAT else bits_of(quantisation.activations)
    return replace(layer, weight_bits=bits_of(scheme), activation_bits=inputs, weight_scheme=scheme)


def streamed_costs(
    config: ViTConfig,
    layers: Sequence[LayerInfo],
    hardware: Hardware,
    metrics: Iterable[str],
    tile: int,
    fifo: int,
    attention: str,
) -> tuple[dict[str, float], str]:
    """What one image costs that streams through the hardware, and why it cannot, or "".

    Args:
        layers: of a network of that shape, in order of execution.
        metrics: out of cycles (from the first firing to the last), sram_kib (all buffers on chip), energy_pj (of the
            run), bytes (all weights as they are stored) and dram_bytes (traffic).
    """
    from fifo_sim import DoesNotFit, simulate
    from fifo_sim.lowering import lay_out

    try:
        lowered = lay_out(config, layers, hardware, tile, fifo, attention, images=1)
    except DoesNotFit:
        return dict.fromkeys(metrics, math.inf), f"the {hardware.sram_kib:g} KiB on chip of {hardware.name}"
    cycles = simulate(lowered.pipeline, history=False).cycles
    if cycles is None:
        return dict.fromkeys(metrics, math.inf), "deadlock"
    stored = (op.weights.total_bytes for op in lowered.graph.operations if op.weights is not None)
    measures: dict[str, Callable[[], float]] = {
        "cycles": lambda: cycles,
        "sram_kib": lambda: lowered.memory.sram_kib,
        "energy_pj": lambda: lowered.energy().total_pj,
        "bytes": lambda: sum(stored),
        "dram_bytes": lambda: lowered.memory.total_dram_bytes,
    }
    return {name: float(measures[name]()) for name in metrics}, ""
