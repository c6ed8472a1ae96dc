"""The forward pass of a packed model: linear layers and attention on whole numbers, the rest by kernels.nonlinear.

Step for step it is what a prepared model evaluates, with the same roundings, so the logits are the same bits.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kernels import gemm, nonlinear
from kernels.attention import Attention, attention, attention_of
from kernels.attention import room as attention_room
from kernels.pot import BELOW_HALF
from kernels.split import pieces, run
from quant.config import LOG2
from quant.level_sets import activation_range, bits_of, level_set
from vit.errors import InputError, require_choice, require_int

if TYPE_CHECKING:
    from quant.packed import PackedLayer, PackedModel

F32 = NDArray[np.float32]

KEPT_IMAGES = 16  # at a time, up to which arrays are kept for the next call: with more, fresh ones cost little


class _Linear:
    """One layer, ready to multiply: x (rows, inner) -> (rows, out), both float32.

    Whole numbers go through kernels.gemm. Where the input stays float, or sums may leave int32 (pot6), the product runs
    in float64 and is rounded once.
    """

    def __init__(self, layer: PackedLayer, activations: str) -> None:
        self.bias, self.input_scale, self.scale = layer.bias, layer.input_scale, layer.scale
        levels = layer.levels
        self.whole: gemm.Layer | None = None
        if self.scale is not None:
            self.scale = np.ascontiguousarray(np.broadcast_to(self.scale, layer.bias.shape))
        if self.input_scale is not None and levels is not None and self.scale is not None:
            self.low, self.high = activation_range(activations, layer.unsigned)
            self.scale = np.float32(self.input_scale) * self.scale
            largest = int(np.abs(levels).max(initial=0))
            if largest <= 128 and max(-self.low, self.high) * largest * levels.shape[1] < 2**31:
                codes = layer.codes if bits_of(layer.scheme) == 4 else None
                table = None if codes is None else level_set(layer.scheme).by_code
                weights = gemm.arrange(levels, self.low, self.high, codes=codes, table=table)
                self.whole = gemm.Layer(weights, np.float32(self.input_scale), self.scale, self.bias)
                return
        weight = layer.weight if levels is None else levels
        assert weight is not None
        self.wide = weight.T.astype(np.float64)

    def __call__(self, x: F32, out: F32 | None = None, room: _Room | None = None) -> F32:
        """The result; in `out`, if there is such an array, and by means of the arrays of a room."""
        if self.whole is not None:
            return gemm.linear(x, self.whole, out, None if room is None else room.linear)
        values = x.astype(np.float64)
        if self.input_scale is not None:
            scaled = x / np.float32(self.input_scale)
            values = np.clip(np.trunc(scaled + np.copysign(BELOW_HALF, scaled)), self.low, self.high).astype(np.float64)
        sums = (values @ self.wide).astype(np.float32)
        return np.add(sums if self.scale is None else sums * self.scale, self.bias, out=out)


class Engine:
    """Predicts with a PackedModel's weights; made once, used for any number of images."""

    def __init__(self, model: PackedModel) -> None:
        self.model, self.config = model, model.config
        if os.environ.get(gemm.VARIABLE):
            require_choice(gemm.VARIABLE, os.environ[gemm.VARIABLE], gemm.supported())
        self.path = gemm.chosen_path()
        self.pixel_values = _pixel_values(model.mean, model.std)
        self.linear = {name: _Linear(layer, model.activations) for name, layer in model.layers.items()}
        self.attention = [self._attention(i) for i in range(self.config.depth)]
        self._rooms: list[_Room] = []  # that no thread works in at the moment

    def _attention(self, i: int) -> Attention | None:
        """What a block's attention rounds to; None where activations stay float."""
        model, heads, width = self.model, self.config.heads_of(i), self.config.head_width
        if model.attention_scales is None:
            return None
        low, high = activation_range(model.activations, False)
        top, log2 = model.probability_top, model.probabilities == LOG2
        return attention_of(heads, width, model.attention_scales[i], low, high, top, self.path, log2)

    def predict(self, images: Any, batch_size: int = 4, threads: int | None = None) -> F32:
        """Logits (N, num_classes) of images (N, C, H, W); see PackedModel.predict."""
        require_int("batch_size", batch_size)
        count = require_int("threads", _processors() if threads is None else threads)
        pixels = self._checked(images)
        logits = np.empty((len(pixels), self.config.num_classes), np.float32)

        def work(part: slice) -> None:
            logits[part] = self._forward(self._normalised(pixels[part]))

        run(work, pieces(len(pixels), batch_size), count)
        return logits

    def _checked(self, images: Any) -> NDArray[Any]:
        pixels = np.asarray(images)
        wanted = (self.config.in_channels, self.config.image_size, self.config.image_size)
        if pixels.ndim != 4 or pixels.shape[1:] != wanted:
            raise InputError("images", pixels.shape, f"the shape (N, {wanted[0]}, {wanted[1]}, {wanted[2]})")
        if pixels.dtype != np.uint8:
            if pixels.dtype.kind != "f":
                raise InputError("images", str(pixels.dtype), "uint8 pixels or normalised floats")
            if not np.isfinite(pixels).all():
                raise InputError("images", "NaN or infinite", "finite numbers")
        return pixels

    def _normalised(self, pixels: NDArray[Any]) -> F32:
        if pixels.dtype != np.uint8:
            return np.ascontiguousarray(pixels, np.float32)
        return np.stack([self.pixel_values[c][pixels[:, c]] for c in range(pixels.shape[1])], axis=1)

    def _forward(self, images: F32) -> F32:
        x = self._stem(images)
        if self.model.cls_token is not None:
            first = np.broadcast_to(self.model.cls_token, (len(x), 1, self.config.dim))
            x = np.concatenate([first, x], axis=1)
        x = x + self.model.pos_embed
        room = self._room(len(x), x.shape[1])
        for i in range(self.config.depth):
            self._block(x, i, room)
        if len(x) <= KEPT_IMAGES:
            self._rooms.append(room)
        if self.config.pool == "cls":  # the others are not looked at
            x = x[:, :1]
        return self.linear["head"](self._pool(self._norm(x, "norm")))

    def _room(self, images: int, tokens: int) -> _Room:
        """Room for one thread: what another left, or new."""
        try:
            room = self._rooms.pop()
        except IndexError:
            return _Room(self, images, tokens)
        return room if len(room.normed) == images else _Room(self, images, tokens)

    def _stem(self, images: F32) -> F32:
        """Images to tokens, (N, C, H, W) -> (N, tokens, dim)."""
        count, config = len(images), self.config
        if config.stem == "patch":
            side, grid = config.patch_size, config.grid
            cut = images.reshape(count, config.in_channels, grid, side, grid, side)
            patches = cut.transpose(0, 2, 4, 1, 3, 5).reshape(count * grid * grid, -1)
            return self.linear["stem.proj"](patches).reshape(count, grid * grid, config.dim)
        x = images
        for name in [name for name in self.linear if name.startswith("stem.convs.")]:
            size = x.shape[2]
            padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
            patches = np.ascontiguousarray(windows.transpose(0, 2, 3, 1, 4, 5)).reshape(count * size * size, -1)
            y = np.maximum(self.linear[name](patches), 0).reshape(count, size, size, -1).transpose(0, 3, 1, 2)
            x = _max_pool(y)
        return np.ascontiguousarray(x.reshape(count, config.dim, -1).transpose(0, 2, 1))

    def _block(self, x: F32, i: int, room: _Room) -> None:
        """x (N, tokens, dim) becomes the output of the block."""
        name, normed = f"blocks.{i}", room.normed
        self._norm(x, f"{name}.norm1", normed)
        self._rows(f"{name}.attn.qkv", normed, room.qkv[i], room)
        self._attend(i, room)
        self._rows(f"{name}.attn.proj", room.context[i], normed, room)
        x += normed
        self._norm(x, f"{name}.norm2", normed)
        self._rows(f"{name}.mlp.fc1", normed, room.hidden[i], room)
        nonlinear.gelu(room.hidden[i].reshape(-1), room.active[i].reshape(-1))  # in place it would run value by value
        self._rows(f"{name}.mlp.fc2", room.active[i], normed, room)
        x += normed

    def _attend(self, i: int, room: _Room) -> None:
        how = self.attention[i]
        if how is None:
            room.context[i][:] = _float_attention(room.qkv[i], self.config.heads_of(i), self.config.head_width)
        else:
            attention(room.qkv[i], how, room.context[i], room.attention)

    def _pool(self, tokens: F32) -> F32:
        if self.config.pool == "cls":
            return np.ascontiguousarray(tokens[:, 0])
        if self.config.pool == "mean":
            return tokens.astype(np.float64).mean(1).astype(np.float32)
        scores = self.linear["pool_score"](tokens.reshape(-1, self.config.dim)).reshape(tokens.shape[:2])
        weights = np.empty_like(scores)
        nonlinear.softmax(np.ascontiguousarray(scores), weights)
        return (weights[:, None].astype(np.float64) @ tokens.astype(np.float64))[:, 0].astype(np.float32)

    def _norm(self, x: F32, name: str, out: F32 | None = None) -> F32:
        out = np.empty(x.shape, np.float32) if out is None else out
        rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
        nonlinear.layer_norm(rows, *self.model.norms[name], self.model.eps, out.reshape(-1, x.shape[-1]))
        return out

    def _rows(self, name: str, x: F32, out: F32, room: _Room) -> None:
        """A linear layer on the last axis."""
        self.linear[name](x.reshape(-1, x.shape[-1]), out.reshape(-1, out.shape[-1]), room)


