"""Widths of weights and activations: what the model says, else what the hardware has."""

from __future__ import annotations

from collections.abc import Sequence

from fifo_sim.graph import Weights
from fifo_sim.hardware import Hardware
from vit.layers import FLOAT_BITS, LayerInfo


class Precision:
    """Bits of each layer of a model on a machine.

    A layer's own width counts if it is below 32, which means float. A layer without one takes the widest activations
    that any layer states, else the hardware's: a quantised model keeps its whole stream quantised.

    Attributes:
        stream: width of values between layers, where no layer says otherwise.
    """

    def __init__(self, layers: Sequence[LayerInfo], hardware: Hardware) -> None:
        self.layers = {layer.name: layer for layer in layers}
        self.hardware = hardware
        stated = [layer.activation_bits for layer in layers if layer.activation_bits < FLOAT_BITS]
        self.stream = max(stated, default=hardware.activation_bits)

    def activations(self, name: str) -> int:
        """Bits of each input of the named operation."""
        layer = self.layers.get(name)
        stated = layer is not None and layer.activation_bits < FLOAT_BITS
        return layer.activation_bits if layer is not None and stated else self.stream

    def weights(self, name: str) -> Weights | None:
        """The weights of the named layer, one bias a column where it has biases; None for a product of activations."""
        layer = self.layers[name]
        if layer.kind == "attention":
            return None
        bits = layer.weight_bits if layer.weight_bits < FLOAT_BITS else self.hardware.weight_bits
        coding = coding_of(layer.weight_scheme) or self.hardware.weight_coding
        bias_bits = self.hardware.accumulator_bits if layer.params > layer.inner * layer.cols else 0
        column_bits = layer.inner * bits + bias_bits
        density = 1 - layer.sparsity if self.hardware.zero_skipping else 1.0
        return Weights(layer.cols, column_bits, bits=bits, coding=coding, density=density)


def coding_of(scheme: str) -> str:
    """What multiplying by a weight of a level set is: of "pot4" one shift, "apot6" two, "int8" a multiplication."""
    return {"pot": "pot", "apot": "apot", "int": "int"}.get(scheme.rstrip("0123456789"), "")
