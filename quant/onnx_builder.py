"""The graph of a packed Vision Transformer, node by node; how its layers compute is left to the subclasses."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper

from quant.onnx_graph import IMAGES, IR_VERSION, LOGITS, OPSET, constant_tensor
from quant.packed import PackedModel


class Builder(ABC):
    """Nodes and constants of a graph; each method that adds some takes and returns names of tensors.

    Attributes:
        domain: of the operators that standard ONNX does not have.
        functions: definitions of these, where the file brings them along.
    """

    domain: str

    def __init__(self, packed: PackedModel) -> None:
        self.packed, self.config = packed, packed.config
        self.functions: Sequence[FunctionProto] = ()
        self._batch: int | None = None
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}

    def model(self, batch: int | None = None) -> ModelProto:
        """The ONNX model from normalised images to logits; `batch` is the number of images, None any number."""
        self._batch = batch
        config, count = self.config, batch or "batch"
        logits = self._forward(IMAGES)
        shape = [count, config.in_channels, config.image_size, config.image_size]
        graph = helper.make_graph(
            [*self._nodes, helper.make_node("Identity", [logits], [LOGITS])],
            "model",
            [helper.make_tensor_value_info(IMAGES, TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [count, config.num_classes])],
            list(self._constants.values()),
        )
        model = helper.make_model(
            graph,
            producer_name="tilevit",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(self.domain, 1)],
            functions=self.functions,
        )
        helper.set_model_props(model, {key: json.dumps(value) for key, value in self.packed.metadata.items()})
        return model

    @abstractmethod
    def linear(self, name: str, x: str) -> str:
        """A layer, bias included, on the last axis."""

    @abstractmethod
    def attend(self, i: int, q: str, k: str, v: str) -> str:
        """Context (B, heads, T, width) of block i, from q and v of this shape and k (B, heads, width, T)."""

    @abstractmethod
    def norm(self, name: str, x: str) -> str:
        """LayerNorm over the last axis."""

    @abstractmethod
    def gelu(self, x: str) -> str:
        """GELU."""

    @abstractmethod
    def softmax(self, x: str) -> str:
        """Softmax over the last axis."""

    @abstractmethod
    def mean(self, tokens: str) -> str:
        """Mean over the tokens, (B, T, dim) to (B, dim)."""

    @abstractmethod
    def product(self, a: str, b: str) -> str:
        """a @ b of floats."""

    def op(self, kind: str, *inputs: str, **options: Any) -> str:
        """Add an operator of one result."""
        output = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], **options))
        return output

    def constant(self, name: str, value: Any) -> str:
        """Add a constant, unless there is one of this name."""
        if name not in self._constants:
            self._constants[name] = constant_tensor(name, np.asarray(value))
        return name

    def shape(self, *values: int) -> str:
        """A constant of whole numbers, as shapes and axes are given."""
        return self.constant("shape" + "_".join(map(str, values)), np.array(values, np.int64))

    def reshape(self, x: str, *shape: int) -> str:
        """Reshape as ONNX has it: 0 keeps an axis, -1 takes what is left."""
        return self.op("Reshape", x, self.shape(*shape))

    def _forward(self, images: str) -> str:
        x = self._patch_stem(images) if self.config.stem == "patch" else self._conv_stem(images)
        if self.packed.cls_token is not None:
            x = self._with_class_token(x)
        x = self.op("Add", x, self.constant("pos_embed", self.packed.pos_embed))
        for i in range(self.config.depth):
            x = self._block(i, x)
        return self.linear("head", self._pool(self.norm("norm", x)))

    def _patch_stem(self, images: str) -> str:
        side, grid, channels = self.config.patch_size, self.config.grid, self.config.in_channels
        cut = self.reshape(images, -1, channels, grid, side, grid, side)
        patches = self.op("Transpose", cut, perm=[0, 2, 4, 1, 3, 5])
        return self.linear("stem.proj", self.reshape(patches, -1, grid * grid, channels * side * side))

    def _conv_stem(self, images: str) -> str:
        """3x3 convolutions as products with patches (B, H, W, 9 C), then ReLU and max-pooling."""
        x, size = images, self.config.image_size
        for name in [name for name in self.packed.layers if name.startswith("stem.convs.")]:
            padded = self.op("Pad", x, self.shape(0, 0, 1, 1, 0, 0, 1, 1))
            corners = [(i, j) for i in range(3) for j in range(3)]
            shifted = [
                self.op("Slice", padded, self.shape(i, j), self.shape(i + size, j + size), self.shape(2, 3))
                for i, j in corners
            ]
            columns = [self.op("Unsqueeze", part, self.shape(2)) for part in shifted]  # (B, C, 1, H, W)
            stacked = self.op("Transpose", self.op("Concat", *columns, axis=2), perm=[0, 3, 4, 1, 2])
            y = self.linear(name, self.reshape(stacked, 0, 0, 0, -1))
            y = self.op("Transpose", self.op("Relu", y), perm=[0, 3, 1, 2])
            x = self.op("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
            size = (size + 1) // 2
        return self.op("Transpose", self.reshape(x, 0, 0, -1), perm=[0, 2, 1])

    def _with_class_token(self, x: str) -> str:
        token, dim = self.constant("cls_token", self.packed.cls_token), self.config.dim
        if self._batch is None:
            shape = self.op("Concat", self.op("Shape", x, start=0, end=1), self.shape(1, dim), axis=0)
        else:
            shape = self.shape(self._batch, 1, dim)
        return self.op("Concat", self.op("Expand", token, shape), x, axis=1)

    def _block(self, i: int, x: str) -> str:
        name = f"blocks.{i}"
        x = self.op("Add", x, self._attention(i, self.norm(f"{name}.norm1", x)))
        hidden = self.gelu(self.linear(f"{name}.mlp.fc1", self.norm(f"{name}.norm2", x)))
        return self.op("Add", x, self.linear(f"{name}.mlp.fc2", hidden))

    def _attention(self, i: int, x: str) -> str:
        name, heads, width = f"blocks.{i}.attn", self.config.heads_of(i), self.config.head_width
        qkv = self.reshape(self.linear(f"{name}.qkv", x), -1, self.config.tokens, 3, heads, width)
        order = {"q": [0, 2, 1, 3], "k": [0, 2, 3, 1], "v": [0, 2, 1, 3]}
        parts = [self.op("Gather", qkv, self.constant(f"part_{n}", np.int64(n)), axis=2) for n in range(3)]
        q, k, v = (self.op("Transpose", x, perm=perm) for x, perm in zip(parts, order.values(), strict=True))
        context = self.op("Transpose", self.attend(i, q, k, v), perm=[0, 2, 1, 3])
        return self.linear(f"{name}.proj", self.reshape(context, 0, 0, heads * width))

    def _pool(self, tokens: str) -> str:
        if self.config.pool == "cls":
            return self.op("Gather", tokens, self.constant("part_0", np.int64(0)), axis=1)
        if self.config.pool == "mean":
            return self.mean(tokens)
        weights = self.softmax(self.op("Transpose", self.linear("pool_score", tokens), perm=[0, 2, 1]))  # (B, 1, T)
        return self.op("Squeeze", self.product(weights, tokens), self.shape(1))