class _Room:
    """Arrays that the blocks work in, for a number of images: kept from one call to the next, for fresh memory costs as
    much as some of the work.

    Attributes:
        normed: (images, tokens, dim).
        qkv, context, hidden, active: for each block, (images, tokens, its width); they share their memory.
        linear: what kernels.gemm works in.
        attention: what kernels.attention works in.
    """

    def __init__(self, engine: Engine, images: int, tokens: int) -> None:
        config, size = engine.config, images * tokens
        inside = [config.heads_of(i) * config.head_width for i in range(config.depth)]
        hidden = [config.hidden_of(i) for i in range(config.depth)]
        self.normed = np.empty((images, tokens, config.dim), np.float32)
        wide = np.empty(size * max(3 * max(inside), max(hidden)), np.float32)
        second = np.empty(size * max(*inside, *hidden), np.float32)

        def cut(room: F32, widths: list[int]) -> list[F32]:
            return [room[: size * width].reshape(images, tokens, width) for width in widths]

        self.qkv, self.hidden = cut(wide, [3 * width for width in inside]), cut(wide, hidden)
        self.context, self.active = cut(second, inside), cut(second, hidden)
        self.linear = gemm.room([one.whole for one in engine.linear.values() if one.whole is not None], size)
        self.attention = attention_room(tokens, max(map(config.heads_of, range(config.depth))), config.head_width)


