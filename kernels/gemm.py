"""Linear layers on whole numbers: activations are rounded to codes, multiplied exactly in int32, scaled once.

Four paths with one result, chosen from the CPU's features or by the environment variable TILEVIT_KERNELS:

    vnni512   vpdpbusd on 8-bit values, 64 at a time (AVX-512 VNNI)
    vnni      the same, 32 at a time (AVX-VNNI, or AVX-512 VNNI with VL)
    avx2      vpmaddubsw and vpmaddwd on 8-bit values where every |weight| <= 64, else vpmaddwd on 16-bit values
    portable  plain vector operations on 16-bit values, for any CPU

The weights of a layer lie in tiles of 16 columns. A tile is a sequence of steps over the inner dimension, each 4 values
(8-bit) or 2 (16-bit) of each column, the columns side by side; 4-bit codes take half a byte, those of columns 0 to 7
the low halves and those of columns 8 to 15 the high ones. Inner dimension and columns are padded with zeros, and for
vnni512 the inner dimension to whole turns of its loop.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import kept
from kernels.cpu import AVX2, PATHS, PORTABLE, can_take
from kernels.pot import round_clip
from kernels.tiles import BYTES, COLUMNS, FOUR_BIT, INSTRUCTIONS, WORDS, product

F32 = NDArray[np.float32]

VARIABLE = "TILEVIT_KERNELS"
PANEL = 64  # rows worked on at a time: their codes and sums stay in the second-level cache


class Weights(NamedTuple):
    """A layer's weights as its kernel wants them.

    Attributes:
        path: index into PATHS.
        kind: BYTES, FOUR_BIT or WORDS.
        data: the tiles, uint8.
        table: 16 levels by 4-bit code, int8; zeros where the weights are no codes.
        offsets: what to take off each column's sum, int32, because `shift` was added to every activation.
        inner, columns: values of a row of activations, and of the result.
        stride: activations of a row as the kernel reads it, padded.
        low, high: range of the activations' whole numbers.
        shift: what is added to an activation's whole number, so that it fits a byte without sign.
    """

    path: int
    kind: int
    data: NDArray[np.uint8]
    table: NDArray[np.int8]
    offsets: NDArray[np.int32]
    inner: int
    columns: int
    stride: int
    low: int
    high: int
    shift: int


class Layer(NamedTuple):
    """A linear layer: float32(codes(x / x_scale) @ weights) * scale + bias.

    Attributes:
        weights: as `arrange` gives them.
        x_scale: what one whole number of the activations counts.
        scale, bias: float32 (columns,).
    """

    weights: Weights
    x_scale: np.float32
    scale: F32
    bias: F32


def supported() -> tuple[str, ...]:
    """The paths that this CPU can take, best first."""
    able = [path for i, path in enumerate(PATHS) if can_take(i)]
    return tuple(path for path in able if path == PATHS[PORTABLE] or _is_exact(path))


@cache
def _is_exact(path: str) -> bool:
    """Whether a vector path multiplies right on this very CPU, the largest products included: asked once a process."""
    levels, table = np.array([[-64, 64, 1, 0, -2]] * 17), np.arange(-8, 8)
    wide = np.array([[-128, 127, 1, 0, -2]] * 17)
    codes = np.arange(85, dtype=np.uint8).reshape(17, 5) % 16
    a = np.array([[255, 255, 0, 7, 255], [0, 255, 255, 255, 1], [9, 8, 7, 6, 5], [255] * 5, [1] * 5])
    cases = [arrange(levels, 0, 255, path=path), arrange(wide, 0, 255, path=path)]
    cases.append(arrange(table[codes], 0, 255, codes=codes, table=table, path=path))
    expected = [a @ levels.T, a @ wide.T, a @ table[codes].T]
    return all(np.array_equal(matmul(a, case), right) for case, right in zip(cases, expected, strict=True))


def chosen_path() -> str:
    """The path in use: that of the environment variable TILEVIT_KERNELS, else the best that the CPU can take.

    Raises:
        ValueError: the variable names no path, or one that this CPU cannot take.
    """
    asked, able = os.environ.get(VARIABLE, ""), supported()
    if asked and asked not in able:
        raise ValueError(f"{VARIABLE} = {asked!r}: allowed on this CPU is one of {', '.join(able)}")
    return asked or able[0]


def arrange(
    levels: NDArray[np.integer[Any]],
    low: int,
    high: int,
    *,
    codes: NDArray[np.uint8] | None = None,
    table: NDArray[np.int64] | None = None,
    path: str | None = None,
) -> Weights:
    """A layer's weights laid out for the path in use.

    Args:
        levels: whole-number weights (out, inner), within int8.
        low, high: range of the activations' whole numbers, within [-128, 255].
        codes, table: the same weights as 4-bit codes (out, inner) and the 16 levels these stand for, if there are such.
        path: one of PATHS; by default `chosen_path()`.
    """
    taken = PATHS.index(path or chosen_path())
    columns, inner = levels.shape
    table4 = np.zeros(16, np.int8) if table is None else table.astype(np.int8)
    if taken == PORTABLE or (taken == AVX2 and np.abs(levels).max(initial=0) > 64):
        kind, turn = WORDS, 2
    else:
        kind, turn = BYTES if codes is None or table is None else FOUR_BIT, 4
    turn *= INSTRUCTIONS[taken, WORDS if kind == WORDS else BYTES].unrolled
    if kind == WORDS:
        data = _tiles(levels.astype(np.int16), 2, turn)
    elif codes is None or kind == BYTES:
        data = _tiles(levels.astype(np.int8), 4, turn)
    else:
        steps = _tiles(codes, 4, turn).reshape(-1, 2, 32)
        data = (steps[:, 0] | steps[:, 1] << np.uint8(4)).reshape(-1)
    shift = 128 if low < 0 and kind != WORDS else 0
    offsets = (levels.sum(1) * shift).astype(np.int32)
    stride = -(-inner // turn) * turn
    return Weights(taken, kind, data, table4, offsets, inner, columns, stride, low, high, shift)


# Arrays that `linear` works in, flat: for the codes of a panel of rows, its sums, and a tile of decoded weights.
Room = tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.uint8]]


def room(layers: Iterable[Layer], rows: int) -> Room:
    """For any of these layers on up to that many rows."""
    panel, weights = min(PANEL, rows), [layer.weights for layer in layers]
    longest = max((one.stride * (2 if one.kind == WORDS else 1) for one in weights), default=0)
    sums = np.empty(panel * max(map(_width, weights), default=0), np.int32)
    return np.empty(panel * longest, np.uint8), sums, np.empty(COLUMNS * longest, np.uint8)


def linear(x: F32, layer: Layer, out: F32 | None = None, within: Room | None = None) -> F32:
    """A layer of whole rows, (rows, inner) -> (rows, columns): exact sums, then two roundings.

    Args:
        out, within: what to write to and to work in, if they are there; fresh memory costs as much as a small product.
    """
    out = np.empty((x.shape[0], layer.weights.columns), np.float32) if out is None else out
    plain = (tuple(layer.weights), *layer[1:])  # numba takes half as long to tell the type of plain tuples
    _linear(x, plain, within or room([layer], len(x)), out)
    return out


def matmul(a: NDArray[np.integer[Any]], weights: Weights) -> NDArray[np.int32]:
    """The accumulators alone: activations' whole numbers (rows, inner) @ weights, int32."""
    codes = np.zeros((len(a), weights.stride), np.int16 if weights.kind == WORDS else np.uint8)
    codes[:, : weights.inner] = a + weights.shift
    sums = np.empty((len(a), _width(weights)), np.int32)
    multiply(codes, tuple(weights), np.empty(COLUMNS * weights.stride, np.uint8), sums)
    found: NDArray[np.int32] = sums[:, : weights.columns] - weights.offsets
    return found


