"""The steps that single commands take and that a file of steps strings together, each a function of a `Place`.

Their keyword arguments are the options of the command and the keys of a step in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fifo_sim import streaming
from prune import learn_gates, magnitude_prune, nm_prune, structured_prune
from prune import sparsity as measured_sparsity
from prune.anatomy import blocks, dim_of, heads_of
from prune.gates import require_penalty
from quant import QuantConfig, convert, prepare_qat, save_qat
from quant import ptq as quantised_after
from tilevit.console import progress, say
from tilevit.metrics import accuracy_of, changes, conditions, measure, packed_accuracy
from tilevit.mixed_precision import mixture
from tilevit.models import load_model
from tilevit.steps_checks import PROFILE_SPLITS, SPLITS, nm_of, require_one_way
from tilevit.training import (
    AFTER_PRUNING,
    AFTER_QUANTISING,
    Place,
    retraining_table,
    trained,
    training_recipe,
)
from vit import distill as distilled
from vit import fit, resolve_device
from vit.errors import InputError, did_you_mean, require_choice, require_int
from vit.files import write_text
from vit.masks import prunable_layers
from vit.preprocessing import as_trained
from vit.teacher import take_pretrained

Spec = str | Mapping[str, Any]
RecipeTable = Path | Mapping[str, Any]
Result = dict[str, Any]

CALIBRATION_IMAGES = 256
GATE_EPOCHS, GATE_PENALTY = 10, 1e-2


def train(
    at: Place,
    model: Spec,
    *,
    pretrained: bool = False,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    recipe: RecipeTable | None = None,
) -> Result:
    """Train a model from what it is: fresh, or a checkpoint to go on from.

    With `pretrained` a fresh timm model starts from timm's weights; where they cannot be had, that is said and it
    starts from nothing. Where the [streaming] table of a TOML file restricts attention, so it is in the training.
    """
    settings = training_recipe(at, recipe, epochs=epochs, batch_size=batch_size, lr=lr)
    loaded = load_model(model, at.data, at.seed)
    network = loaded.network(quantised=False)
    had: Result = {}
    if pretrained:
        if loaded.kind != "new":
            raise InputError("pretrained", True, "absent for a checkpoint, which has its weights", loaded.spec)
        had = {"pretrained": _took_pretrained(network, loaded.spec, at)}
    if loaded.restricted:
        network = streaming(network, **loaded.streaming)
        had |= {"attention": loaded.streaming["attention"]}
        say(
            f"attention {had['attention']}, as [streaming] in {loaded.spec} has it; the checkpoint holds the weights "
            "alone: `tilevit sweep CHECKPOINT --data DATA` tells its accuracy with each attention"
        )
    method = partial(fit, identity={"attention": dict(loaded.streaming) if loaded.restricted else None})
    return trained(network, settings, at, train=method) | had


def distill(
    at: Place,
    model: Spec,
    *,
    teacher: str,
    temp: float = 4.0,
    lam_kd: float = 0.7,
    lam_f: float = 0.2,
    lam_ce: float = 0.1,
    hard: bool = False,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    recipe: RecipeTable | None = None,
) -> Result:
    """Train a student to answer like a teacher (`vit.distill`)."""
    student = _network(at, model)
    method = partial(distilled, teacher=teacher, temp=temp, lam_kd=lam_kd, lam_f=lam_f, lam_ce=lam_ce, hard=hard)
    settings = training_recipe(at, recipe, epochs=epochs, batch_size=batch_size, lr=lr)
    return trained(student, settings, at, train=method)


def prune(
    at: Place,
    model: Spec,
    *,
    sparsity: float | None = None,
    scope: str = "global",
    nm: str | None = None,
    heads: float = 0.0,
    mlp: float = 0.0,
    channels: float = 0.0,
    round_to: int = 8,
    importance: str = "magnitude",
    gate_epochs: int = GATE_EPOCHS,
    gate_penalty: float = GATE_PENALTY,
    epochs: int | None = None,
    lr: float | None = None,
    recipe: RecipeTable | None = None,
) -> Result:
    """Mask weights (`sparsity` or `nm`) or cut units out, then train what is left for `epochs`."""
    shares = {"heads": heads, "mlp": mlp, "channels": channels}
    require_one_way(sparsity, nm, shares, importance)
    network = _network(at, model)
    removed: dict[str, float] = {}
    if sparsity is not None:
        network = magnitude_prune(network, sparsity, scope)
        if measured_sparsity(network)["total"] == 1:
            raise InputError("sparsity", sparsity, "a share that leaves a weight of this model")
    elif nm is not None:
        network = nm_prune(network, *nm_of(nm))
    else:
        scores: Any = importance
        if importance == "gate":
            require_penalty("gate_penalty", gate_penalty)
            _cut(network, shares, round_to, "magnitude", at)  # refused now rather than after the training
            name = Path(model).stem if isinstance(model, str) else "model"
            kinds = [kind for kind, share in shares.items() if share]
            network, scores = _gated(network, name, kinds, at, gate_epochs, gate_penalty, lr)
        network, removed = _cut(network, shares, round_to, scores, at)
    return _retrained(network, at, retraining_table(recipe, epochs, lr, AFTER_PRUNING)) | removed


def qat(
    at: Place,
    model: Spec,
    *,
    weights: str | dict[str, str] = "pot4",
    activations: str = "int8",
    probabilities: str = "uniform",
    skip: list[str] | None = None,
    budget_kib: float | None = None,
    budget_nj: float | None = None,
    schemes: list[str] | None = None,
    hardware: str | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    recipe: RecipeTable | None = None,
) -> Result:
    """Quantisation-aware training, then the packed model of the integer engine, beside the checkpoint.

    With a budget, of the weights' codes or of energy on `hardware`, the scheme of each layer is chosen for it out of
    `schemes`, in place of `weights`; sensitivity.csv and schemes.toml beside the checkpoint say how.
    """
    config = QuantConfig(weights=weights, activations=activations, probabilities=probabilities, skip=tuple(skip or ()))
    network = _network(at, model)
    layers = list(prunable_layers(network))
    for pattern in config.skip:
        if not any(QuantConfig(skip=(pattern,)).scheme_of(layer) == "float" for layer in layers):
            raise InputError("skip", pattern, "a layer of this model or a pattern", did_you_mean(pattern, layers))
    data = as_trained(network, at.data)
    images = data.train.take(torch.arange(min(CALIBRATION_IMAGES, len(data.train)))).floats()
    mixed = mixture(
        network, images, config, budget_kib=budget_kib, budget_nj=budget_nj, schemes=schemes, hardware=hardware
    )
    if mixed is not None:
        config = replace(config, weights=mixed.schemes)
    prepared = prepare_qat(network, config, calibration=images)
    result = _retrained(prepared, at, retraining_table(recipe, epochs, lr, AFTER_QUANTISING), save=save_qat)
    packed, file = convert(prepared, mean=data.mean, std=data.std), packed_file(at)
    packed.save(file)
    result |= {"packed": str(file), "packed_bytes": file.stat().st_size}
    report, table = (beside(at, name) for name in ("schemes.toml", "sensitivity.csv"))
    if mixed is None:
        report.unlink(missing_ok=True)
        table.unlink(missing_ok=True)
    else:
        write_text(report, mixed.to_toml(activations))
        write_text(table, mixed.to_csv())
        result |= {"schemes": mixed.schemes, f"spent_{mixed.unit}": mixed.spent}
    result["packed_val_accuracy"], _ = packed_accuracy(packed, at.data.val)
    return result


def ptq(at: Place, model: Spec, *, method: str = "int8-dynamic", calibration_images: int = 128) -> Result:
    """Quantise after training, through onnxruntime, into `out`."""
    network = _network(at, model)
    return quantised_after(network, method, at.data, at.out, calibration_images=calibration_images).to_dict()


def evaluate(at: Place, *, models: list[str], split: str = "test") -> Result:
    """Accuracy of each model on a split; a packed one runs on the integer engine."""
    require_choice("split", split, SPLITS)
    images = getattr(at.data, split)
    accuracy = {}
    for spec in models:
        loaded = load_model(spec, at.data, at.seed)
        if loaded.kind == "new":
            raise InputError("model", spec, "a checkpoint, a packed model or an ONNX file", "this one is not trained")
        accuracy[Path(spec).stem] = accuracy_of(loaded, images)
    return {"split": split, "images": len(images), "accuracy": accuracy}


def profile(
    at: Place,
    *,
    models: list[str],
    compare: str | None = None,
    split: str = "val",
    hardware: str | None = None,
    batch: int = 16,
    rounds: int = 20,
) -> Result:
    """Measurements of models side by side, and their change against the baseline `compare`."""
    require_choice("split", split, PROFILE_SPLITS)
    require_int("batch", batch)
    specs = [*([] if compare is None else [compare]), *models]
    loaded = {Path(spec).stem: load_model(spec, at.data, at.seed) for spec in specs}
    if len(loaded) < len(specs):
        raise InputError("models", [Path(spec).stem for spec in specs], "each name once")
    images = getattr(at.data, split)
    place = resolve_device(at.device)
    rows = measure(loaded, images, hardware=hardware, batch_size=batch, rounds=rounds, device=place)
    about = f"{len(images):,} {'validation' if split == 'val' else 'test'} images of {at.data.name}"
    told: Result = {"models": rows, "conditions": conditions(rows, about)}
    if compare is not None:
        told |= {"baseline": Path(compare).stem, "change_percent": changes(rows, Path(compare).stem)}
    return told


def beside(at: Place, name: str) -> Path:
    """A file beside the checkpoint: of this name beside model.safetensors, else X_name beside X.safetensors."""
    stem = at.latest.stem
    return at.latest.with_name(name if stem == "model" else f"{stem}_{name}")


def packed_file(at: Place) -> Path:
    """Where `qat` leaves the packed model."""
    return beside(at, "packed.safetensors")


def _network(at: Place, model: Spec) -> nn.Module:
    """The float network to work on; of one that a search chose for restricted attention it is said that it has all."""
    loaded = load_model(model, at.data, at.seed)
    if loaded.restricted:
        say(f"full attention: what [streaming] in {loaded.spec} says of it only `tilevit train` heeds")
    return loaded.network(quantised=False)


def _took_pretrained(network: nn.Module, spec: str, at: Place) -> bool:
    """Give a fresh model timm's weights, where they can be had; a training that began without them goes on without."""
    without = at.out / f"{at.name}_without_pretrained.txt"
    if at.state.exists() and without.exists() and not at.fresh:
        return False
    say(f"{spec}: asking the model hub for timm's weights, a minute where there is no network")
    reason = take_pretrained(network)
    if reason:
        say(f"{spec}: no pretrained weights, it is trained from nothing: {reason}")
        write_text(without, f"{reason}\n")
    else:
        without.unlink(missing_ok=True)
    return not reason