def _processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pixel_values(mean: NDArray[np.float64], std: NDArray[np.float64]) -> F32:
    """The normalised value of each uint8 pixel, (channels, 256), as `vit.image_set.ImageSet.normalise` has it: factor
    and shift in float32, their multiply-add rounded once."""
    scale, shift = (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)
    return (np.arange(256.0) * scale[:, None].astype(np.float64) + shift[:, None]).astype(np.float32)


def _max_pool(x: F32) -> F32:
    """3x3 max-pooling with stride 2 and padding 1, (N, C, H, W) -> (N, C, ceil(H/2), ceil(W/2))."""
    size = (x.shape[2] + 1) // 2
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    places = [(i, j) for i in range(3) for j in range(3)]
    return np.maximum.reduce([padded[:, :, i : i + 2 * size - 1 : 2, j : j + 2 * size - 1 : 2] for i, j in places])


def _float_attention(qkv: F32, heads: int, width: int) -> F32:
    """Attention where activations stay float: both products in float64, rounded to float32 once."""
    count, tokens, _ = qkv.shape
    q, k, v = qkv.reshape(count, tokens, 3, heads, width).transpose(2, 0, 3, 1, 4).astype(np.float64)
    scores = (q @ k.transpose(0, 1, 3, 2)).astype(np.float32) * np.float32(width**-0.5)
    weights = np.empty_like(scores)
    nonlinear.softmax(scores.reshape(-1, tokens), weights.reshape(-1, tokens))
    context = (weights.astype(np.float64) @ v).astype(np.float32)
    return np.ascontiguousarray(context.transpose(0, 2, 1, 3)).reshape(count, tokens, heads * width)
