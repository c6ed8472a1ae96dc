"""Weight schemes for the layers of a network: those within a budget that change its answers least."""

from __future__ import annotations

import copy
import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

from torch import Tensor, nn

from fifo_sim import Hardware, lower
from quant import assign_schemes, sensitivity
from quant.config import FLOAT, QuantConfig, fits
from quant.level_sets import SCHEMES as KNOWN
from quant.level_sets import bits_of
from quant.mixed import Sensitivity, total_divergence
from quant.qat import quantisable_layers
from tilevit.metrics import MACHINE
from tilevit.model_file import ACTIVATIONS, WEIGHTS
from vit.errors import InputError, require_choice, require_float
from vit.files import toml_line
from vit.layers import FLOAT_BITS

SCHEMES = ("pot4", "apot4", "apot6", "int8")  # that a budget is spent on, unless told otherwise
ROUNDS = 12  # of choosing anew where energies of single layers do not add up
KIB, NANOJOULE = 1024, 1000


@dataclass(frozen=True)
class Mixture:
    """What was chosen.

    Attributes:
        schemes: {layer: scheme}, as `QuantConfig` takes them.
        table: what each layer loses with each scheme.
        spent: what the network takes of the budget.
        unit: of the budget, "kib" or "nj".
    """

    schemes: dict[str, str]
    table: tuple[Sensitivity, ...]
    spent: float
    unit: str

    def to_csv(self) -> str:
        """A row for each layer and scheme, with 1 in the column chosen where it was."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [*(f.name for f in fields(Sensitivity)), "chosen"], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**asdict(row), "chosen": int(self.schemes[row.layer] == row.scheme)} for row in self.table)
        return text.getvalue()

    def to_toml(self, activations: str) -> str:
        """The schemes as a file that `tilevit qat --weights` takes."""
        rows = "".join(f"{toml_line(*item)}\n" for item in self.schemes.items())
        return f"{toml_line(ACTIVATIONS, activations)}\n\n[{WEIGHTS}]\n{rows}"


def mixture(
    network: nn.Module,
    images: Tensor,
    config: QuantConfig,
    *,
    budget_kib: float | None,
    budget_nj: float | None,
    schemes: Sequence[str] | None,
    hardware: str | None,
) -> Mixture | None:
    """Schemes within the budget that is given; None where none is.

    Args:
        network, images: as of `within_bytes`.
        config: its `skip` and `activations` count.
        schemes, hardware: SCHEMES and MACHINE where they are None.

    Raises:
        InputError: what `within_bytes`, `within_energy`, `require_one_budget` and `require_schemes` refuse.
    """
    require_one_budget(budget_kib, budget_nj)
    schemes = SCHEMES if schemes is None else schemes
    require_schemes(schemes)
    if budget_kib is not None:
        return within_bytes(network, images, schemes, budget_kib, config.skip)
    if budget_nj is not None:
        energies = Energies(network, hardware or MACHINE, config.activations)
        return within_energy(network, images, schemes, budget_nj, energies, config.skip)
    return None


def require_schemes(schemes: Sequence[str]) -> None:
    """Raise an InputError unless these are schemes, at least one and each once."""
    for scheme in schemes:
        require_choice("schemes", scheme, KNOWN)
    if not schemes or len(set(schemes)) < len(schemes):
        raise InputError("schemes", list(schemes), "one scheme or more, each once")


def require_one_budget(budget_kib: float | None, budget_nj: float | None) -> None:
    """Raise an InputError for two budgets, or one that is none."""
    given = {"budget_kib": budget_kib, "budget_nj": budget_nj}
    for name, value in given.items():
        if value is not None:
            require_float(name, value, 0, math.inf, open_low=True, open_high=True)
    if budget_kib is not None and budget_nj is not None:
        raise InputError("budget_nj", budget_nj, "left out beside budget_kib", "schemes are chosen for one budget")


class Energies:
    """Energy of one image through a machine, nJ, whose layers are stored by schemes; modelled by `fifo_sim`.

    Args:
        activations: width of the inputs of layers, as of QuantConfig.

    Raises:
        DoesNotFit: a network does not fit the machine.
    """

    def __init__(self, network: nn.Module, hardware: Hardware | str, activations: str) -> None:
        self._network, self._machine = copy.deepcopy(network), Hardware.load(hardware)
        self._inputs = FLOAT_BITS if activations == FLOAT else bits_of(activations)

    def __call__(self, schemes: Mapping[str, str]) -> float:
        layer: Any
        for name, layer in quantisable_layers(self._network).items():
            scheme = schemes.get(name, FLOAT)
            layer.weight_scheme = scheme
            layer.weight_bits = FLOAT_BITS if scheme == FLOAT else bits_of(scheme)
            layer.activation_bits = FLOAT_BITS if scheme == FLOAT else self._inputs
        return lower(self._network, self._machine).energy().total_pj / NANOJOULE


def within_bytes(
    network: nn.Module, images: Tensor, schemes: Sequence[str], budget_kib: float, skip: Sequence[str] = ()
) -> Mixture:
    """Schemes of which the codes of all weights take at most `budget_kib`.

    Args:
        network: a float VisionTransformer or timm ViT.
        images: normalised (N, C, H, W), by which layers are judged.
        schemes: to choose from.
        skip: patterns of layers that stay float, and are not counted.

    Raises:
        InputError: an unknown scheme, or a budget below what the smallest take.
    """
    table = _judged(network, images, schemes, skip)
    least = sum(min(row.bytes for row in table if row.layer == name) for name in _layers(table)) / KIB
    if budget_kib < least:
        raise InputError("budget_kib", budget_kib, f"at least {_above(least)}, what the smallest schemes take")
    chosen = assign_schemes(table, budget_kib * KIB)
    return Mixture(chosen, table, sum(row.bytes for row in table if chosen[row.layer] == row.scheme) / KIB, "kib")


def within_energy(
    network: nn.Module,
    images: Tensor,
    schemes: Sequence[str],
    budget_nj: float,
    energies: Energies,
    skip: Sequence[str] = (),
) -> Mixture:
    """Schemes with which an image takes at most `budget_nj`, all layers together and everything else.

    A layer's part is what the network takes more where this layer alone has another scheme than all others. Where the
    parts do not add up, as where there is room on chip for a layer that had none, the network as a whole counts: what
    is chosen keeps the budget and cannot be bettered in one layer, but need not be the best there is.

    Raises:
        InputError: an unknown scheme, or a budget below what the most frugal schemes take.
    """
    table = _judged(network, images, schemes, skip)
    start = min((dict.fromkeys(_layers(table), scheme) for scheme in schemes), key=energies)
    base = energies(start)
    extra = {(row.layer, row.scheme): energies({**start, row.layer: row.scheme}) - base for row in table}
    frugal = {name: min((extra[name, scheme], scheme) for scheme in schemes)[1] for name in start}
    least = energies(frugal)
    if least > budget_nj:
        raise InputError("budget_nj", budget_nj, f"at least {_above(least)}, what the most frugal schemes take")
    low, high = sum(extra[item] for item in frugal.items()), budget_nj - base
    best, limit = frugal, high
    for _ in range(ROUNDS):
        chosen = assign_schemes(table, max(low, limit), lambda row: extra[row.layer, row.scheme])
        if energies(chosen) <= budget_nj:
            best, low = chosen, limit
        else:
            high = limit
        if low >= high:
            break
        limit = (low + high) / 2
    starts = [best, *(dict.fromkeys(start, scheme) for scheme in schemes), assign_schemes(table, math.inf)]
    within = [chosen for chosen in starts if energies(chosen) <= budget_nj]
    best = min(
        (_improved(chosen, table, budget_nj, energies) for chosen in within), key=partial(total_divergence, table)
    )
    return Mixture(best, table, energies(best), "nj")


def _improved(
    chosen: dict[str, str],
    table: Sequence[Sensitivity],
    budget_nj: float,
    energies: Callable[[Mapping[str, str]], float],
) -> dict[str, str]:
    """The schemes after changes of one layer at a time, the best first, that are within the budget as a whole."""
    held = {row.layer: row.divergence for row in table if chosen[row.layer] == row.scheme}
    for row in sorted(table, key=lambda row: row.divergence - held[row.layer]):
        if row.divergence >= held[row.layer]:
            return chosen
        changed = {**chosen, row.layer: row.scheme}
        if energies(changed) <= budget_nj:
            return _improved(changed, table, budget_nj, energies)
    return chosen


def _judged(network: nn.Module, images: Tensor, schemes: Sequence[str], skip: Sequence[str]) -> tuple[Sensitivity, ...]:
    """`sensitivity` of the layers that are not to stay float."""
    table = sensitivity(network, images, schemes)
    kept = tuple(row for row in table if not any(fits(row.layer, pattern) for pattern in skip))
    if not kept:
        raise InputError("skip", list(skip), "patterns that leave at least one layer to quantise")
    return kept


def _above(value: float) -> str:
    """Three digits behind the point, rounded up."""
    return f"{math.ceil(1000 * value) / 1000:g}"


def _layers(table: Sequence[Sensitivity]) -> list[str]:
    return list(dict.fromkeys(row.layer for row in table))
