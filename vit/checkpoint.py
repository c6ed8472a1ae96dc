"""Checkpoints: one safetensors file with the weights, the masks and, as JSON, the shape. No pickle is ever read.

Tensors carry plain names, whatever wraps the layer: `X.weight` is the masked weight and `X.weight_mask` its mask, so a
file of a pruned model reads like any other. What a quantiser adds to the model is kept beside them for it to take back.
A trained model's file also says by what mean and deviation its images are normalised.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vit.errors import InputError
from vit.masks import masks, prunable_layers, set_mask
from vit.preprocessing import Normalisation, normalisation_of, note_normalisation
from vit.tensorfile import read_tensors, write_tensors
from vit.zoo import create_model, model_spec

FLOAT = "float"
ORIGINAL = ".parametrizations.weight.original"
MASK_BUFFER = re.compile(r"(.+)\.parametrizations\.weight\.\d+\.mask")
MASK = ".weight_mask"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        model: the float model in evaluation mode, with its weights and masks.
        extra: the JSON values saved with it.
        kind: "float", or what the saver called it.
        leftover: tensors that the float model has no place for, by name; empty for kind "float".
    """

    model: nn.Module
    extra: dict[str, Any] = field(default_factory=dict)
    kind: str = FLOAT
    leftover: dict[str, Tensor] = field(default_factory=dict)


def save_checkpoint(
    path: str | Path, model: nn.Module, *, extra: Mapping[str, Any] | None = None, kind: str = FLOAT
) -> None:
    """Write the model to `path`, whole or not at all.

    Args:
        model: a VisionTransformer or a timm model, pruned or not; or one of these prepared by a quantiser.
        extra: JSON values to keep with it, such as an accuracy or the state of whoever prepared the model.
        kind: "float" for a plain model. With any other word the model may have tensors beyond those of its float
            form; they come back as `Checkpoint.leftover`.

    Raises:
        InputError: the place cannot be written, or the model does not have the shape that its description says.
    """
    spec, state, own = model_spec(model), canonical_state(model), normalisation_of(model)
    with torch.device("meta"):
        expected = create_model(spec).state_dict()
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    held = {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith(MASK)}
    wrong = _difference(wanted, held, exact=kind == FLOAT)
    if wrong:
        made = "; if timm itself made it with options, make it by create_model({'timm': name, option: value})"
        hint = wrong + (made if "timm" in spec else "")
        raise InputError("model", type(model).__name__, "a model of the shape that its config says", hint)
    arrays = {name: tensor.cpu().numpy() for name, tensor in state.items()}
    metadata: dict[str, Any] = {"kind": kind, "model": spec, "extra": dict(extra or {})}
    if own is not None:
        metadata["normalisation"] = asdict(own)
    write_tensors(path, arrays, metadata, kind="checkpoint")


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """The model in `path`, on `device`, in evaluation mode.

    Raises:
        InputError: absent, damaged, foreign, or tensors that do not fit the shape it declares.
    """
    arrays, metadata = read_tensors(path, kind="checkpoint", field="checkpoint")
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    try:
        kind, extra, spec = str(metadata["kind"]), dict(metadata["extra"]), dict(metadata["model"])
        with torch.random.fork_rng(devices=[]):  # the fresh weights are thrown away: draw nothing from the caller's
            model = create_model(spec)
        if "normalisation" in metadata:
            own = {name: tuple(float(value) for value in metadata["normalisation"][name]) for name in ("mean", "std")}
            note_normalisation(model, Normalisation(**own))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("checkpoint", str(path), "a checkpoint of a known model", str(error)) from error
    kept = {name.removesuffix(MASK): state.pop(name) for name in list(state) if name.endswith(MASK)}
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wrong = _difference(wanted, {name: tuple(t.shape) for name, t in state.items()}, exact=kind == FLOAT)
    if wrong:
        raise InputError("checkpoint", str(path), "tensors of the shape that its config says", wrong)
    model.load_state_dict({name: state.pop(name) for name in wanted})
    layers = prunable_layers(model)
    for name, mask in kept.items():
        if name not in layers or layers[name].weight.shape != mask.shape:
            raise InputError("checkpoint", str(path), "masks of its layers", f"{name} has none of shape {mask.shape}")
        set_mask(layers[name], mask)
    return Checkpoint(model.to(device).eval(), extra, kind, state)


@torch.no_grad()
def canonical_state(model: nn.Module) -> dict[str, Tensor]:
    """Tensors of the model by plain name, detached: masked weights as `X.weight`, masks as `X.weight_mask`.

    Tensors of other parametrizations and added modules keep the names they have in `model.state_dict()`.
    """
    state = {name.replace(ORIGINAL, ".weight"): tensor.detach() for name, tensor in model.state_dict().items()}
    found = masks(model)
    for name in [name for name in state if (match := MASK_BUFFER.fullmatch(name)) and match[1] in found]:
        del state[name]
    for layer, mask in found.items():
        state[f"{layer}.weight"] = state[f"{layer}.weight"] * mask
        state[f"{layer}{MASK}"] = mask
    return state


def _difference(wanted: Mapping[str, tuple[int, ...]], held: Mapping[str, tuple[int, ...]], *, exact: bool) -> str:
    """The first way in which the held shapes are not the wanted ones, or ''. Unless `exact`, more may be held."""
    for name, shape in wanted.items():
        if name not in held:
            return f"{name} is missing"
        if held[name] != shape:
            return f"{name} has shape {list(held[name])}, not {list(shape)}"
    surplus = [name for name in held if name not in wanted] if exact else []
    return f"{surplus[0]} has no place in it" if surplus else ""
