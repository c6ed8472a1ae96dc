"""The settings of `tilevit run`: one dataclass from which come the flags, the keys of the file, and their help."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fifo_sim.hardware import Hardware
from vit.config import POOLS, STEMS
from vit.errors import InputError, require_choice, require_float, require_int, require_known_keys
from vit.files import read_toml
from vit.recipe import VAL_FRACTION

MACHINES = f"A preset ({', '.join(Hardware.presets())}) or a TOML file."
ATTENTION = ("full", "window", "tile")
SCOPES = ("global", "layer", "erk")
LARGEST = 1_000_000  # of counts and widths: beyond it is a slip of the finger
LARGEST_SIDE = 4096  # pixels
LARGEST_SEED = 2**31 - 1


def _setting(default: Any, group: str, help: str) -> Any:
    return field(default=default, metadata={"group": group, "help": help})


@dataclass(frozen=True)
class RunConfig:
    """Everything `tilevit run` can be told. The defaults are those for the bundled digits (`defaults_for`)."""

    data: str = _setting(
        "digits", "Data", 'Images: "digits" (bundled), "cifar10", or a folder with train/CLASS/* and test/CLASS/*.'
    )
    image_size: int = _setting(0, "Data", "Side the images are resized to, pixels; 0 keeps the data's own.")
    val_fraction: float = _setting(VAL_FRACTION, "Data", "Share of the training images held out for every choice made.")
    seed: int = _setting(0, "Data", "Seed of the split, the search, the training and the augmentation.")
    device: str = _setting("cpu", "Data", 'Where training runs: "cpu", "cuda" or "auto".')

    trials: int = _setting(10, "Search", "Architectures that are trained shortly and compared.")
    search_epochs: int = _setting(6, "Search", "Epochs a candidate is trained.")
    dims: tuple[int, ...] = _setting((32, 48, 64, 96), "Search", "Token widths to choose from.")
    depths: tuple[int, ...] = _setting((2, 3, 4), "Search", "Numbers of blocks to choose from.")
    heads: tuple[int, ...] = _setting((2, 4), "Search", "Numbers of attention heads to choose from.")
    mlp_ratios: tuple[float, ...] = _setting(
        (1.0, 2.0, 4.0), "Search", "MLP widths, as a multiple of dim, to choose from."
    )
    patch_sizes: tuple[int, ...] = _setting((2, 4), "Search", "Patch sizes to choose from, pixels.")
    stems: tuple[str, ...] = _setting(("patch", "conv"), "Search", "Stems to choose from: patch, conv.")
    pools: tuple[str, ...] = _setting(("mean",), "Search", "Poolings to choose from: cls, mean, seq.")

    slack: float = _setting(
        0.01, "Search", "Validation accuracy the winner may give up for lower costs (0.01: a point)."
    )

    epochs: int = _setting(40, "Training", "Epochs the winner is trained.")
    batch_size: int = _setting(64, "Training", "Images a step.")
    lr: float = _setting(2e-3, "Training", "Peak learning rate of AdamW.")
    weight_decay: float = _setting(0.05, "Training", "Weight decay of AdamW.")
    label_smoothing: float = _setting(0.1, "Training", "Label smoothing.")
    mixup: float = _setting(0.0, "Training", "Beta parameter of mixup; 0 switches it off.")
    cutmix: float = _setting(0.0, "Training", "Beta parameter of cutmix; 0 switches it off.")
    drop_path: float = _setting(0.0, "Training", "Stochastic depth rate of the last block.")

    sparsity: float = _setting(0.5, "Pruning", "Share of the weights that are removed, in [0, 1).")
    scope: str = _setting("global", "Pruning", "Where magnitudes are compared: global, layer or erk.")
    finetune_epochs: int = _setting(12, "Pruning", "Epochs of fine-tuning with the masks held.")
    finetune_lr: float = _setting(1e-3, "Pruning", "Peak learning rate of fine-tuning.")

    weights: str = _setting("pot4", "Quantisation", "Weight scheme: pot4, pot6, apot4, apot6, int4, int6 or int8.")
    activations: str = _setting("int8", "Quantisation", "Activation scheme.")
    probabilities: str = _setting("uniform", "Quantisation", "Of attention: uniform, or log2 (0 and powers of two).")
    qat_epochs: int = _setting(16, "Quantisation", "Epochs of quantisation-aware training.")
    qat_lr: float = _setting(5e-4, "Quantisation", "Peak learning rate of quantisation-aware training.")

    hardware: str = _setting("zcu104", "Hardware", MACHINES)
    tile: int = _setting(4, "Hardware", "Tokens a tile.")
    fifo: int = _setting(2, "Hardware", "Depth of the FIFOs between stages, tiles.")
    attention: str = _setting("full", "Hardware", "What a tile attends to: full, window or tile.")

    tiles: tuple[int, ...] = _setting((1, 2, 4, 8), "Sweep", "Tile sizes of the sweep.")
    fifos: tuple[int, ...] = _setting((1, 2, 4, 8), "Sweep", "FIFO depths of the sweep.")
    attentions: tuple[str, ...] = _setting(("full", "window", "tile"), "Sweep", "Attention modes of the sweep.")

    def __post_init__(self) -> None:
        for spec in fields(self):
            object.__setattr__(self, spec.name, _typed(spec, getattr(self, spec.name)))
        if not self.data:
            raise InputError("data", self.data, '"digits", "cifar10" or a folder')
        for name in ("trials", "search_epochs", "epochs", "batch_size", "tile", "fifo"):
            require_int(name, getattr(self, name), 1, LARGEST)
        for name in ("finetune_epochs", "qat_epochs"):
            require_int(name, getattr(self, name), 0, LARGEST)
        require_int("image_size", self.image_size, 0, LARGEST_SIDE)
        require_int("seed", self.seed, 0, LARGEST_SEED)
        require_float("val_fraction", self.val_fraction, 0, 1, open_low=True, open_high=True)
        require_float("sparsity", self.sparsity, 0, 1, open_high=True)
        for name in ("lr", "finetune_lr", "qat_lr"):
            require_float(name, getattr(self, name), 0, 10, open_low=True)
        for name in ("label_smoothing", "drop_path", "slack"):
            require_float(name, getattr(self, name), 0, 1, open_high=True)
        for name in ("weight_decay", "mixup", "cutmix"):
            require_float(name, getattr(self, name), 0, 100)
        for name in ("dims", "depths", "heads", "patch_sizes", "tiles", "fifos"):
            for value in getattr(self, name):
                require_int(name, value, 1, LARGEST)
        for value in self.mlp_ratios:
            require_float("mlp_ratios", value, 0, 64, open_low=True)
        for name, choices in (("stems", STEMS), ("pools", POOLS), ("attentions", ATTENTION)):
            for value in getattr(self, name):
                require_choice(name, value, choices)
        require_choice("attention", self.attention, ATTENTION)
        require_choice("scope", self.scope, SCOPES)
        _check_schemes(self)

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON and TOML values."""
        values = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def to_toml(self) -> str:
        """The settings as a commented TOML file that `--config` reads back."""
        lines, group = ["# Settings of `tilevit run`. Every key is also a flag: search_epochs is --search-epochs."], ""
        for spec in fields(self):
            if spec.metadata["group"] != group:
                group = spec.metadata["group"]
                lines += ["", f"# {group}"]
            lines.append(f"{spec.name} = {json.dumps(getattr(self, spec.name))}  # {spec.metadata['help']}")
        return "\n".join(lines) + "\n"


