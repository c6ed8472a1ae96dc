"""Mixed precision: what each layer costs when it alone is quantised, and schemes that fit a number of bytes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant.codec import quantize
from quant.level_sets import bits_of
from quant.packing import packed_size
from quant.qat import is_prepared, quantisable_layers
from quant.scales import from_bfloat16, to_bfloat16, weight_scale
from vit.errors import InputError
from vit.masks import get_mask
from vit.solver import milp


@dataclass(frozen=True)
class Sensitivity:
    """What quantising one layer's weights, and nothing else, costs.

    Attributes:
        layer, scheme: which, and how.
        bytes: of the layer's packed codes.
        divergence: mean Kullback-Leibler divergence of the float model's class probabilities from those of the model
            with this one layer quantised, nats an image.
    """

    layer: str
    scheme: str
    bytes: int
    divergence: float


@torch.no_grad()
def sensitivity(
    model: nn.Module, images: Tensor, schemes: Sequence[str] = ("pot4", "apot4", "apot6", "int8")
) -> list[Sensitivity]:
    """Every layer with every scheme, in the order of the layers.

    Args:
        model: a float VisionTransformer or timm ViT.
        images: normalised (N, C, H, W), of the training or validation data; a few hundred are enough. No labels are
            needed: the float model's probabilities are what is to be kept.

    Raises:
        InputError: the model is prepared already, or a scheme is unknown.
    """
    if is_prepared(model):
        raise InputError("model", type(model).__name__, "a float model", "this one is prepared for QAT already")
    probe = copy.deepcopy(model).eval()
    expected = _log_probabilities(probe, images)
    found = []
    for name, layer in quantisable_layers(probe).items():
        stored = _stored_weight(layer)
        original = stored.clone()
        rows = original.flatten(1).cpu().numpy()
        for scheme in schemes:
            scale = from_bfloat16(to_bfloat16(weight_scale(rows, scheme)))
            stored.copy_(torch.from_numpy(quantize(rows, scale, scheme)).view_as(stored))
            changed = _log_probabilities(probe, images)
            divergence = F.kl_div(changed, expected, reduction="batchmean", log_target=True).item()
            found.append(Sensitivity(name, scheme, packed_size(rows.size, bits_of(scheme)), max(0.0, divergence)))
        stored.copy_(original)
    return found


def assign_schemes(
    table: Sequence[Sensitivity], budget: float, cost: Callable[[Sensitivity], float] | None = None
) -> dict[str, str]:
    """The scheme for each layer with which their costs stay within `budget` and the divergences add up to the least.

    Divergences of single layers are taken to add up, as they nearly do while small. The best choice is a knapsack with
    one item a layer, solved by scipy's HiGHS; what its tolerances leave is then taken while something fits.

    Args:
        table: from `sensitivity`.
        budget: in the unit of `cost`.
        cost: of a row; by default its bytes. For energy give a function of the row's layer and scheme.

    Returns:
        what `QuantConfig(weights=...)` takes.

    Raises:
        InputError: even the cheapest schemes cost more than the budget.
    """
    cost = cost or (lambda row: row.bytes)
    rows: dict[str, list[Sensitivity]] = {}
    for row in table:
        rows.setdefault(row.layer, []).append(row)
    cheapest = {layer: min(options, key=lambda r: (cost(r), r.divergence)) for layer, options in rows.items()}
    least = sum(map(cost, cheapest.values()))
    if least > budget:
        raise InputError("budget", budget, f"at least {least:g}, what the cheapest scheme of every layer costs")
    chosen = _best(rows, budget - least, {row: cost(row) - cost(cheapest[row.layer]) for row in table})
    if chosen is None or sum(map(cost, chosen.values())) > budget:  # by a tolerance of the solver
        chosen = cheapest
    while True:
        spent = sum(map(cost, chosen.values()))
        better = [
            (row, cost(row) - cost(chosen[layer]), chosen[layer].divergence - row.divergence)
            for layer, options in rows.items()
            for row in options
            if row.divergence < chosen[layer].divergence and spent + cost(row) - cost(chosen[layer]) <= budget
        ]
        if not better:
            return {layer: row.scheme for layer, row in chosen.items()}
        row, _, _ = max(better, key=lambda b: (b[1] <= 0, b[2] / max(b[1], 1e-12)))
        chosen[row.layer] = row


def _best(
    rows: Mapping[str, Sequence[Sensitivity]], left: float, extra: Mapping[Sensitivity, float]
) -> dict[str, Sensitivity] | None:
    """A row for each layer whose extra costs add up to what is left, at the most, of least divergence."""
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint

    items = [row for options in rows.values() for row in options]
    one_each = np.array([[row.layer == layer for row in items] for layer in rows], dtype=float)
    costs, divergences = (np.array(v) for v in ([extra[row] for row in items], [row.divergence for row in items]))
    left = min(left, sum(max(extra[row] for row in options) for options in rows.values()))
    scale = max(left, float(costs.max()), 1e-300)
    found = milp(
        divergences / max(float(divergences.max()), 1e-300),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(costs[None] / scale, ub=left / scale)],
        integrality=np.ones(len(items)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        return None
    return {row.layer: row for row, share in zip(items, found.x, strict=True) if share > 0.5}


def total_divergence(table: Sequence[Sensitivity], schemes: Mapping[str, str]) -> float:
    """The sum of the divergences of these layers with these schemes."""
    return sum(row.divergence for row in table if schemes.get(row.layer) == row.scheme)


def _log_probabilities(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(part) for part in torch.split(images, 256)]).float().log_softmax(-1)


def _stored_weight(layer: nn.Module) -> Tensor:
    """The parameter behind the layer's weight, which a mask may cover."""
    found: Tensor = layer.weight if get_mask(layer) is None else layer.parametrizations.weight.original  # type: ignore[assignment, union-attr]
    return found
