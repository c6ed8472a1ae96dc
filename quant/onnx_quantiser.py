"""One float model, one method: its quantised forms, what each layer costs, and which layers to spare."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from quant.calibration import Observed, activation_range, logit_error, observe
from quant.onnx_graph import Graph, OnnxLayer
from quant.onnx_layers import ActivationRange, quantise_dynamic, quantise_static, quantise_weight, shift_output
from quant.onnx_session import accuracy, open_session
from vit.image_set import ImageSet

FLOAT_BITS = 32
METHODS = {"fp16": 16, "int8-dynamic": 8, "int8-static": 8, "int4-weight": 4}  # bits of a weight
_FALLBACK_BITS = {"int4-weight": 8}  # of a layer that does not bear the method's; float in the other methods
_HEADS = ("head", "head_dist", "classifier", "fc")
_WIDE_SUMS = ("LayerNormalization", "Softmax")  # what overflows or loses digits in float16


class Quantiser:
    """Quantised forms of a float ONNX model; what calibration shows is found when it is first needed.

    Attributes:
        layers: its linear layers and convolutions.
        usual_bits: of each layer's weight, before any is spared.
        fallback_bits: of a layer that is spared.
    """

    def __init__(self, model: ModelProto, method: str, images: ImageSet, threads: int) -> None:
        """`images`: what calibration looks at. `threads`: of onnxruntime."""
        self.float_model, self.method, self.images, self.threads = model, method, images, threads
        self.layers = Graph(model).layers()
        self.usual_bits = {layer.name: self._usual_bits(layer) for layer in self.layers}
        self.fallback_bits = _FALLBACK_BITS.get(method, FLOAT_BITS)

    def model(self, bits: Mapping[str, int]) -> ModelProto:
        """The model with each layer's weight at these bits, the mean errors of its layers taken up by their biases."""
        if self.method == "fp16":
            return self._half([name for name, width in bits.items() if width == FLOAT_BITS])
        return self._quantised(bits, corrected=True)

    def accuracy(self, bits: Mapping[str, int], images: ImageSet, batch_size: int) -> float:
        """Of the model with these bits."""
        return accuracy(open_session(self.model(bits), self.threads), images, batch_size)

    def choose(self, images: ImageSet, batch_size: int, wanted: float, budget: float) -> dict[str, int]:
        """The bits of each layer by which accuracy on `images` is at least `wanted`, with few layers spared.

        The layers are spared in the order of error by weight, twice as many at each try, for as long as no more than
        the share `budget` of all weights is spared. If nothing reaches `wanted`, what came nearest.
        """
        best = self.usual_bits
        highest = self.accuracy(best, images, batch_size)
        spared = self._order_of_sparing(budget)
        count = 1
        while highest < wanted and count < 2 * len(spared):
            bits = {**self.usual_bits, **dict.fromkeys(spared[:count], self.fallback_bits)}
            reached = self.accuracy(bits, images, batch_size)
            if reached > highest:
                best, highest = bits, reached
            count *= 2
        return best

    @cached_property
    def sensitivity(self) -> dict[str, float]:
        """Squared error of the logits, as a share of their squares, when a layer alone is quantised."""
        return {name: error for name, (error, _) in self._alone.items()}

    def _order_of_sparing(self, budget: float) -> list[str]:
        graph = Graph(self.float_model)
        sizes = {layer.name: graph.constant(layer.weight).size for layer in self.layers}
        left = budget * sum(sizes.values())
        chosen = []
        for name in sorted(sizes, key=lambda name: self.sensitivity[name] / sizes[name], reverse=True):
            if self.usual_bits[name] < self.fallback_bits and sizes[name] <= left:
                chosen.append(name)
                left -= sizes[name]
        return chosen

    @cached_property
    def _observed(self) -> Observed:
        """What the float model shows."""
        static = self.method == "int8-static"
        return observe(self.float_model, self.layers, self.images, self.threads, with_inputs=static)

    @cached_property
    def _ranges(self) -> dict[str, ActivationRange]:
        return {name: activation_range(values) for name, values in self._observed.inputs.items()}

    @cached_property
    def _alone(self) -> dict[str, tuple[float, NDArray[np.float32]]]:
        """For each layer, quantised alone: the error of the logits, and what its mean output lacks."""
        found = {}
        for layer in self.layers:
            if self.method == "fp16":
                alone = self._half([node.name for node in self.float_model.graph.node if node.name != layer.name])
            else:
                alone = self._quantised({layer.name: self.usual_bits[layer.name]}, corrected=False)
            seen = observe(alone, [layer], self.images, self.threads)
            error = logit_error(seen.logits, self._observed.logits)
            found[layer.name] = error, (self._observed.means[layer.name] - seen.means[layer.name]).astype(np.float32)
        return found

    def _quantised(self, bits: Mapping[str, int], *, corrected: bool) -> ModelProto:
        graph = Graph(self.float_model)
        for layer in self.layers:
            if bits.get(layer.name, FLOAT_BITS) == FLOAT_BITS:
                continue
            if self.method == "int4-weight" or layer.op == "Conv":
                quantise_weight(graph, layer, bits[layer.name])
            elif self.method == "int8-static":
                quantise_static(graph, layer, self._ranges[layer.name])
            else:
                quantise_dynamic(graph, layer)
            if corrected and bits[layer.name] == self.usual_bits[layer.name]:  # what was measured
                shift_output(graph, layer, self._alone[layer.name][1])
        graph.drop_unused()
        return graph.model

    def _half(self, kept: Sequence[str]) -> ModelProto:
        """The model in float16, all but these nodes and what float16 is too narrow for."""
        blocked = [*DEFAULT_OP_BLOCK_LIST, *_WIDE_SUMS]
        model = copy.deepcopy(self.float_model)
        graph = Graph(convert_float_to_float16(model, keep_io_types=True, op_block_list=blocked, node_block_list=kept))
        graph.sort()
        return graph.model

    def _usual_bits(self, layer: OnnxLayer) -> int:
        if self.method != "int4-weight":
            return METHODS[self.method]
        outer = layer == self.layers[0] or layer == self.layers[-1] or layer.name.partition(".")[0] in _HEADS
        return 8 if outer or layer.op == "Conv" else 4
