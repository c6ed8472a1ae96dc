"""Linear layers on whole numbers: activations are rounded to codes, multiplied exactly in int32, scaled once.

Four paths with one result, chosen from the CPU's features or by the environment variable TILEVIT_KERNELS:

    vnni512   vpdpbusd on 8-bit values, 64 at a time (AVX-512 VNNI)
    vnni      the same, 32 at a time (AVX-VNNI, or AVX-512 VNNI with VL)
    avx2      vpmaddubsw and vpmaddwd on 8-bit values where every |weight| <= 64, else vpmaddwd on 16-bit values
    portable  plain loops that numba compiles for any CPU

The weights of a layer lie in tiles of 16 columns. A tile is a sequence of steps over the inner dimension, each 4 values
(8-bit) or 2 (16-bit) of each column, the columns side by side; 4-bit codes take half a byte, those of columns 0 to 7
the low halves and those of columns 8 to 15 the high ones. Inner dimension and columns are padded with zeros, and for
vnni512 the inner dimension to whole turns of its loop.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from llvmlite import binding
from numba import config as numba_config
from numpy.typing import NDArray

from kernels import x86
from kernels.compiled import kept
from kernels.pot import round_clip

F32 = NDArray[np.float32]

PATHS = ("vnni512", "vnni", "avx2", "portable")
VARIABLE = "TILEVIT_KERNELS"
PANEL = 64  # rows worked on at a time: their codes and sums stay in the second-level cache
BYTES, FOUR_BIT, WORDS = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Weights:
    """A layer's weights as its kernel wants them.

    Attributes:
        path: one of PATHS.
        kind: BYTES, FOUR_BIT or WORDS.
        data: the tiles, uint8; for "portable" the levels (inner, columns), int8.
        table: 16 levels by 4-bit code, int8; zeros where the weights are no codes.
        offsets: what to take off each column's sum, int32, because `shift` was added to every activation.
        low, high: range of the activations' whole numbers.
    """

    path: str
    kind: int
    data: NDArray[Any]
    table: NDArray[np.int8]
    offsets: NDArray[np.int32]
    inner: int
    columns: int
    low: int
    high: int

    @property
    def shift(self) -> int:
        """What is added to an activation's whole number, so that it fits a byte without sign."""
        return 128 if self.low < 0 and self.kind != WORDS else 0

    def room(self, rows: int) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Arrays for the codes and the sums of that many rows, padded as the kernel wants them."""
        turn = _turn(self.path, self.kind)
        codes = np.zeros((rows, -(-self.inner // turn) * turn), np.int16 if self.kind == WORDS else np.uint8)
        return codes, np.empty((rows, -(-self.columns // 16) * 16), np.int32)


def supported() -> tuple[str, ...]:
    """The paths that this CPU can take, best first."""
    features = _host_features()
    has_vnni = bool(features.get("avxvnni") or (features.get("avx512vnni") and features.get("avx512vl")))
    has_512 = bool(features.get("avx512vnni") and features.get("avx512bw"))
    able = {"vnni512": has_512, "vnni": has_vnni, "avx2": bool(features.get("avx2")), "portable": True}
    return tuple(path for path in PATHS if able[path] and (path == "portable" or _is_exact(path)))


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
    path = path or chosen_path()
    columns, inner = levels.shape
    table4 = np.zeros(16, np.int8) if table is None else table.astype(np.int8)
    if path == "portable":
        kind, data = WORDS, np.ascontiguousarray(_padded(levels.astype(np.int8), 16, 2).T)
    elif path == "avx2" and np.abs(levels).max(initial=0) > 64:
        kind, data = WORDS, _tiles(levels.astype(np.int16), 2, _turn(path, WORDS))
    elif codes is None or table is None:
        kind, data = BYTES, _tiles(levels.astype(np.int8), 4, _turn(path, BYTES))
    else:
        steps = _tiles(codes, 4, _turn(path, FOUR_BIT)).reshape(-1, 2, 32)
        kind, data = FOUR_BIT, (steps[:, 0] | steps[:, 1] << np.uint8(4)).reshape(-1)
    offsets = (levels.sum(1) * (128 if low < 0 and kind != WORDS else 0)).astype(np.int32)
    return Weights(path, kind, data, table4, offsets, inner, columns, low, high)


def linear(x: F32, x_scale: np.float32, weights: Weights, scale: F32, bias: F32, out: F32 | None = None) -> F32:
    """float32(codes(x) @ weights) * scale + bias, (rows, inner) -> (rows, columns): exact sums, then two roundings.
    In `out` if given."""
    w = weights
    out = np.empty((x.shape[0], weights.columns), np.float32) if out is None else out
    codes, sums = w.room(min(PANEL, len(x)))
    kernel: Any = _LINEAR[w.path]
    kernel(w.kind, x, x_scale, w.low, w.high, w.shift, w.data, w.table, w.offsets, scale, bias, codes, sums, out)
    return out


def matmul(a: NDArray[np.integer[Any]], weights: Weights) -> NDArray[np.int32]:
    """The accumulators alone: activations' whole numbers (rows, inner) @ weights, int32."""
    codes, sums = weights.room(len(a))
    codes[:, : weights.inner] = a + weights.shift
    kernel: Any = _SUMS[weights.path]
    kernel(weights.kind, codes, weights.data, weights.table, sums)
    found: NDArray[np.int32] = sums[:, : weights.columns] - weights.offsets
    return found