def defaults_for(data: str) -> RunConfig:
    """The defaults for a data set: those of the class for digits, larger ones for photographs."""
    if data == "digits":
        return RunConfig()
    return RunConfig(
        data=data,
        trials=24,
        search_epochs=8,
        dims=(64, 96, 128, 192),
        depths=(3, 4, 6),
        heads=(2, 4, 6),
        patch_sizes=(4, 8),
        epochs=100,
        batch_size=128,
        lr=1e-3,
        mixup=0.2,
        drop_path=0.1,
        finetune_epochs=30,
        finetune_lr=5e-4,
        qat_epochs=30,
        qat_lr=2e-4,
        tile=8,
        fifo=4,
        tiles=(2, 4, 8, 16, 32),
    )


def holds_steps(file: Path) -> bool:
    """Whether this TOML file has steps in place of settings."""
    return "steps" in read_toml(file, "config")


def resolve(file: Path | None, flags: Mapping[str, Any], *, reduced: bool = False) -> RunConfig:
    """Defaults for the data, overridden by the file, overridden by the flags that were given.

    A [reduced] table in the file holds the settings that are different in reduced form.

    Raises:
        InputError: the file is no TOML, has an unknown or mistyped key, or a value is out of range.
    """
    from_file = read_toml(file, "config") if file else {}
    small = from_file.pop("reduced", None if reduced else {})
    if not isinstance(small, dict):
        raise InputError("reduced", small, "a [reduced] table in the --config file")
    known = [spec.name for spec in fields(RunConfig)]
    require_known_keys(f"{file}: key" if file else "config", [*from_file, *small], known)
    from_file |= small if reduced else {}
    given = {**from_file, **{name: value for name, value in flags.items() if value is not None}}
    data = given.get("data", "digits")
    if not isinstance(data, str):
        raise InputError("data", data, "a string")
    return replace(defaults_for(data), **given)


def _check_schemes(config: RunConfig) -> None:
    from quant.config import PROBABILITIES
    from quant.level_sets import SCHEMES

    require_choice("weights", config.weights, SCHEMES)
    require_choice("activations", config.activations, ("int8", "int6", "int4"))
    require_choice("probabilities", config.probabilities, PROBABILITIES)


def _typed(spec: Field[Any], value: Any) -> Any:
    """`value` as the type of its field; whole numbers are welcome where a float is meant, nothing else is bent."""
    kind = str(spec.type)
    if kind.startswith("tuple["):
        kind = kind[len("tuple[") : -len(", ...]")]
        if not isinstance(value, (list, tuple)) or not value:
            raise InputError(spec.name, value, f"a list of at least one {_TYPE_NAMES[kind]}")
        return tuple(_scalar(spec.name, kind, item) for item in value)
    return _scalar(spec.name, kind, value)


_TYPE_NAMES = {"int": "whole number", "float": "number", "str": "string"}
_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,)}


def _scalar(name: str, kind: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, _TYPES[kind]):
        raise InputError(name, value, f"a {_TYPE_NAMES[kind]}")
    return float(value) if kind == "float" else value  # type: ignore[arg-type]
