"""Gates on heads, MLP units and channels, learned under an L1 penalty: network slimming (Liu et al. 2017)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from prune.anatomy import blocks, dim_of, heads_of, require_vit
from prune.importance import KINDS, Scores
from vit.errors import InputError, require_choice, require_float
from vit.image_set import DataSplits
from vit.preprocessing import Normalisation, as_trained, note_normalisation
from vit.recipe import Recipe
from vit.training import Batch, Row, cross_entropy, fit

Model = TypeVar("Model", bound=nn.Module)

EPOCHS = 10  # of a training that nobody gave a recipe for
PENALTY = 1e-2
# AdamW moves a number by no more than the rate a step, and gates have all the way from 1 to 0 to go: counted in tenths
# they go ten times as fast as the weights.
SPEED = 10.0


class Gates(nn.Module):
    """One factor, at first 1, a head, MLP unit and token channel: of the kinds that are to be cut.

    A head's multiplies what it hands to the output projection, an MLP unit's what it hands to fc2, and a channel's what
    every LayerNorm hands on of it. So each can be multiplied into weights that are there: `fold`.
    """

    def __init__(self, model: nn.Module, kinds: Sequence[str] = KINDS) -> None:
        super().__init__()
        with_heads, with_units = ([*blocks(model)] if kind in kinds else [] for kind in ("heads", "mlp"))
        self.heads = nn.ParameterList(_open(heads_of(block)) for block in with_heads)
        self.units = nn.ParameterList(_open(block.mlp.fc1.out_features) for block in with_units)
        self.channels = nn.Parameter(_open(dim_of(model))) if "channels" in kinds else None
        self.head_widths = [block.attn.proj.in_features // heads_of(block) for block in with_heads]
        self.to(next(model.parameters()).device)

    def norm(self) -> Tensor:
        """The sum of the magnitudes of all factors: a head's gate counts once for each of its features.

        Counted once a head it would be too light to fall: the loss holds as many features up as there are in a head.
        """
        sums = [width * gate.abs().sum() for width, gate in zip(self.head_widths, self.heads, strict=True)]
        sums += [gate.abs().sum() for gate in (*self.units, *self._of_channels())]
        return SPEED * torch.stack(sums).sum()

    def scores(self) -> Scores:
        """The magnitudes, as the weights of what they are on; a head's as a share of its block's.

        The gates of a block's heads fall together, so that how far says little of one block beside another.
        """
        heads = [gate.detach().abs() for gate in self.heads]
        shares = [gates / gates.sum().clamp_min(torch.finfo(gates.dtype).tiny) for gates in heads]
        units = [SPEED * gate.detach().abs() for gate in self.units]
        channels = [SPEED * gate.detach().abs() for gate in self._of_channels()]
        return Scores(shares or None, units or None, channels[0] if channels else None)

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """Within the block the model computes with its gates."""
        handles = []
        for layer, gate in self._inputs(model):
            handles.append(layer.register_forward_pre_hook(_scaled_input(gate)))
        for gate in self._of_channels():
            handles += [norm.register_forward_hook(_scaled_output(gate)) for norm in _token_norms(model)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def fold(self, model: nn.Module) -> None:
        """Multiply the gates into the model's weights: it then computes without them what it did with them."""
        for layer, gate in self._inputs(model):
            _stored_weight(layer).mul_(_spread(gate, layer.in_features))
        for gate in self._of_channels():
            for norm in _token_norms(model):
                norm.weight.mul_(SPEED * gate)
                norm.bias.mul_(SPEED * gate)

    def _inputs(self, model: nn.Module) -> Iterator[tuple[Any, Tensor]]:
        """Each linear layer whose inputs have gates, and these gates."""
        if self.heads:
            yield from zip((block.attn.proj for block in blocks(model)), self.heads, strict=True)
        if self.units:
            yield from zip((block.mlp.fc2 for block in blocks(model)), self.units, strict=True)

    def _of_channels(self) -> list[Tensor]:
        """The gates of the channels, where they have any."""
        return [] if self.channels is None else [self.channels]


