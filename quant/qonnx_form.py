"""A quantised network as QONNX, for FPGA flows (FINN, hls4ml): float tensors, with rounding as operators of its own.

The operators are QONNX's (Pappalardo et al. 2022): FloatQuant for powers of two, whose levels are a float format of a
sign and an exponent without mantissa; Quant for the rest. Rounding is "HALF_UP", its name for ties away from zero.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from quant.config import LOG2
from quant.conversion import convert
from quant.level_sets import bits_of, level_set
from quant.onnx_builder import Builder
from quant.onnx_graph import save_model
from quant.packed import PackedLayer, PackedModel

DOMAIN = "qonnx.custom_op.general"
_ROUNDING = "HALF_UP"


def export_qonnx(model: nn.Module | PackedModel, path: str | Path, batch: int | None = None) -> None:
    """Write a quantised model as QONNX: normalised `images` (N, C, H, W) to `logits` (N, classes).

    Weights, inputs of the linear layers, queries, keys, values and probabilities pass through their rounding; weights
    are stored rounded already. LayerNorm, softmax and GELU are ONNX's own. With power-of-two scales a linear layer
    gives exactly what the packed model's gives; with others it multiplies rounded floats, not whole numbers, and is
    near it. apot4 and apot6 have no operator: their levels are integers of 5 and 8 bits there.

    Args:
        model: a model from `prepare_qat`, or its packed form.
        batch: number of images the file takes; None is any number.

    Raises:
        InputError: the model is not prepared or cannot be packed, or the place cannot be written.
    """
    packed = model if isinstance(model, PackedModel) else convert(model)
    save_model(_QonnxBuilder(packed).model(batch), path)


class _QonnxBuilder(Builder):
    """Every rounding an operator of its own, everything between them standard float operators."""

    domain = DOMAIN

    def linear(self, name: str, x: str) -> str:
        layer = self.packed.layers[name]
        if layer.input_scale is not None:
            bits = bits_of(self.packed.activations)
            x = self._rounded(x, f"{name}.input_scale", np.float32(layer.input_scale), bits, signed=not layer.unsigned)
        bias = self.constant(f"{name}.bias", layer.bias)
        return self.op("Add", self.product(x, self._weight(layer)), bias)

    def attend(self, i: int, q: str, k: str, v: str) -> str:
        name, scales = f"blocks.{i}.attn", self.packed.attention_scales
        if scales is not None:
            bits = bits_of(self.packed.activations)
            q, k, v = (
                self._rounded(x, f"{name}.{part}.scale", scale, bits)
                for x, part, scale in zip((q, k, v), ("query", "key", "value"), scales[i], strict=True)
            )
        root = self.constant(f"{name}.scale", np.float32(self.config.head_width**-0.5))
        weights = self.softmax(self.op("Mul", self.product(q, k), root))
        if scales is not None:
            top, name = self.packed.probability_top, "probability_scale"
            unit = np.float32(1 / top)
            if self.packed.probabilities == LOG2:
                weights = self._power_of_two(weights, self.constant(name, unit), "probability", top)
            else:
                weights = self._rounded(weights, name, unit, bits, signed=False)
        return self.product(weights, v)

    def norm(self, name: str, x: str) -> str:
        weight, bias = (
            self.constant(f"{name}.{part}", value)
            for part, value in zip(("weight", "bias"), self.packed.norms[name], strict=True)
        )
        return self.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=self.packed.eps)

    def gelu(self, x: str) -> str:
        return self.op("Gelu", x)

    def softmax(self, x: str) -> str:
        return self.op("Softmax", x, axis=-1)

    def mean(self, tokens: str) -> str:
        return self.op("ReduceMean", tokens, self.shape(1), keepdims=0)

    def product(self, a: str, b: str) -> str:
        return self.op("MatMul", a, b)

    def _weight(self, layer: PackedLayer) -> str:
        if layer.levels is None or layer.scale is None:
            assert layer.weight is not None
            return self.constant(f"{layer.name}.weight", layer.weight.T)
        rounded = layer.levels.astype(np.float32) * layer.scale[:, None]
        values, tables = self.constant(f"{layer.name}.weight", rounded.T), level_set(layer.scheme)
        if not layer.scheme.startswith("pot"):
            return self._rounded(values, f"{layer.name}.scale", layer.scale, tables.high.bit_length() + 1)
        return self._power_of_two(values, self.constant(f"{layer.name}.scale", layer.scale), layer.scheme, tables.high)

    def _power_of_two(self, x: str, scale: str, name: str, high: int) -> str:
        """0, 1, 2, 4 ... high, times the scale, and their negatives."""
        exponent_bits = high.bit_length().bit_length()  # of 2^0 and up; exponent 0 is the zero
        numbers = {"exponent_bits": exponent_bits, "mantissa_bits": 0, "exponent_bias": 1, "largest": high}
        inputs = [self.constant(f"{name}.{key}", np.float32(value)) for key, value in numbers.items()]
        options: dict[str, Any] = {"has_inf": 0, "has_nan": 0, "has_subnormal": 0, "saturation": 1}
        return self.op("FloatQuant", x, scale, *inputs, domain=DOMAIN, rounding_mode=_ROUNDING, **options)

    def _rounded(self, x: str, name: str, scale: Any, bits: int, *, signed: bool = True) -> str:
        zero, width = self.constant("zero_point", np.float32(0)), self.constant(f"bits_{bits}", np.float32(bits))
        options = {"signed": int(signed), "narrow": 0, "rounding_mode": _ROUNDING}
        return self.op("Quant", x, self.constant(name, scale), zero, width, domain=DOMAIN, **options)
