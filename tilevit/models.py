"""What a MODEL argument may be: a checkpoint (float or QAT), a packed model, a TOML file, or a timm name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilevit.console import say
from tilevit.model_file import model_table, quantisation_of, streaming_table
from vit.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from quant import PackedModel, QuantConfig
    from vit import DataSplits

SUFFIX, ONNX = ".safetensors", ".onnx"


@dataclass(frozen=True)
class Loaded:
    """A model and what it is: "new" (untrained), "float" or "qat" (a torch model), "packed" (then `model` is a
    PackedModel) or "onnx" (a quant.OnnxFile).

    `streaming` and `quantisation` are what its file says of tile, fifo and attention, and of weights and activations,
    where it is a TOML file.
    """

    spec: str
    model: Any
    kind: str
    streaming: Mapping[str, Any] = field(default_factory=dict)
    quantisation: QuantConfig | None = None

    @property
    def restricted(self) -> bool:
        """Whether its file says that its tokens attend to a part of the image only."""
        return self.streaming.get("attention", "full") != "full"

    def network(self, quantised: bool = True) -> nn.Module:
        """The torch model; an InputError for a packed or ONNX one, and for a prepared (QAT) one unless `quantised`."""
        if self.kind in ("packed", "onnx"):
            hint = "this one is packed" if self.kind == "packed" else "an ONNX file can be evaluated alone"
            raise InputError("model", self.spec, "a checkpoint, a TOML file or a timm name", hint)
        if self.kind == "qat" and not quantised:
            raise InputError("model", self.spec, "a float model", "this one is prepared for QAT already")
        network: nn.Module = self.model
        return network

    def counted(self) -> nn.Module:
        """A torch model with this one's layers, weights and bits: itself, or what stands for one that is not torch's.

        That is a packed one, or one in a TOML file that says how it is quantised.
        """
        if self.kind == "packed":
            return packed_network(self.packed())
        if self.quantisation is None:
            return self.network()
        from quant import prepare_qat

        return prepare_qat(self.network(), self.quantisation)

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
    elif isinstance(spec, str) and Path(spec).suffix == ONNX:
        from quant import OnnxFile

        loaded = Loaded(spec, OnnxFile(spec), "onnx")
    else:
        told: dict[str, Any] = {}
        if isinstance(spec, str) and Path(spec).suffix == ".toml":
            told = {"streaming": streaming_table(spec), "quantisation": quantisation_of(spec)}
        loaded = Loaded(str(spec), _created(spec, data, seed), "new", **told)
    if data is not None:
        _require_fit(loaded, data)
    return loaded


def data_as_trained(loaded: Loaded, data: str, val_fraction: float, seed: int) -> DataSplits:
    """The data as the model takes them: of its size, and normalised as it was trained; what differs is said.

    Raises:
        InputError: no such data, or other channels or classes than the model's.
    """
    from vit import load_data
    from vit.preprocessing import Normalisation, image_size_of, normalisation_of

    splits = load_data(data, val_fraction=val_fraction, seed=seed)
    onnx = loaded.kind == "onnx"
    size, given = loaded.model.image_size if onnx else image_size_of(loaded.model), splits.image_size
    if size not in (None, given):
        splits = load_data(data, image_size=size, val_fraction=val_fraction, seed=seed)
    _require_fit(loaded, splits)
    if splits.image_size != given:
        say(f"{loaded.spec} takes images of {size}x{size}: those of {data}, {given}x{given}, are resized")
    if loaded.kind == "packed":
        packed = loaded.packed()
        own: Normalisation | None = Normalisation(tuple(packed.mean.tolist()), tuple(packed.std.tolist()))
    else:
        own = normalisation_of(loaded.model)
    if own is None:
        say(f"{loaded.spec} does not say how its images were normalised: by mean and deviation of {data}")
        return splits
    if own != Normalisation(splits.mean, splits.std):
        say(f"images are normalised as {loaded.spec} was trained ({own}), not by this part of {data}")
    return splits.normalised_by(own.mean, own.std)


def packed_network(packed: PackedModel) -> nn.Module:
    """A VisionTransformer with the levels of the packed weights, in whole numbers, as weights, and their bits.

    Its parameters, MACs and zeros are the packed model's, and it is laid out on a machine as that is; it does not
    predict what that predicts.
    """
    import torch

    from quant.config import FLOAT
    from quant.level_sets import bits_of
    from vit import VisionTransformer

    network: nn.Module = VisionTransformer(packed.config).eval()
    for name, layer in packed.layers.items():
        module: Any = network.get_submodule(name)
        values = layer.weight if layer.levels is None else layer.levels
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(values).view_as(module.weight))
        module.weight_scheme = layer.scheme
        if layer.scheme != FLOAT:
            module.weight_bits = bits_of(layer.scheme)
        if layer.input_scale is not None:
            module.activation_bits = bits_of(packed.activations)
    return network


def predict_file(file: str, shape: tuple[int, int, int], threads: int) -> None:
    """One image by the model in a file of any kind, for `vit.process_memory`; a packed one needs no torch."""
    from vit.fresh_process import predict_one

    loaded = _from_file(Path(file))
    if loaded.kind != "packed":
        predict_one(loaded.network(), shape, threads)
        return
    import numpy as np

    loaded.packed().predict(np.zeros((1, *shape), np.float32), threads=threads)


def _from_file(path: Path) -> Loaded:
    from vit.tensorfile import kind_of

    if kind_of(path, "model") == "packed model":
        from quant import PackedModel

        return Loaded(str(path), PackedModel.load(path), "packed")
    from quant import load_qat
    from vit import load_checkpoint

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


def _require_fit(loaded: Loaded, data: DataSplits) -> None:
    """Raise an InputError where a model is not for the data's size, channels and classes.

    A convolutional hybrid such as MobileViT would take another size too, and tell worse what it was not trained on.
    """
    from vit.layers import config_of
    from vit.zoo import model_spec

    try:
        # a packed model has a config too, and an ONNX file says the same of itself
        shape = vars(loaded.model) if loaded.kind == "onnx" else config_of(loaded.model).to_dict()
    except InputError:  # a timm model that is no plain ViT
        shape = model_spec(loaded.model)
    for name, wanted in (
        ("image_size", data.image_size),
        ("in_channels", data.in_channels),
        ("num_classes", data.num_classes),
    ):
        if shape[name] != wanted:
            raise InputError(f"model {name}", shape[name], f"{wanted}, as in the data {data.name}")