class _Gated(nn.Module):
    """A model and its gates, trained as one."""

    def __init__(self, model: nn.Module, gates: Gates) -> None:
        super().__init__()
        self.model, self.gates = model, gates

    def forward(self, images: Tensor) -> Tensor:
        with self.gates.on(self.model):
            return self.model(images)


def learn_gates(
    model: Model,
    data: DataSplits,
    recipe: Recipe | None = None,
    *,
    kinds: Sequence[str] = KINDS,
    penalty: float = PENALTY,
    out: str | Path | None = None,
    device: str | torch.device = "cpu",
    on_epoch: Callable[[Row], None] | None = None,
) -> tuple[Model, Scores]:
    """Train a copy of the model together with gates, on cross-entropy + penalty * sum |factor|, and fold them in.

    The penalty pulls every gate towards 0 and only those whose units the data need hold against it.

    Args:
        model: a VisionTransformer, or a timm ViT or DeiT with plain blocks; it stays as it is.
        recipe: of the training; EPOCHS epochs of the one that suits the data if left out.
        kinds: what has gates, of "heads", "mlp", "channels": those to be cut, since what stays is better left in peace.
        penalty: above 0.
        out: folder from which a stopped training goes on, as in `fit`.

    Returns:
        The trained copy without gates, which computes what it did with them, and the magnitudes of the gates, for
        `structured_prune(model, ..., importance=scores)`, which then cuts these kinds and no other.

    Raises:
        InputError: a model that cannot be cut, no data splits, no kind or an unknown one, a penalty out of range, and
            what `fit` refuses, such as an `out` with gates of other kinds.
    """
    require_vit(model)
    if isinstance(kinds, str) or not kinds:
        raise InputError("kinds", kinds, f"a list of one or more of {', '.join(KINDS)}")
    for kind in kinds:
        require_choice("kinds", kind, KINDS)
    require_penalty("penalty", penalty)
    if not isinstance(data, DataSplits):
        raise InputError("data", data, "the splits that load_data gives", "gates are learned on them")
    trained, data = copy.deepcopy(model), as_trained(model, data)
    note_normalisation(trained, Normalisation(data.mean, data.std))
    gated = _Gated(trained, Gates(trained, kinds))

    def loss(module: Any, batch: Batch) -> Tensor:
        return cross_entropy(module, batch) + penalty * module.gates.norm()

    settings = recipe or Recipe.for_data(data.name, epochs=EPOCHS)
    fit(
        gated,
        data,
        settings,
        out,
        device=device,
        loss=loss,
        identity={"penalty of gates": penalty, "choice of gates": [kind for kind in KINDS if kind in kinds]},
        on_epoch=on_epoch,
        name="gates",
    )
    gated.gates.fold(trained)
    return trained, gated.gates.scores()


def require_penalty(field: str, penalty: float) -> None:
    """Raise an InputError unless the weight of the gates in the loss is above 0."""
    require_float(field, penalty, 0, math.inf, open_low=True, open_high=True)


def _open(count: int) -> Tensor:
    """Gates that change nothing yet."""
    return torch.full((count,), 1 / SPEED)


def _token_norms(model: Any) -> list[nn.LayerNorm]:
    """The LayerNorms that the token passes through on its way to a layer with weights."""
    ends = [getattr(model, name, None) for name in ("norm", "fc_norm")]
    inner = [norm for block in blocks(model) for norm in (block.norm1, block.norm2)]
    return [*inner, *(norm for norm in ends if isinstance(norm, nn.LayerNorm))]


def _scaled_input(gate: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], Tensor]:
    return lambda _, given: given[0] * _spread(gate, given[0].shape[-1])


def _scaled_output(gate: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    return lambda _, given, result: result * (SPEED * gate)


def _spread(gate: Tensor, width: int) -> Tensor:
    """The factor of each gate as often as its unit has features: (units,) -> (width,)."""
    return SPEED * gate.repeat_interleave(width // len(gate))


def _stored_weight(layer: Any) -> Tensor:
    """The parameter behind the layer's weight, which a mask hides."""
    return layer.parametrizations.weight.original if hasattr(layer, "parametrizations") else layer.weight