def _width(weights: Weights) -> int:
    """Columns of the sums: in whole tiles."""
    return -(-weights.columns // COLUMNS) * COLUMNS


def _tiles(values: NDArray[Any], group: int, turn: int) -> NDArray[np.uint8]:
    """(out, inner) as tiles of 16 columns by steps of `group` values, a multiple of `turn` values, flat bytes."""
    columns, inner = (-(-size // whole) * whole for size, whole in zip(values.shape, (COLUMNS, turn), strict=True))
    padded = np.zeros((columns, inner), values.dtype)
    padded[: values.shape[0], : values.shape[1]] = values
    cut = padded.reshape(-1, COLUMNS, inner // group, group)
    return np.ascontiguousarray(cut.transpose(0, 2, 1, 3)).reshape(-1).view(np.uint8)


@kept(_nrt=False)
def multiply(codes, weights, decoded, sums):  # type: ignore[no-untyped-def]
    """sums (rows, whole tiles of columns) = codes (rows, stride) @ weights, int32.

    The codes are uint8, or int16 for WORDS; `weights` is a plain tuple, `decoded` room for a tile.
    """
    path, kind, data, table, _, _, _, _, _, _, _ = weights
    stride = codes.shape[1] * codes.itemsize
    at, levels, tile = codes.ctypes.data, table.ctypes.data, decoded.ctypes.data
    product(path, kind, at, stride, stride // 4, data.ctypes.data, levels, tile, sums)


@kept(error_model="numpy", _nrt=False)
def _linear(x, layer, room, out):  # type: ignore[no-untyped-def]
    """out (rows, columns) = the layer of x (rows, inner)."""
    (path, kind, data, table, offsets, _, columns, stride, low, high, shift), x_scale, scale, bias = layer
    codes, sums, decoded = room
    width, row_bytes = -(-columns // COLUMNS) * COLUMNS, stride * 2 if kind == WORDS else stride
    at, tiles, levels, tile = codes.ctypes.data, data.ctypes.data, table.ctypes.data, decoded.ctypes.data
    for start in range(0, len(x), PANEL):
        count = min(PANEL, len(x) - start)
        part, whole = slice(start, start + count), codes[: count * row_bytes]
        totals = sums[: count * width].reshape(count, width)
        if kind == WORDS:
            _to_codes(x[part], x_scale, low, high, shift, whole.view(np.int16).reshape(count, stride))
        else:
            _to_codes(x[part], x_scale, low, high, shift, whole.reshape(count, stride))
        product(path, kind, at, row_bytes, row_bytes // 4, tiles, levels, tile, totals)
        _scaled(totals, offsets, scale, bias, out[part])


@kept(error_model="numpy", _nrt=False)
def _to_codes(x, scale, low, high, shift, codes):  # type: ignore[no-untyped-def]
    """codes = x / scale rounded, within [low, high], plus `shift`; zeros behind them."""
    rows, inner = x.shape
    lowest, highest, more = np.float32(low), np.float32(high), np.int32(shift)
    for i in range(rows):
        for k in range(inner):  # int32 + int32 is an int64 to numba, which would halve the speed
            codes[i, k] = np.int32(np.int32(round_clip(x[i, k] / scale, lowest, highest)) + more)
        codes[i, inner:] = 0


@kept(_nrt=False)
def _scaled(sums, offsets, scale, bias, out):  # type: ignore[no-untyped-def]
    """out = float32(sums - offsets) * scale + bias."""
    rows, columns = out.shape
    for i in range(rows):
        for j in range(columns):
            out[i, j] = np.float32(np.int32(sums[i, j] - offsets[j])) * scale[j] + bias[j]
