"""What a MODEL argument may be: a checkpoint (float or QAT), a packed model, a TOML file, or a timm name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit.errors import InputError, require_known_keys
from vit.files import read_toml

if TYPE_CHECKING:
    from torch import nn

    from quant import PackedModel
    from vit import DataSplits

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Loaded:
    """A model and what it is: "new" (untrained), "float", "qat" or "packed" (then `model` is a PackedModel)."""

    spec: str
    model: Any
    kind: str

    def network(self, quantised: bool = True) -> nn.Module:
        """The torch model; an InputError for a packed one, and for a prepared (QAT) one unless `quantised`."""
        if self.kind == "packed":
            raise InputError("model", self.spec, "a checkpoint, a TOML file or a timm name", "this one is packed")
        if self.kind == "qat" and not quantised:
            raise InputError("model", self.spec, "a float model", "this one is prepared for QAT already")
        network: nn.Module = self.model
        return network

    def prepared(self) -> nn.Module:
        """The torch model that was prepared for QAT; an InputError for any other."""
        if self.kind != "qat":
            raise InputError("model", self.spec, "a checkpoint that tilevit qat wrote", f"this one is {self.kind}")
        return self.network()

    def packed(self) -> PackedModel:
        """The packed model itself."""
        packed: PackedModel = self.model
        return packed


def load_model(spec: str | Mapping[str, Any], data: DataSplits | None = None, seed: int = 0) -> Loaded:
    """The model that `spec` names; one that is not trained yet takes its shape of input and classes from `data`.

    A mapping is what a [model] table holds: fields of ViTConfig, or a timm name with its options.

    Raises:
        InputError: nothing by that name, a damaged file, or a shape that contradicts the data.
    """
    if isinstance(spec, str) and Path(spec).suffix == SUFFIX:
        loaded = _from_file(Path(spec))
    else:
        loaded = Loaded(str(spec), _created(spec, data, seed), "new")
    if data is not None and loaded.kind != "packed":
        _require_fit(loaded.network(), data)
    return loaded


def network_in(file: str) -> nn.Module:
    """The torch model in a checkpoint, float or QAT."""
    return _from_file(Path(file)).network()


def model_table(path: str | Path) -> dict[str, Any]:
    """The [model] table of a TOML file such as `tilevit search --export` writes: fields of ViTConfig."""
    tables = read_toml(path, "model")
    require_known_keys(f"{path}: table", tables, ["model", "recipe", "streaming"])
    table = tables.get("model")
    if not isinstance(table, dict):
        raise InputError("model", str(path), "a TOML file with a [model] table of ViTConfig fields")
    return table


def _from_file(path: Path) -> Loaded:
    from quant import PackedModel, load_qat
    from vit import load_checkpoint
    from vit.tensorfile import kind_of

    if kind_of(path, "model") == "packed model":
        return Loaded(str(path), PackedModel.load(path), "packed")
    checkpoint = load_checkpoint(path)
    if checkpoint.kind == "qat":
        return Loaded(str(path), load_qat(path)[0], "qat")
    return Loaded(str(path), checkpoint.model, "float")


def _created(spec: str | Mapping[str, Any], data: DataSplits | None, seed: int) -> nn.Module:
    import torch

    from vit import create_model

    shape: dict[str, Any] = {}
    if data is not None:
        shape = {"num_classes": data.num_classes, "image_size": data.image_size, "in_channels": data.in_channels}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(spec, str) and Path(spec).suffix == ".toml":
            spec = model_table(spec)
        if isinstance(spec, Mapping):
            return create_model({**shape, **spec})
        return create_model(spec, **shape)


def _require_fit(model: nn.Module, data: DataSplits) -> None:
    from vit.layers import config_of

    try:
        config = config_of(model)
    except InputError:  # a timm model that is no plain ViT takes what create_model gave it
        return
    for name, wanted in (
        ("image_size", data.image_size),
        ("in_channels", data.in_channels),
        ("num_classes", data.num_classes),
    ):
        if getattr(config, name) != wanted:
            raise InputError(f"model {name}", getattr(config, name), f"{wanted}, as in the data {data.name}")
