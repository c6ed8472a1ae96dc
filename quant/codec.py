"""Weights to codes and back: the nearest level of w / scale, ties away from zero. NumPy in and out, or torch tensors.

The value that is rounded is the float32 quotient w / scale, as IEEE 754 rounds it; its nearest level is then exact for
every float32, subnormal numbers and infinities (which saturate) included. torch itself is never imported here.
"""

from __future__ import annotations

import sys
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kernels.pot import pot4_codes, table_codes, uniform_codes
from quant.level_sets import level_set
from vit.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    Array = TypeVar("Array", NDArray[Any], Tensor)
else:
    Array = TypeVar("Array")


def encode(w: Array, scale: Any, scheme: str) -> Array:
    """The code of the level nearest to each weight.

    Args:
        w: float32 weights of any shape, a NumPy array or a torch tensor; other real types are converted to float32.
        scale: positive and finite; a number, or an array that broadcasts against `w` (one an output channel: (out, 1)).
            A one-dimensional scale as long as w's first axis is taken as one an output channel.
        scheme: a name from `quant.SCHEMES`.

    Returns:
        uint8 codes, the shape of `w`; a tensor on w's device if `w` is one.

    Raises:
        InputError: a weight is NaN, a scale is not positive and finite, or the scheme is unknown.
    """
    _warn_pot6(scheme)
    return _in_kind(w, _encode(_numpy(w, "w"), scale, scheme))


def decode(codes: Array, scale: Any, scheme: str) -> Array:
    """The weights of codes: level times scale, in float32.

    Raises:
        InputError: a code that the scheme does not use, or a bad scale.
    """
    plain = _codes(codes, scheme)
    return _in_kind(codes, _float_levels(scheme)[plain] * _scale_for(scale, plain.shape))


def quantize(w: Array, scale: Any, scheme: str) -> Array:
    """The nearest representable weights: decode(encode(w)). Arguments and errors as `encode`."""
    _warn_pot6(scheme)
    plain = _encode(_numpy(w, "w"), scale, scheme)
    return _in_kind(w, _float_levels(scheme)[plain] * _scale_for(scale, plain.shape))


def code_levels(codes: NDArray[np.uint8], scheme: str) -> NDArray[np.int64]:
    """The integer level of each code.

    Raises:
        InputError: a code that the scheme does not use.
    """
    return level_set(scheme).by_code[_codes(codes, scheme)]


def nearest(scaled: NDArray[np.float32], scheme: str) -> NDArray[np.float32]:
    """The level nearest to each scaled weight, as float32; NaN is the caller's to refuse."""
    codes = _nearest_codes(np.ascontiguousarray(scaled, np.float32), scheme)
    return _float_levels(scheme)[codes]


def _encode(w: NDArray[np.float32], scale: Any, scheme: str) -> NDArray[np.uint8]:
    if np.isnan(w).any():
        raise InputError("w", "NaN", "numbers; NaN has no nearest level")
    with np.errstate(over="ignore", under="ignore"):
        scaled = np.ascontiguousarray(w / _scale_for(scale, w.shape), np.float32)
    return _nearest_codes(scaled, scheme)


def _nearest_codes(scaled: NDArray[np.float32], scheme: str) -> NDArray[np.uint8]:
    tables = level_set(scheme)
    codes = np.empty(scaled.shape, np.uint8)
    if scheme == "pot4":
        pot4_codes(scaled.reshape(-1), codes.reshape(-1))
    elif tables.uniform:
        uniform_codes(scaled.reshape(-1), tables.low, tables.high, codes.reshape(-1))
    else:
        table_codes(scaled.reshape(-1), tables.midpoints, 2 ** (tables.bits - 1), codes.reshape(-1))
    return codes


@cache
def _float_levels(scheme: str) -> NDArray[np.float32]:
    return level_set(scheme).by_code.astype(np.float32)


def _codes(codes: Any, scheme: str) -> NDArray[np.uint8]:
    tables = level_set(scheme)
    plain = codes.detach().cpu().numpy() if _is_tensor(codes) else np.asarray(codes)
    if plain.dtype.kind not in "ui":
        raise InputError("codes", str(plain.dtype), "an integer array")
    if plain.size and (plain.min() < 0 or plain.max() >= 2**tables.bits):
        raise InputError("codes", int(plain.max()), f"0 to {2**tables.bits - 1} for {scheme}")
    plain = plain.astype(np.uint8)
    if not tables.valid[plain].all():
        wrong = int(plain.reshape(-1)[np.argmin(tables.valid[plain].reshape(-1))])
        raise InputError("codes", wrong, f"a code that {scheme} uses; {wrong} stands for no level")
    return plain


def _scale_for(scale: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The scale as float32 that broadcasts against `shape`."""
    plain = _numpy(scale, "scale")
    if not (np.isfinite(plain).all() and (plain > 0).all()):
        bad = plain.reshape(-1)[np.argmin((np.isfinite(plain) & (plain > 0)).reshape(-1))]
        raise InputError("scale", float(bad), "positive and finite numbers")
    if plain.ndim == 1 and len(shape) > 1 and plain.shape[0] == shape[0] != 1:
        plain = plain.reshape(-1, *[1] * (len(shape) - 1))
    try:
        fits = np.broadcast_shapes(plain.shape, shape) == tuple(shape)
    except ValueError:
        fits = False
    if not fits:
        raise InputError("scale", plain.shape, f"a shape that broadcasts against {tuple(shape)}")
    return plain


def _numpy(values: Any, field: str) -> NDArray[np.float32]:
    plain = values.detach().cpu().float().numpy() if _is_tensor(values) else np.asarray(values)
    if plain.dtype.kind not in "fiu":
        raise InputError(field, str(plain.dtype), "real numbers")
    with np.errstate(over="ignore"):
        return plain.astype(np.float32, copy=False)


def _in_kind(like: Any, result: NDArray[Any]) -> Any:
    """The result as what the caller gave: a NumPy array, or a tensor on the same device."""
    return sys.modules["torch"].from_numpy(result).to(like.device) if _is_tensor(like) else result


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")  # a tensor exists only where torch was imported already
    return torch is not None and isinstance(value, torch.Tensor)


_warned: set[str] = set()


def _warn_pot6(scheme: str) -> None:
    if scheme == "pot6" and scheme not in _warned:
        _warned.add(scheme)
        warnings.warn(
            "pot6: a single power-of-two term gains nothing past 4 bits (14.3 dB on Gaussian weights, as pot4); "
            "apot6 reaches 27.3 dB with the same 6 bits",
            stacklevel=3,
        )