def _padded(values: NDArray[Any], columns: int, inner: int) -> NDArray[Any]:
    """(out, inner) with zeros up to whole multiples."""
    found = np.zeros((-(-values.shape[0] // columns) * columns, -(-values.shape[1] // inner) * inner), values.dtype)
    found[: values.shape[0], : values.shape[1]] = values
    return found


def _turn(path: str, kind: int) -> int:
    """Values of the inner dimension that a turn of the path's loop takes."""
    return (2 if kind == WORDS else 4) * (x86.UNROLLED if path == "vnni512" else 1)


def _tiles(values: NDArray[Any], group: int, turn: int) -> NDArray[np.uint8]:
    """(out, inner) as tiles of 16 columns by steps of `group` values, a multiple of `turn` values, flat bytes."""
    padded = _padded(values, 16, turn)
    cut = padded.reshape(-1, 16, padded.shape[1] // group, group)
    return np.ascontiguousarray(cut.transpose(0, 2, 1, 3)).reshape(-1).view(np.uint8)


@kept()
def _sums_portable(kind, a, data, table, sums):  # type: ignore[no-untyped-def]
    rows, inner = a.shape
    columns = data.shape[1]
    for i in range(rows):
        sums[i] = 0
        for k in range(inner):
            value = np.int32(a[i, k])
            for j in range(columns):
                sums[i, j] += value * np.int32(data[k, j])


@kept()
def _sums_avx2(kind, a, data, table, sums):  # type: ignore[no-untyped-def]
    rows, stride = a.shape[0], a.shape[1] * a.itemsize
    steps, width, codes = stride // 4, sums.shape[1] * 4, table.ctypes.data
    step_bytes = 32 if kind == FOUR_BIT else 64
    for column in range(0, sums.shape[1], 16):
        weights = data.ctypes.data + column // 16 * steps * step_bytes
        at, out = a.ctypes.data, sums.ctypes.data + column * 4
        for _ in range(rows // 4):
            if kind == WORDS:
                x86.words_tile(at, stride, weights, codes, steps, out, width)
            elif kind == BYTES:
                x86.bytes_tile(at, stride, weights, codes, steps, out, width)
            else:
                x86.bytes_tile_4bit(at, stride, weights, codes, steps, out, width)
            at, out = at + 4 * stride, out + 4 * width
        for _ in range(rows % 4):
            if kind == WORDS:
                x86.words_row(at, stride, weights, codes, steps, out, width)
            elif kind == BYTES:
                x86.bytes_row(at, stride, weights, codes, steps, out, width)
            else:
                x86.bytes_row_4bit(at, stride, weights, codes, steps, out, width)
            at, out = at + stride, out + width


@kept()
def _sums_vnni(kind, a, data, table, sums):  # type: ignore[no-untyped-def]
    rows, stride = a.shape
    steps, width, codes = stride // 4, sums.shape[1] * 4, table.ctypes.data
    step_bytes = 32 if kind == FOUR_BIT else 64
    for column in range(0, sums.shape[1], 16):
        weights = data.ctypes.data + column // 16 * steps * step_bytes
        at, out = a.ctypes.data, sums.ctypes.data + column * 4
        for _ in range(rows // 4):
            if kind == BYTES:
                x86.vnni_tile(at, stride, weights, codes, steps, out, width)
            else:
                x86.vnni_tile_4bit(at, stride, weights, codes, steps, out, width)
            at, out = at + 4 * stride, out + 4 * width
        for _ in range(rows % 4):
            if kind == BYTES:
                x86.vnni_row(at, stride, weights, codes, steps, out, width)
            else:
                x86.vnni_row_4bit(at, stride, weights, codes, steps, out, width)
            at, out = at + stride, out + width


@kept()
def _sums_vnni512(kind, a, data, table, sums):  # type: ignore[no-untyped-def]
    rows, stride = a.shape
    steps, width, codes = stride // 4, sums.shape[1] * 4, table.ctypes.data
    step_bytes = 32 if kind == FOUR_BIT else 64
    for column in range(0, sums.shape[1], 16):
        weights = data.ctypes.data + column // 16 * steps * step_bytes
        at, out = a.ctypes.data, sums.ctypes.data + column * 4
        for _ in range(rows // 8):
            if kind == BYTES:
                x86.vnni512_tile(at, stride, weights, codes, steps, out, width)
            else:
                x86.vnni512_tile_4bit(at, stride, weights, codes, steps, out, width)
            at, out = at + 8 * stride, out + 8 * width
        if rows & 4:
            if kind == BYTES:
                x86.vnni512_half(at, stride, weights, codes, steps, out, width)
            else:
                x86.vnni512_half_4bit(at, stride, weights, codes, steps, out, width)
            at, out = at + 4 * stride, out + 4 * width
        for _ in range(rows % 4):
            if kind == BYTES:
                x86.vnni512_row(at, stride, weights, codes, steps, out, width)
            else:
                x86.vnni512_row_4bit(at, stride, weights, codes, steps, out, width)
            at, out = at + stride, out + width


@kept(error_model="numpy")
def _to_codes(x, scale, low, high, shift, codes):  # type: ignore[no-untyped-def]
    """codes = x / scale rounded, within [low, high], plus `shift`."""
    rows, inner = x.shape
    lowest, highest = np.float32(low), np.float32(high)
    for i in range(rows):
        for k in range(inner):
            codes[i, k] = np.int32(round_clip(x[i, k] / scale, lowest, highest)) + np.int32(shift)


@kept()
def _scaled(sums, offsets, scale, bias, out):  # type: ignore[no-untyped-def]
    """out = float32(sums - offsets) * scale + bias."""
    rows, columns = out.shape
    for i in range(rows):
        for j in range(columns):
            out[i, j] = np.float32(np.int32(sums[i, j] - offsets[j])) * scale[j] + bias[j]


# One a path and not one for all: numba compiles for the CPU at hand, which may lack the instructions of the others.
@kept()
def _linear_portable(kind, x, x_scale, low, high, shift, data, table, offsets, scale, bias, codes, sums, out):  # type: ignore[no-untyped-def]
    for start in range(0, len(x), PANEL):
        part, count = slice(start, min(start + PANEL, len(x))), min(PANEL, len(x) - start)
        _to_codes(x[part], x_scale, low, high, shift, codes)
        _sums_portable(kind, codes[:count], data, table, sums[:count])
        _scaled(sums, offsets, scale, bias, out[part])


@kept()
def _linear_avx2(kind, x, x_scale, low, high, shift, data, table, offsets, scale, bias, codes, sums, out):  # type: ignore[no-untyped-def]
    for start in range(0, len(x), PANEL):
        part, count = slice(start, min(start + PANEL, len(x))), min(PANEL, len(x) - start)
        _to_codes(x[part], x_scale, low, high, shift, codes)
        _sums_avx2(kind, codes[:count], data, table, sums[:count])
        _scaled(sums, offsets, scale, bias, out[part])


@kept()
def _linear_vnni(kind, x, x_scale, low, high, shift, data, table, offsets, scale, bias, codes, sums, out):  # type: ignore[no-untyped-def]
    for start in range(0, len(x), PANEL):
        part, count = slice(start, min(start + PANEL, len(x))), min(PANEL, len(x) - start)
        _to_codes(x[part], x_scale, low, high, shift, codes)
        _sums_vnni(kind, codes[:count], data, table, sums[:count])
        _scaled(sums, offsets, scale, bias, out[part])


@kept()
def _linear_vnni512(kind, x, x_scale, low, high, shift, data, table, offsets, scale, bias, codes, sums, out):  # type: ignore[no-untyped-def]
    for start in range(0, len(x), PANEL):
        part, count = slice(start, min(start + PANEL, len(x))), min(PANEL, len(x) - start)
        _to_codes(x[part], x_scale, low, high, shift, codes)
        _sums_vnni512(kind, codes[:count], data, table, sums[:count])
        _scaled(sums, offsets, scale, bias, out[part])


_SUMS = {"portable": _sums_portable, "avx2": _sums_avx2, "vnni": _sums_vnni, "vnni512": _sums_vnni512}
_LINEAR = {"portable": _linear_portable, "avx2": _linear_avx2, "vnni": _linear_vnni, "vnni512": _linear_vnni512}


@cache
def _host_features() -> dict[str, bool]:
    """Features of the CPU that numba compiles for; none where numba was told to compile for another."""
    if getattr(numba_config, "CPU_NAME", None) or getattr(numba_config, "CPU_FEATURES", None):
        return {}
    return dict(binding.get_host_cpu_features())
