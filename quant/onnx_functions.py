"""Rounding, LayerNorm, softmax and GELU of a quantised network as ONNX functions: the definitions of kernels.nonlinear
and kernels.integer, operator by operator, so that a runtime has nothing of its own to put in their place."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import FunctionProto, parser

from kernels import nonlinear as kernel
from kernels.pot import BELOW_HALF
from quant.onnx_graph import OPSET

DOMAIN = "tilevit"
_POWERS = 128  # 2^0 to 2^-127: exp is 0 below EXP_LOWEST, which is above -127 ln 2


def definitions() -> list[FunctionProto]:
    """Codes(x, scale, low, high, zero), Power(x, midpoints, powers), LayerNorm(x, weight, bias, eps), Softmax(x) and
    Gelu(x), in DOMAIN."""
    return [
        _function("Codes (x, scale, low, high, zero) => (codes)", _CODES),
        _function("Power (x, midpoints, powers) => (y)", _POWER),
        _function("LayerNorm (x, weight, bias, eps) => (y)", _LAYER_NORM),
        _function("Softmax (x) => (y)", _softmax()),
        _function("Gelu (x) => (y)", _gelu()),
    ]


# x / scale to the nearest whole number, ties away from zero, within [low, high]; `zero` is added: the code of 0.
_CODES = f"""
    scaled = Div (x, scale)
    magnitude = Abs (scaled)
    sign = Sign (scaled)
    below_half = Constant <value = float {{{float(BELOW_HALF)!r}}}> ()
    raised = Add (magnitude, below_half)
    whole = Floor (raised)
    signed = Mul (sign, whole)
    level = Clip (signed, low, high)
    moved = Add (level, zero)
    codes = Cast <to = 2> (moved)
"""

# The power of as many as there are midpoints that x has reached.
_POWER = """
    last = Constant <value = int64[1] {-1}> ()
    column = Unsqueeze (x, last)
    reached = GreaterOrEqual (column, midpoints)
    ones = Cast <to = 7> (reached)
    index = ReduceSum <keepdims = 0> (ones, last)
    y = Gather (powers, index)
"""

_LAYER_NORM = """
    last = Constant <value = int64[1] {-1}> ()
    wide = Cast <to = 11> (x)
    wide_weight = Cast <to = 11> (weight)
    wide_bias = Cast <to = 11> (bias)
    mean = ReduceMean (wide, last)
    deviation = Sub (wide, mean)
    square = Mul (deviation, deviation)
    variance = ReduceMean (square, last)
    raised = Add (variance, eps)
    root = Sqrt (raised)
    inverse = Reciprocal (root)
    normal = Mul (deviation, inverse)
    scaled = Mul (normal, wide_weight)
    result = Add (scaled, wide_bias)
    y = Cast <to = 1> (result)
"""


def _softmax() -> str:
    powers = ", ".join(repr(float(np.float32(2.0**-n))) for n in range(_POWERS))
    return f"""
    last = Constant <value = int64[1] {{-1}}> ()
    largest = ReduceMax (x, last)
    below = Sub (x, largest)
    {_constants(lowest=kernel.EXP_LOWEST, log2e=kernel.LOG2E, high=kernel.LN2_HIGH, low=kernel.LN2_LOW)}
    {_constants(half=0.5, one=1.0, nothing=0.0)}
    bounded = Max (below, lowest)
    octaves = Mul (bounded, log2e)
    raised = Add (octaves, half)
    n = Floor (raised)
    n_high = Mul (n, high)
    n_low = Mul (n, low)
    r_high = Sub (bounded, n_high)
    r = Sub (r_high, n_low)
    {_horner("p", "r", kernel.EXP_POLYNOMIAL)}
    r_square = Mul (r, r)
    p_square = Mul (p, r_square)
    p_linear = Add (p_square, r)
    mantissa = Add (p_linear, one)
    powers = Constant <value = float[{_POWERS}] {{{powers}}}> ()
    minus_n = Neg (n)
    index = Cast <to = 7> (minus_n)
    power = Gather (powers, index)
    product = Mul (mantissa, power)
    inside = GreaterOrEqual (below, lowest)
    exponential = Where (inside, product, nothing)
    wide = Cast <to = 11> (exponential)
    total = ReduceSum (wide, last)
    wide_inverse = Reciprocal (total)
    inverse = Cast <to = 1> (wide_inverse)
    y = Mul (exponential, inverse)
"""


def _gelu() -> str:
    return f"""
    {_constants(root_half=kernel.ROOT_HALF, bottom=-kernel.ERF_LIMIT, top=kernel.ERF_LIMIT, half=0.5, one=1.0)}
    scaled = Mul (x, root_half)
    t = Clip (scaled, bottom, top)
    s = Mul (t, t)
    {_horner("above", "s", kernel.ERF_ABOVE)}
    {_horner("below", "s", kernel.ERF_BELOW)}
    t_above = Mul (t, above)
    erf = Div (t_above, below)
    raised = Add (erf, one)
    half_x = Mul (half, x)
    y = Mul (half_x, raised)
"""


def _horner(name: str, x: str, coefficients: tuple[Any, ...]) -> str:
    """Lines that set `name` to the polynomial of x, highest coefficient first."""
    lines = [_constants(**{f"{name}_c{i}": c for i, c in enumerate(coefficients)})]
    last = f"{name}_c0"
    for i in range(1, len(coefficients)):
        result = name if i == len(coefficients) - 1 else f"{name}_s{i}"
        lines += [f"{name}_m{i} = Mul ({last}, {x})", f"{result} = Add ({name}_m{i}, {name}_c{i})"]
        last = result
    return "\n    ".join(lines)


def _constants(**values: Any) -> str:
    """Lines that name float32 constants."""
    return "\n    ".join(f"{name} = Constant <value = float {{{float(v)!r}}}> ()" for name, v in values.items())


def _function(signature: str, body: str) -> FunctionProto:
    return parser.parse_function(f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]> {signature} {{{body}}}')