def _retrained(network: nn.Module, at: Place, table: Mapping[str, Any], **how: Any) -> Result:
    """Train on what was made smaller by the recipe in the table, or save it as it is where that has no epochs."""
    return trained(network, training_recipe(at, table) if table["epochs"] else None, at, **how)


def _gated(
    network: nn.Module, name: str, kinds: list[str], at: Place, epochs: int, penalty: float, lr: float | None
) -> tuple[nn.Module, Any]:
    """Learn gates in a folder of their own, going on where that was stopped; other cuts of these kinds take them there.

    A folder's name says all that two cuts may differ in.
    """
    recipe = training_recipe(at, AFTER_PRUNING, epochs=epochs, lr=lr)
    folder = at.out / f"{name}_gates_{'_'.join(kinds)}_{epochs}_{penalty:g}_{recipe.lr:g}"
    if at.fresh:
        (folder / "gates_state.safetensors").unlink(missing_ok=True)
    with progress("gates", epochs) as tick:
        network, scores = learn_gates(
            network,
            at.data,
            recipe,
            kinds=kinds,
            penalty=penalty,
            out=folder,
            device=at.device,
            on_epoch=lambda row: tick(f"validation {row['val_accuracy']:.3f}"),
        )
    return network.to("cpu"), scores


def _cut(
    network: nn.Module, shares: dict[str, float], round_to: int, importance: Any, at: Place
) -> tuple[nn.Module, dict[str, float]]:
    """The smaller model, and the share of each kind that was removed, which rounding moves from what was asked.

    Raises:
        InputError: a share that would leave less than one head a block, or less than `round_to` units or channels; or
            one so small that rounding takes nothing.
    """
    smaller = structured_prune(network, **shares, round_to=round_to, importance=importance, data=at.data)
    before, after = _widths(network), _widths(smaller)
    removed = {name: 1 - sum(after[name]) / sum(before[name]) for name in shares}
    for name, share in shares.items():
        if name == "heads":
            rounding, why, little = 0.5, "every block keeps one", f"it has {sum(before[name])}"
        else:
            rounding, why = 0.5 * round_to * len(before[name]), f"--round-to {round_to} keeps that many"
            little = f"--round-to {round_to} keeps all"
        if (share - removed[name]) * sum(before[name]) > rounding + 1e-6:
            raise InputError(name, share, f"at most {removed[name]:.4g} for this model", why)
        if share and not removed[name]:
            raise InputError(name, share, "0, or a share that takes something of this model", little)
    return smaller, {f"{name}_removed": share for name, share in removed.items()}


def _widths(network: nn.Module) -> dict[str, list[int]]:
    """Heads and MLP units of each block, and channels of a token."""
    parts = blocks(network)
    return {
        "heads": [heads_of(block) for block in parts],
        "mlp": [block.mlp.fc1.out_features for block in parts],
        "channels": [dim_of(network)],
    }
