"""The packed model: a quantised Vision Transformer as codes, scales and a little float16, in one safetensors file.

Nothing here imports torch: `PackedModel.load(path).predict(images)` needs NumPy and numba alone.

Tensors of the file, for each layer X of `vit.layers.layers_of(config)`:
    X.codes      uint8    packed codes of the weight (out, inner), row by row; a pruned weight is code 0
    X.scale      uint16   upper half of float32 (bfloat16): one an output channel, or one
    X.bias       float16  (out,), where the layer has one
    X.weight     float32  (out, inner), in place of codes and scale where the scheme is "float"
and
    N.weight, N.bias   float16  of each LayerNorm N
    cls_token          float16  (dim,)
    pos_embed.codes    int8     (tokens, dim)     pos_embed.scale  float32 (tokens,)
    input_scales       float32  one for each layer with codes, in the order of the layers
    attention_scales   float32  (blocks, 3): queries, keys, values
The metadata hold config, activations, probabilities (uniform where a file does not say), the scheme of each layer, eps
of the norms, and mean and std of the pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quant.codec import code_levels
from quant.config import ACTIVATIONS, FLOAT, LOG2, PROBABILITIES, UNIFORM
from quant.level_sets import SCHEMES, bits_of, level_set, probability_top
from quant.packing import pack_codes, unpack_codes
from quant.scales import from_bfloat16, to_bfloat16
from vit.config import ViTConfig
from vit.errors import InputError, require_choice, require_float
from vit.layers import LayerInfo, layers_of
from vit.tensorfile import read_tensors, write_tensors

if TYPE_CHECKING:
    from quant.engine import Engine

KIND = "packed model"
F32 = NDArray[np.float32]


@dataclass(frozen=True)
class PackedLayer:
    """A linear layer or convolution.

    Attributes:
        name: its path in VisionTransformer.
        scheme: of the weight, or "float".
        codes: uint8 (out, inner), the codes of the weight; None for "float".
        weight: float32 (out, inner) for "float", else None.
        scale: float32 (out,) or (1,), what one level counts; None for "float".
        bias: float32 (out,); zeros where the layer has none.
        input_scale: what one level of its input counts; None where the input stays float.
        unsigned: whether its input is never negative.
    """

    name: str
    scheme: str
    codes: NDArray[np.uint8] | None
    weight: F32 | None
    scale: F32 | None
    bias: F32
    input_scale: float | None
    unsigned: bool

    @property
    def levels(self) -> NDArray[np.int64] | None:
        """The weight in whole numbers, int64 (out, inner); None for "float"."""
        return None if self.codes is None else level_set(self.scheme).by_code[self.codes]


class PackedModel:
    """A quantised VisionTransformer that predicts on whole numbers.

    Attributes:
        config: its shape.
        metadata: what the file says beside the tensors.
        tensors: the tensors as stored.
        layers: the unpacked layers by name.
    """

    def __init__(self, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any], source: str = "model") -> None:
        """Check everything that will be computed with; `source` names the file in errors.

        Raises:
            InputError: a tensor is missing, foreign, of a wrong type or shape, or holds what cannot be; or the metadata
                contradict the tensors.
        """
        self.tensors, self.metadata, self._source = dict(tensors), dict(metadata), source
        self._read_metadata()
        infos = [info for info in layers_of(self.config) if info.kind != "attention"]
        if list(self.schemes) != [info.name for info in infos]:
            raise self._wrong("schemes", f"one for each of its {len(infos)} layers")
        self._taken: set[str] = set()
        self._read_scales(infos)
        self.layers = {info.name: self._layer(info) for info in infos}
        self._read_floats()
        foreign = set(self.tensors) - self._taken
        if foreign:
            raise self._wrong(min(foreign), "no such tensor in a model of this config")

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            InputError: the place cannot be written.
        """
        write_tensors(path, self.tensors, self.metadata, kind=KIND)

    @classmethod
    def load(cls, path: str | Path) -> PackedModel:
        """The model in `path`; nothing in it is executed.

        Raises:
            InputError: absent, damaged, truncated, or not what it says it is.
        """
        tensors, metadata = read_tensors(path, kind=KIND, field=KIND)
        return cls(tensors, metadata, str(path))

    def predict(self, images: Any, batch_size: int = 4, threads: int | None = None) -> F32:
        """Logits (N, num_classes), float32; `.argmax(1)` of them are the labels.

        Args:
            images: (N, channels, height, width), uint8 pixels (normalised here by the stored mean and deviation), or
                floats that are normalised already.
            batch_size: images a thread computes at a time. A few are fastest: what they need stays in cache.
            threads: how many threads share the images; by default one for each processor at hand. Neither number
                changes the result.

        Raises:
            InputError: images of another shape or type, or not finite.
        """
        return self.engine.predict(images, batch_size, threads)

    @cached_property
    def engine(self) -> Engine:
        """The integer engine on this model's weights."""
        from quant.engine import Engine

        return Engine(self)

    @property
    def probability_top(self) -> int:
        """The whole number that stands for an attention probability of 1; of use where activations are rounded."""
        return probability_top(self.activations, self.probabilities == LOG2)

    def sparsity(self) -> dict[str, float]:
        """Fraction of weights that are exactly 0, by layer, and under "total" over all of them."""
        kept = {n: layer.weight if layer.codes is None else layer.codes for n, layer in self.layers.items()}
        zeros = {name: int((values == 0).sum()) for name, values in kept.items() if values is not None}
        sizes = {name: int(values.size) for name, values in kept.items() if values is not None}
        return {**{n: zeros[n] / sizes[n] for n in zeros}, "total": sum(zeros.values()) / sum(sizes.values())}

    def _read_metadata(self) -> None:
        """Shape, schemes and preprocessing, each checked before anything is sized by it."""
        meta = self.metadata
        for key in ("config", "activations", "schemes", "eps", "mean", "std"):
            if key not in meta:
                raise self._wrong(key, "present in the metadata")
        try:
            self.config = ViTConfig.from_dict(meta["config"])
            self.activations = require_choice("activations", meta["activations"], ACTIVATIONS)
            self.probabilities = require_choice("probabilities", meta.get("probabilities", UNIFORM), PROBABILITIES)
            if self.activations == FLOAT:
                require_choice("probabilities", self.probabilities, (UNIFORM,))
            self.eps = require_float("eps", meta["eps"], 0, 1, open_low=True)
            if self.config.depth > len(self.tensors):  # before anything is done once a block
                raise InputError("depth", self.config.depth, f"at most its {len(self.tensors)} tensors")
            channels = [meta["mean"], meta["std"]]
            if not all(isinstance(c, list) and len(c) == self.config.in_channels for c in channels):
                raise InputError("mean, std", channels, f"{self.config.in_channels} numbers each")
            self.mean = np.array([require_float("mean", v, -1e6, 1e6) for v in meta["mean"]], np.float64)
            self.std = np.array([require_float("std", v, 1e-6, 1e6) for v in meta["std"]], np.float64)
            if not isinstance(meta["schemes"], Mapping):
                raise InputError("schemes", meta["schemes"], "a table from layer to scheme")
            self.schemes: dict[str, str] = {
                str(name): require_choice(f"scheme of {name}", scheme, (*SCHEMES, FLOAT))
                for name, scheme in meta["schemes"].items()
            }
        except (InputError, TypeError, ValueError, OverflowError) as error:
            raise InputError(KIND, self._source, "metadata of a packed model", str(error)) from error

    def _read_scales(self, infos: list[LayerInfo]) -> None:
        """Scales of the activations: one an input, three a block."""
        self._input_scales: dict[str, float] = {}
        self.attention_scales: F32 | None = None
        if self.activations == FLOAT:
            return
        named = [info.name for info in infos if self.schemes[info.name] != FLOAT]
        values = self._take("input_scales", np.float32, (len(named),), positive=True)
        self._input_scales = dict(zip(named, values.tolist(), strict=True))
        self.attention_scales = self._take("attention_scales", np.float32, (self.config.depth, 3), positive=True)

    def _layer(self, info: LayerInfo) -> PackedLayer:
        name, scheme, shape = info.name, self.schemes[info.name], (info.cols, info.inner)
        bias = np.zeros(info.cols, np.float32)
        if info.params > info.cols * info.inner:
            bias = self._take(f"{name}.bias", np.float16, (info.cols,)).astype(np.float32)
        unsigned = name.startswith("stem.convs.") and name != "stem.convs.0"
        if scheme == FLOAT:
            weight = self._take(f"{name}.weight", np.float32, shape)
            return PackedLayer(name, scheme, None, weight, None, bias, None, unsigned)
        packed = self._take(f"{name}.codes", np.uint8, None)
        try:
            codes = unpack_codes(packed, bits_of(scheme), info.cols * info.inner)
            code_levels(codes, scheme)  # refuses codes that stand for no level
        except InputError as error:
            raise self._wrong(f"{name}.codes", f"{scheme} codes of a weight {shape}", str(error)) from error
        per_layer = getattr(self.tensors.get(f"{name}.scale"), "shape", ()) == (1,)
        bits = self._take(f"{name}.scale", np.uint16, (1 if per_layer else info.cols,))
        scale = from_bfloat16(bits)
        self._check_values(f"{name}.scale", scale, positive=True)
        return PackedLayer(
            name, scheme, codes.reshape(shape), None, scale, bias, self._input_scales.get(name), unsigned
        )

    def _read_floats(self) -> None:
        """Norms, class token and positions."""
        dim, tokens = self.config.dim, self.config.tokens
        blocks = [f"blocks.{i}.{norm}" for i in range(self.config.depth) for norm in ("norm1", "norm2")]
        self.norms: dict[str, tuple[F32, F32]] = {}
        for name in [*blocks, "norm"]:
            pair = [self._take(f"{name}.{part}", np.float16, (dim,)).astype(np.float32) for part in ("weight", "bias")]
            self.norms[name] = pair[0], pair[1]
        self.cls_token: F32 | None = None
        if self.config.pool == "cls":
            self.cls_token = self._take("cls_token", np.float16, (dim,)).astype(np.float32)
        codes = self._take("pos_embed.codes", np.int8, (tokens, dim))
        scale = self._take("pos_embed.scale", np.float32, (tokens,), positive=True)
        self.pos_embed: F32 = codes.astype(np.float32) * scale[:, None]

    def _take(self, name: str, dtype: Any, shape: tuple[int, ...] | None, positive: bool = False) -> NDArray[Any]:
        if name not in self.tensors:
            raise self._wrong(name, "present")
        found = self.tensors[name]
        if found.dtype != dtype or (shape is not None and found.shape != shape) or (shape is None and found.ndim != 1):
            wanted = f"{np.dtype(dtype).name} of shape {'(n,)' if shape is None else shape}"
            raise self._wrong(name, wanted, f"it is {found.dtype.name} of shape {found.shape}")
        if found.dtype.kind == "f":
            self._check_values(name, found, positive)
        self._taken.add(name)
        return found

    def _check_values(self, name: str, values: NDArray[Any], positive: bool) -> None:
        if not np.isfinite(values).all():
            raise self._wrong(name, "finite numbers")
        if positive and not (values > 0).all():
            raise self._wrong(name, "positive numbers", f"one is {float(values.min()):g}")

    def _wrong(self, name: str, allowed: str, hint: str = "") -> InputError:
        return InputError(KIND, self._source, f"{name}: {allowed}", hint)


def layer_tensors(
    name: str, scheme: str, codes: NDArray[np.uint8], scale: F32, bias: F32 | None
) -> dict[str, NDArray[Any]]:
    """The stored tensors of a quantised layer, from its unpacked codes (out, inner)."""
    tensors: dict[str, NDArray[Any]] = {
        f"{name}.codes": pack_codes(codes, bits_of(scheme)),
        f"{name}.scale": to_bfloat16(scale),
    }
    if bias is not None:
        tensors[f"{name}.bias"] = bias.astype(np.float16)
    return tensors
