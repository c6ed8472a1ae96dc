"""Plain NumPy counterparts of the quantiser, written to be read against its definition."""

from __future__ import annotations

import numpy as np

LEVELS = {
    "pot4": [0, *(2**k for k in range(7))],
    "pot6": [0, *(2**k for k in range(31))],
    "apot4": [0, 1, 2, 3, 4, 6, 8, 10],
    "apot6": [*range(9), 10, 12, 14, 16, 17, 20, 21, 24, 28, 32, 34, 36, 38, 48, 52, 64, 65, 68, 69, 72, 76, 96, 100],
}
for _scheme in list(LEVELS):
    LEVELS[_scheme] = sorted({sign * value for value in LEVELS[_scheme] for sign in (1, -1)})
for _bits in (4, 6, 8):
    LEVELS[f"int{_bits}"] = list(range(-(2 ** (_bits - 1)), 2 ** (_bits - 1)))


def nearest(scaled: np.ndarray, scheme: str) -> np.ndarray:
    """The level nearest to each float32, by its distance to every level in float64; a tie goes away from zero."""
    levels = np.array(LEVELS[scheme], np.float64)
    order = np.argsort(-np.abs(levels), kind="stable")  # of equals, argmin takes the first: the larger magnitude
    bounded = np.clip(scaled.astype(np.float64), levels[0], levels[-1])
    return levels[order][np.abs(bounded[..., None] - levels[order]).argmin(-1)]


def nearest_power(x: np.ndarray, exponents: int) -> np.ndarray:
    """The nearest of 0 and 2^0 to 2^exponents to each float32 >= 0, int64; of two that are as near the larger."""
    powers = np.array([*(2**k for k in range(exponents, -1, -1)), 0], np.float64)
    return powers[np.abs(np.minimum(x.astype(np.float64), powers[0])[..., None] - powers).argmin(-1)].astype(np.int64)


def fake_quantize_gradients(
    x: np.ndarray, log2_scale: float, grad: np.ndarray, scheme: str, low: float, high: float, values: int
) -> tuple[np.ndarray, float]:
    """LSQ's gradients (Esser et al. 2020, equations 2, 3 and 5) with the nearest level, by the scale's logarithm."""
    scale = 2.0**log2_scale
    scaled = x.astype(np.float64) / scale
    level = nearest(scaled.astype(np.float32), scheme) if scheme in LEVELS else np.clip(np.rint(scaled), low, high)
    inside = (scaled >= low) & (scaled <= high)
    to_scale = (grad * np.where(inside, level - scaled, level)).sum() / np.sqrt(values * high)
    return grad * inside, to_scale * scale * np.log(2)


def integer_matmul(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """a @ w in int64."""
    return a.astype(np.int64) @ w.astype(np.int64)


def pack(codes: list[int], bits: int) -> list[int]:
    """Codes as bytes through one long whole number, lowest bits first."""
    number = sum(code << (bits * i) for i, code in enumerate(codes))
    group = {4: 2, 6: 4, 8: 1}[bits]
    size = -(-len(codes) // group) * group * bits // 8
    return list(number.to_bytes(size, "little"))
