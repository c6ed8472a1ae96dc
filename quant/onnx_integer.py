"""The ONNX form of a packed model: whole-number arithmetic, step for step what `quant.engine` computes.

The file is self-contained. Weights are the levels as uint8 around 128 (`X.levels`): products of uint8 by uint8 are the
only ones that onnxruntime sums exactly on every processor; uint8 by int8 saturates on x86 without VNNI. LayerNorm,
softmax, GELU and rounding are functions of the file's own (`quant.onnx_functions`).
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from quant.level_sets import activation_range, bits_of
from quant.onnx_functions import DOMAIN, definitions
from quant.onnx_graph import IMAGES, IR_VERSION, LOGITS, OPSET, constant_tensor
from quant.packed import PackedLayer, PackedModel

MIDDLE = 128  # the uint8 that stands for 0
_LARGEST_SUM = 2**31


def integer_model(packed: PackedModel, batch: int | None = None) -> ModelProto:
    """The ONNX model whose logits on normalised images are those of `packed.predict`.

    Args:
        batch: number of images it takes; None is any number.
    """
    config = packed.config
    builder = _Builder(packed)
    logits = builder.forward(IMAGES)
    images: list[Any] = [batch or "batch", config.in_channels, config.image_size, config.image_size]
    graph = helper.make_graph(
        [*builder.nodes, helper.make_node("Identity", [logits], [LOGITS])],
        "model",
        [helper.make_tensor_value_info(IMAGES, TensorProto.FLOAT, images)],
        [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [batch or "batch", config.num_classes])],
        builder.constants,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(
        graph, producer_name="tilevit", ir_version=IR_VERSION, opset_imports=opsets, functions=definitions()
    )
    helper.set_model_props(model, {key: json.dumps(value) for key, value in packed.metadata.items()})
    return model


class _Builder:
    """Nodes and constants of a packed model's graph; each method adds some and returns the name of their result."""

    def __init__(self, packed: PackedModel) -> None:
        self.packed, self.config = packed, packed.config
        self.nodes: list[Any] = []
        self.constants: list[TensorProto] = []
        self._known: set[str] = set()

    def forward(self, images: str) -> str:
        """Images (B, C, H, W) to logits (B, classes)."""
        config = self.config
        x = self._patch_stem(images) if config.stem == "patch" else self._conv_stem(images)
        if self.packed.cls_token is not None:
            x = self._with_class_token(x)
        x = self._op("Add", x, self._constant("pos_embed", self.packed.pos_embed))
        for i in range(config.depth):
            x = self._block(x, i)
        return self._linear("head", self._pool(self._norm(x, "norm")))

    def _patch_stem(self, images: str) -> str:
        side, grid, channels = self.config.patch_size, self.config.grid, self.config.in_channels
        cut = self._reshape(images, -1, channels, grid, side, grid, side)
        patches = self._op("Transpose", cut, perm=[0, 2, 4, 1, 3, 5])
        return self._linear("stem.proj", self._reshape(patches, -1, grid * grid, channels * side * side))

    def _conv_stem(self, images: str) -> str:
        """3x3 convolutions as products with patches (B, H, W, 9 C), then ReLU and max-pooling."""
        x, size = images, self.config.image_size
        for name in [name for name in self.packed.layers if name.startswith("stem.convs.")]:
            padded = self._op("Pad", x, self._whole(0, 0, 1, 1, 0, 0, 1, 1))
            places = [(i, j) for i in range(3) for j in range(3)]
            shifted = [
                self._op("Slice", padded, self._whole(i, j), self._whole(i + size, j + size), self._whole(2, 3))
                for i, j in places
            ]
            columns = [self._op("Unsqueeze", part, self._whole(2)) for part in shifted]  # (B, C, 1, H, W)
            stacked = self._op("Transpose", self._op("Concat", *columns, axis=2), perm=[0, 3, 4, 1, 2])
            patches = self._reshape(stacked, 0, 0, 0, -1)
            y = self._op("Transpose", self._op("Relu", self._linear(name, patches)), perm=[0, 3, 1, 2])
            x = self._op("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
            size = (size + 1) // 2
        return self._op("Transpose", self._reshape(x, 0, 0, -1), perm=[0, 2, 1])

    def _with_class_token(self, x: str) -> str:
        token = self._constant("cls_token", self.packed.cls_token)
        count = self._op("Shape", x, start=0, end=1)
        shape = self._op("Concat", count, self._whole(1, self.config.dim), axis=0)
        return self._op("Concat", self._op("Expand", token, shape), x, axis=1)

    def _block(self, x: str, i: int) -> str:
        name = f"blocks.{i}"
        x = self._op("Add", x, self._attend(self._norm(x, f"{name}.norm1"), i))
        hidden = self._linear(f"{name}.mlp.fc1", self._norm(x, f"{name}.norm2"))
        hidden = self._op("Gelu", hidden, domain=DOMAIN)
        return self._op("Add", x, self._linear(f"{name}.mlp.fc2", hidden))

    def _attend(self, x: str, i: int) -> str:
        name, config = f"blocks.{i}.attn", self.config
        heads, width = config.heads_of(i), config.head_width
        qkv = self._reshape(self._linear(f"{name}.qkv", x), -1, config.tokens, 3, heads, width)
        q, k, v = (
            self._op("Transpose", self._op("Gather", qkv, self._constant(f"part{n}", np.int64(n)), axis=2), perm=perm)
            for n, perm in enumerate(([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]))  # (B, heads, T, width), k transposed
        )
        attend = self._float_attention if self.packed.attention_scales is None else self._whole_attention
        context = self._op("Transpose", attend(q, k, v, i), perm=[0, 2, 1, 3])
        return self._linear(f"{name}.proj", self._reshape(context, 0, 0, heads * width))

    def _float_attention(self, q: str, k: str, v: str, i: int) -> str:
        scale = self._constant(f"blocks.{i}.attn.scale", np.float32(self.config.head_width**-0.5))
        weights = self._op("Softmax", self._op("Mul", self._wide_product(q, k), scale), domain=DOMAIN)
        return self._wide_product(weights, v)

    def _whole_attention(self, q: str, k: str, v: str, i: int) -> str:
        assert self.packed.attention_scales is not None
        name, scales, bits = f"blocks.{i}.attn", self.packed.attention_scales[i], bits_of(self.packed.activations)
        low, high = activation_range(self.packed.activations, False)
        q, k, v = (
            self._codes(x, self._constant(f"{name}.{part}.scale", scale), low, high, MIDDLE)
            for x, part, scale in zip((q, k, v), ("query", "key", "value"), scales, strict=True)
        )
        wide, top = scales.astype(np.float64), 2**bits - 1
        score_scale = np.float32(wide[0] * wide[1] * self.config.head_width**-0.5)
        scores = self._scaled(self._whole_product(q, k, MIDDLE, MIDDLE), f"{name}.scores", score_scale)
        probabilities = self._op(
            "Mul", self._op("Softmax", scores, domain=DOMAIN), self._constant(f"top{top}", np.float32(top))
        )
        one = self._constant("one", np.float32(1))
        codes = self._codes(probabilities, one, 0, top, 0)
        return self._scaled(self._whole_product(codes, v, 0, MIDDLE), f"{name}.context", scales[2] / np.float32(top))

    def _pool(self, tokens: str) -> str:
        if self.config.pool == "cls":
            return self._op("Gather", tokens, self._constant("part0", np.int64(0)), axis=1)
        if self.config.pool == "mean":
            mean = self._op("ReduceMean", self._cast(tokens, TensorProto.DOUBLE), self._whole(1), keepdims=0)
            return self._cast(mean, TensorProto.FLOAT)
        scores = self._op("Transpose", self._linear("pool_score", tokens), perm=[0, 2, 1])  # (B, 1, T)
        pooled = self._wide_product(self._op("Softmax", scores, domain=DOMAIN), tokens)
        return self._op("Squeeze", pooled, self._whole(1))

    def _norm(self, x: str, name: str) -> str:
        weight, bias = self.packed.norms[name]
        eps = self._constant("eps", np.float64(self.packed.eps))
        values = self._half(f"{name}.weight", weight), self._half(f"{name}.bias", bias)
        return self._op("LayerNorm", x, *values, eps, domain=DOMAIN)

    def _linear(self, name: str, x: str) -> str:
        """A layer on the last axis: whole numbers first, then one scale and one bias."""
        layer = self.packed.layers[name]
        scale = layer.scale
        if layer.levels is None:
            assert layer.weight is not None
            sums = self._wide_product(x, self._constant(f"{name}.weight", layer.weight.T))
        elif layer.input_scale is None:
            sums = self._wide_product(x, self._constant(f"{name}.levels", _smallest(layer.levels.T)))
        else:
            sums = self._whole_linear(layer, x)
            scale = np.float32(layer.input_scale) * scale  # type: ignore[operator]  # a layer with levels has one
        if scale is not None:
            sums = self._scaled(sums, name, scale)
        return self._op("Add", sums, self._half(f"{name}.bias", layer.bias))

    def _whole_linear(self, layer: PackedLayer, x: str) -> str:
        assert layer.levels is not None
        low, high = activation_range(self.packed.activations, layer.unsigned)
        zero = 0 if layer.unsigned else MIDDLE
        codes = self._codes(
            x, self._constant(f"{layer.name}.input_scale", np.float32(layer.input_scale)), low, high, zero
        )
        largest = int(np.abs(layer.levels).max(initial=0))
        if largest > MIDDLE or max(-low, high) * max(1, largest) * layer.levels.shape[1] >= _LARGEST_SUM:
            whole = self._op(
                "Sub", self._cast(codes, TensorProto.DOUBLE), self._constant(f"from{zero}", np.float64(zero))
            )
            return self._wide_product(whole, self._constant(f"{layer.name}.levels", _smallest(layer.levels.T)))
        levels = self._constant(f"{layer.name}.levels", (layer.levels.T + MIDDLE).astype(np.uint8))
        return self._whole_product(codes, levels, zero, MIDDLE)

    def _codes(self, x: str, scale: str, low: int, high: int, zero: int) -> str:
        """x / scale rounded to whole numbers from low to high, as uint8 with `zero` for 0."""
        bounds = [self._constant(f"bound{value}", np.float32(value)) for value in (low, high, zero)]
        return self._op("Codes", x, scale, *bounds, domain=DOMAIN)

    def _whole_product(self, a: str, b: str, a_zero: int, b_zero: int) -> str:
        zeros = [self._constant(f"zero{value}", np.uint8(value)) for value in (a_zero, b_zero)]
        return self._cast(self._op("MatMulInteger", a, b, *zeros), TensorProto.FLOAT)

    def _wide_product(self, a: str, b: str) -> str:
        """a @ b in float64, rounded to float32 once."""
        wide = [self._cast(part, TensorProto.DOUBLE) for part in (a, b)]
        return self._cast(self._op("MatMul", *wide), TensorProto.FLOAT)

    def _scaled(self, sums: str, name: str, scale: Any) -> str:
        return self._op("Mul", sums, self._constant(f"{name}.scale", scale))

    def _half(self, name: str, values: NDArray[np.float32]) -> str:
        """float32 values that were stored as float16, stored so again."""
        return self._cast(self._constant(name, values.astype(np.float16)), TensorProto.FLOAT)

    def _cast(self, x: str, kind: int) -> str:
        return self._op("Cast", x, to=kind)

    def _reshape(self, x: str, *shape: int) -> str:
        return self._op("Reshape", x, self._whole(*shape))

    def _whole(self, *values: int) -> str:
        return self._constant("shape" + "_".join(map(str, values)), np.array(values, np.int64))

    def _constant(self, name: str, value: Any) -> str:
        if name not in self._known:
            self._known.add(name)
            self.constants.append(constant_tensor(name, value))
        return name

    def _op(self, kind: str, *inputs: str, **options: Any) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **options))
        return output


def _smallest(levels: NDArray[np.int64]) -> NDArray[Any]:
    """The same whole numbers in the smallest signed type that holds them."""
    high = int(np.abs(levels).max(initial=0))
    return levels.astype(np.int8 if high < 128 else np.int32)
