"""A layer of a float graph in its quantised forms. What comes out of it is float again, so that residuals, LayerNorm,
softmax and activation functions never see a rounded value.

Of a convolution the kernel alone is rounded: onnxruntime convolves whole numbers only where the output is rounded too.
That costs accuracy, and in a stem or a depthwise convolution it saves no time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from quant.codec import nearest
from quant.onnx_graph import Graph, OnnxLayer
from quant.scales import weight_scale

F32 = NDArray[np.float32]
BLOCK = 32  # weights along the inner axis that share a scale in MatMulNBits
MICROSOFT = "com.microsoft"  # the domain of onnxruntime's own operators
# uint8 for weights too, around 128: on x86 without VNNI onnxruntime's products of uint8 by int8 saturate.
_MIDDLE = 128


@dataclass(frozen=True)
class ActivationRange:
    """How a float input becomes uint8: round(x / scale) + zero."""

    scale: float
    zero: int


def quantise_static(graph: Graph, layer: OnnxLayer, activation: ActivationRange) -> None:
    """Input and weight of a MatMul in 8 bits, as pairs of QuantizeLinear and DequantizeLinear."""
    scale = graph.add_constant(f"{layer.name}.input_scale", np.float32(activation.scale))
    zero = graph.add_constant(f"{layer.name}.input_zero", np.uint8(activation.zero))
    codes, rounded = f"{layer.y}_codes", f"{layer.y}_input"
    weight, unpack = _eight_bits(graph, layer)
    product = NodeProto()
    product.CopyFrom(graph.node_of(layer.y))
    product.input[0], product.input[1] = rounded, weight
    pack = helper.make_node("QuantizeLinear", [layer.x, scale, zero], [codes])
    graph.replace(
        layer.y, [pack, helper.make_node("DequantizeLinear", [codes, scale, zero], [rounded]), unpack, product]
    )


def quantise_dynamic(graph: Graph, layer: OnnxLayer) -> None:
    """Input and weight of a MatMul in 8 bits, the input by the range of the batch at hand."""
    name, y = layer.name, layer.y
    levels, scale = _levels(graph, layer)
    weight = graph.add_constant(f"{name}.levels", _as_uint8(levels).T)
    middle = graph.add_constant("middle", np.uint8(_MIDDLE))
    scales = graph.add_constant(f"{name}.scale", scale)
    graph.replace(
        y,
        [
            helper.make_node("DynamicQuantizeLinear", [layer.x], [f"{y}_codes", f"{y}_scale", f"{y}_zero"]),
            helper.make_node("MatMulInteger", [f"{y}_codes", weight, f"{y}_zero", middle], [f"{y}_sums"]),
            helper.make_node("Cast", [f"{y}_sums"], [f"{y}_float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{y}_scale", scales], [f"{y}_scales"]),
            helper.make_node("Mul", [f"{y}_float", f"{y}_scales"], [y]),
        ],
    )


def quantise_weight(graph: Graph, layer: OnnxLayer, bits: int) -> None:
    """The weight alone: of a MatMul 4 or 8 bits in blocks, of a Conv 8 bits an output channel."""
    if layer.op == "Conv":
        weight, unpack = _eight_bits(graph, layer)
        product = NodeProto()
        product.CopyFrom(graph.node_of(layer.y))
        product.input[1] = weight
        graph.replace(layer.y, [unpack, product])
        return
    rows = graph.rows(layer)
    out, inner = rows.shape
    flat = np.pad(rows, ((0, 0), (0, -inner % BLOCK))).reshape(-1, BLOCK)
    scale = weight_scale(flat, f"int{bits}")
    scaled = (flat / scale[:, None]).astype(np.float32)
    codes = (nearest(scaled, f"int{bits}") + 2 ** (bits - 1)).astype(np.uint8)
    if bits == 4:
        codes = codes[:, 0::2] | codes[:, 1::2] << np.uint8(4)
    packed = graph.add_constant(f"{layer.name}.codes", codes.reshape(out, len(flat) // out, -1))
    scales = graph.add_constant(f"{layer.name}.scale", scale)
    graph.use_domain(MICROSOFT)
    sizes = {"K": inner, "N": out, "bits": bits, "block_size": BLOCK}
    node = helper.make_node("MatMulNBits", [layer.x, packed, scales], [layer.y], domain=MICROSOFT, **sizes)
    graph.replace(layer.y, [node])


def shift_output(graph: Graph, layer: OnnxLayer, amount: F32) -> None:
    """Add `amount`, one an output channel, to what the layer gives: to its bias, where it has one."""
    made, product = f"{layer.name}.corrected_bias", graph.node_of(layer.y)
    add = graph.bias_of(layer)
    if add is not None:
        node, place = add
        node.input[place] = graph.add_constant(made, graph.constant(node.input[place]) + amount)
    elif layer.op == "Conv":
        value = graph.constant(product.input[2]) + amount if len(product.input) > 2 else amount
        product.input[2:] = [graph.add_constant(made, value)]
    else:
        node = NodeProto()
        node.CopyFrom(product)
        node.output[0] = f"{layer.y}_uncorrected"
        bias = graph.add_constant(made, amount)
        graph.replace(layer.y, [node, helper.make_node("Add", [node.output[0], bias], [layer.y])])


def _eight_bits(graph: Graph, layer: OnnxLayer) -> tuple[str, NodeProto]:
    """The weight as uint8 with one scale an output channel: the name of its float value, and the node that gives it."""
    levels, scale = _levels(graph, layer)
    shape = graph.constant(layer.weight).shape
    codes = _as_uint8(levels)
    axis, value = (1, codes.T) if layer.op == "MatMul" else (0, codes.reshape(shape))
    inputs = [
        graph.add_constant(f"{layer.name}.levels", value),
        graph.add_constant(f"{layer.name}.scale", scale),
        graph.add_constant(f"{layer.name}.zero", np.full(scale.shape, _MIDDLE, np.uint8)),
    ]
    output = f"{layer.y}_weight"
    return output, helper.make_node("DequantizeLinear", inputs, [output], axis=axis)


def _levels(graph: Graph, layer: OnnxLayer) -> tuple[F32, F32]:
    """Whole numbers (out, inner) from -128 to 127, and the scale (out,) that makes them nearest to the weight."""
    rows = graph.rows(layer)
    scale = weight_scale(rows, "int8")
    return nearest(rows / scale[:, None], "int8"), scale


def _as_uint8(levels: F32) -> NDArray[np.uint8]:
    return (levels + _MIDDLE).astype(np.uint8)
