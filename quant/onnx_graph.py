"""An ONNX graph to be edited: constants by name, the layers that hold weights, one node replaced by several.

A layer is a Conv with a constant kernel, or a MatMul by a constant whose bias, where it has one, is in the Add right
behind it. `export_onnx` writes float graphs of this form, each layer's node named as the module it came from.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from vit.files import written_aside

OPSET, IR_VERSION = 20, 10
IMAGES, LOGITS = "images", "logits"


@dataclass(frozen=True)
class OnnxLayer:
    """A linear layer or convolution of a graph.

    Attributes:
        name: path of the module.
        op: "MatMul" or "Conv".
        x, y: names of its input, and of its output (of a MatMul, before the bias).
        weight: name of the constant: (inner, out) of a MatMul, (out, inner, kh, kw) of a Conv.
    """

    name: str
    op: str
    x: str
    y: str
    weight: str


class Graph:
    """A copy of a model's graph. Constants and nodes may be added and replaced; `model` is the result."""

    def __init__(self, model: ModelProto) -> None:
        self.model = copy.deepcopy(model)
        self._constants = {constant.name: constant for constant in self.model.graph.initializer}

    def layers(self) -> list[OnnxLayer]:
        """Every MatMul and Conv by a constant, in the order of execution."""
        return [
            OnnxLayer(node.name, node.op_type, node.input[0], node.output[0], node.input[1])
            for node in self.model.graph.node
            if node.op_type in ("MatMul", "Conv") and node.input[1] in self._constants
        ]

    def names(self) -> list[str]:
        """The names of all constants."""
        return list(self._constants)

    def constant(self, name: str) -> NDArray[Any]:
        """The value of a constant."""
        return numpy_helper.to_array(self._constants[name])

    def rows(self, layer: OnnxLayer) -> NDArray[np.float32]:
        """The layer's weight as one row an output, (out, inner)."""
        weight = self.constant(layer.weight)
        return np.ascontiguousarray(weight.T if layer.op == "MatMul" else weight.reshape(weight.shape[0], -1))

    def add_constant(self, name: str, value: NDArray[Any] | np.generic) -> str:
        """Put a constant there, in the place of one of that name; its name."""
        made = constant_tensor(name, value)
        if name in self._constants:
            self._constants[name].CopyFrom(made)
        else:
            self.model.graph.initializer.append(made)
            self._constants[name] = self.model.graph.initializer[-1]
        return name

    def node_of(self, output: str) -> NodeProto:
        """The node that computes this tensor."""
        return next(node for node in self.model.graph.node if output in node.output)

    def bias_of(self, layer: OnnxLayer) -> tuple[NodeProto, int] | None:
        """The Add of a constant vector right behind a MatMul, and the place of the constant among its inputs."""
        for node in self.model.graph.node:
            if layer.op == "MatMul" and node.op_type == "Add" and layer.y in node.input:
                place = 1 - list(node.input).index(layer.y)
                constant = self._constants.get(node.input[place])
                if constant is not None and len(constant.dims) == 1:
                    return node, place
        return None

    def replace(self, output: str, nodes: Sequence[NodeProto]) -> None:
        """Let `nodes`, the last of which computes `output`, stand where one node computed it."""
        kept = [new for node in self.model.graph.node for new in (nodes if output in node.output else (node,))]
        del self.model.graph.node[:]
        self.model.graph.node.extend(kept)

    def add_outputs(self, names: Sequence[str]) -> None:
        """Let a session return these tensors too, after the logits."""
        self.model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)

    def use_domain(self, domain: str, version: int = 1) -> None:
        """Allow operators of this domain."""
        if domain not in {entry.domain for entry in self.model.opset_import}:
            self.model.opset_import.append(helper.make_opsetid(domain, version))

    def sort(self) -> None:
        """Put every node behind those whose results it reads, as the standard asks."""
        nodes = list(self.model.graph.node)
        made_by = {name: i for i, node in enumerate(nodes) for name in node.output}
        reads = {i: [made_by[name] for name in node.input if name in made_by] for i, node in enumerate(nodes)}
        ordered = [nodes[i] for i in TopologicalSorter(reads).static_order()]
        del self.model.graph.node[:]
        self.model.graph.node.extend(ordered)

    def drop_unused(self) -> None:
        """Remove constants that no node reads."""
        read = {name for node in self.model.graph.node for name in node.input}
        kept = [constant for constant in self.model.graph.initializer if constant.name in read]
        kept = copy.deepcopy(kept)
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(kept)
        self._constants = {constant.name: constant for constant in self.model.graph.initializer}


def constant_tensor(name: str, value: NDArray[Any] | np.generic) -> TensorProto:
    """A named constant; a NumPy scalar gives one of no dimensions."""
    return numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)


def save_model(model: ModelProto, path: str | Path) -> None:
    """Check the model against the standard and write it, whole or not at all.

    Raises:
        InputError: the place cannot be written.
    """
    onnx.checker.check_model(model)
    with written_aside(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
