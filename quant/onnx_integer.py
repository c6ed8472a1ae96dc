"""The ONNX form of a packed model: whole-number arithmetic, step for step what `quant.engine` computes.

The file is self-contained. Weights are the levels as uint8 around 128 (`X.levels`): products of uint8 by uint8 are the
only ones that onnxruntime sums exactly on every processor; uint8 by int8 saturates on x86 without VNNI. LayerNorm,
softmax, GELU and rounding are functions of the file's own (`quant.onnx_functions`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from quant.config import LOG2
from quant.level_sets import activation_range
from quant.onnx_builder import Builder
from quant.onnx_functions import DOMAIN, definitions
from quant.packed import PackedLayer, PackedModel

_MIDDLE = 128  # the uint8 that stands for 0
_LARGEST_SUM = 2**31


def integer_model(packed: PackedModel, batch: int | None = None) -> ModelProto:
    """The ONNX model whose logits on normalised images are those of `packed.predict`, to the bit.

    Args:
        batch: number of images it takes; None is any number.
    """
    return _IntegerBuilder(packed).model(batch)


class _IntegerBuilder(Builder):
    """Products by MatMulInteger, or in float64 where an operand is float or the sums are too large."""

    domain = DOMAIN

    def __init__(self, packed: PackedModel) -> None:
        super().__init__(packed)
        self.functions = definitions()

    def linear(self, name: str, x: str) -> str:
        """Whole numbers first, then one scale and one bias."""
        layer = self.packed.layers[name]
        scale = layer.scale
        if layer.levels is None:
            assert layer.weight is not None
            sums = self.product(x, self.constant(f"{name}.weight", layer.weight.T))
        elif layer.input_scale is None:
            sums = self.product(x, self.constant(f"{name}.levels", _smallest(layer.levels.T)))
        else:
            sums = self._whole_linear(layer, x)
            scale = np.float32(layer.input_scale) * scale  # type: ignore[operator]  # a layer with levels has one
        if scale is not None:
            sums = self._scaled(sums, name, scale)
        return self.op("Add", sums, self._half(f"{name}.bias", layer.bias))

    def attend(self, i: int, q: str, k: str, v: str) -> str:
        name, width, scales = f"blocks.{i}.attn", self.config.head_width, self.packed.attention_scales
        if scales is None:
            scale = self.constant(f"{name}.scale", np.float32(width**-0.5))
            return self.product(self.softmax(self.op("Mul", self.product(q, k), scale)), v)
        low, high = activation_range(self.packed.activations, False)
        q, k, v = (
            self._codes(x, f"{name}.{part}.scale", scale, low, high, _MIDDLE)
            for x, part, scale in zip((q, k, v), ("query", "key", "value"), scales[i], strict=True)
        )
        wide, top = scales[i].astype(np.float64), self.packed.probability_top
        score_scale = np.float32(wide[0] * wide[1] * width**-0.5)
        scores = self._scaled(self._whole_product(q, k, _MIDDLE, _MIDDLE), f"{name}.scores", score_scale)
        probabilities = self.op("Mul", self.softmax(scores), self.constant("top", np.float32(top)))
        if self.packed.probabilities == LOG2:
            sums = self.product(self._power(probabilities, top), self._centred(v, _MIDDLE))
        else:
            codes = self._codes(probabilities, "one", np.float32(1), 0, top, 0)
            sums = self._whole_product(codes, v, 0, _MIDDLE)
        return self._scaled(sums, f"{name}.context", scales[i][2] / np.float32(top))

    def norm(self, name: str, x: str) -> str:
        weight, bias = self.packed.norms[name]
        eps = self.constant("eps", np.float64(self.packed.eps))
        values = self._half(f"{name}.weight", weight), self._half(f"{name}.bias", bias)
        return self.op("LayerNorm", x, *values, eps, domain=DOMAIN)

    def gelu(self, x: str) -> str:
        return self.op("Gelu", x, domain=DOMAIN)

    def softmax(self, x: str) -> str:
        return self.op("Softmax", x, domain=DOMAIN)

    def mean(self, tokens: str) -> str:
        wide = self._cast(tokens, TensorProto.DOUBLE)
        return self._cast(self.op("ReduceMean", wide, self.shape(1), keepdims=0), TensorProto.FLOAT)

    def product(self, a: str, b: str) -> str:
        """a @ b in float64, rounded to float32 once."""
        wide = [self._cast(part, TensorProto.DOUBLE) for part in (a, b)]
        return self._cast(self.op("MatMul", *wide), TensorProto.FLOAT)

    def _whole_linear(self, layer: PackedLayer, x: str) -> str:
        assert layer.levels is not None
        low, high = activation_range(self.packed.activations, layer.unsigned)
        zero, largest = 0 if layer.unsigned else _MIDDLE, int(np.abs(layer.levels).max(initial=1))
        codes = self._codes(x, f"{layer.name}.input_scale", np.float32(layer.input_scale), low, high, zero)
        if largest > _MIDDLE or max(-low, high) * largest * layer.levels.shape[1] >= _LARGEST_SUM:
            whole = self._centred(codes, zero)
            return self.product(whole, self.constant(f"{layer.name}.levels", _smallest(layer.levels.T)))
        levels = self.constant(f"{layer.name}.levels", (layer.levels.T + _MIDDLE).astype(np.uint8))
        return self._whole_product(codes, levels, zero, _MIDDLE)

    def _codes(self, x: str, name: str, scale: np.float32, low: int, high: int, zero: int) -> str:
        """x / scale rounded to whole numbers from low to high, as uint8 with `zero` for 0."""
        bounds = [self.constant(f"whole_{value}", np.float32(value)) for value in (low, high, zero)]
        return self.op("Codes", x, self.constant(name, scale), *bounds, domain=DOMAIN)

    def _power(self, x: str, top: int) -> str:
        """The nearest of 0, 1, 2, 4 ... top, float32: the larger of two that are as near."""
        powers = np.array([0, *(2**k for k in range(top.bit_length()))], np.float32)
        midpoints = self.constant("power_midpoints", (powers[1:] + powers[:-1]) / 2)
        return self.op("Power", x, midpoints, self.constant("powers", powers), domain=DOMAIN)

    def _centred(self, codes: str, zero: int) -> str:
        """The whole numbers of uint8 codes, float32."""
        return self.op("Sub", self._cast(codes, TensorProto.FLOAT), self.constant(f"whole_{zero}", np.float32(zero)))

    def _whole_product(self, a: str, b: str, a_zero: int, b_zero: int) -> str:
        zeros = [self.constant(f"zero_{value}", np.uint8(value)) for value in (a_zero, b_zero)]
        return self._cast(self.op("MatMulInteger", a, b, *zeros), TensorProto.FLOAT)

    def _scaled(self, sums: str, name: str, scale: Any) -> str:
        return self.op("Mul", sums, self.constant(f"{name}.scale", scale))

    def _half(self, name: str, values: NDArray[np.float32]) -> str:
        """float32 values that were stored as float16, stored so again."""
        return self._cast(self.constant(name, values.astype(np.float16)), TensorProto.FLOAT)

    def _cast(self, x: str, kind: int) -> str:
        return self.op("Cast", x, to=kind)


def _smallest(levels: NDArray[np.int64]) -> NDArray[Any]:
    """The same whole numbers in the smallest signed type that holds them."""
    high = int(np.abs(levels).max(initial=0))
    return levels.astype(np.int8 if high < 128 else np.int32)
