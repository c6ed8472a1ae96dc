"""Level sets and codec against the plain definition, for every exponent, every midpoint and their neighbours."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quant import SCHEMES, decode, encode, levels, quantize
from quant.level_sets import bits_of, level_set
from tests.quant.reference import LEVELS, nearest
from vit.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:pot6")
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=True)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_levels_are_the_published_ones_and_fit_their_bits(scheme: str) -> None:
    found = levels(scheme)
    assert found.dtype.kind == "i"
    assert found.tolist() == LEVELS[scheme]
    assert len(set(found.tolist())) <= 2 ** bits_of(scheme)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_zero_is_code_zero_and_every_used_code_comes_back(scheme: str) -> None:
    tables = level_set(scheme)
    assert tables.by_code[0] == 0
    codes = np.flatnonzero(tables.valid).astype(np.uint8)
    assert np.array_equal(encode(decode(codes, 0.5, scheme), 0.5, scheme), codes)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_midpoints_go_away_from_zero_and_their_neighbours_to_the_nearer_side(scheme: str) -> None:
    table = np.array(LEVELS[scheme], np.float64)
    middle = ((table[1:] + table[:-1]) / 2).astype(np.float32)
    values = np.concatenate([np.nextafter(middle, -np.inf), middle, np.nextafter(middle, np.inf)]).astype(np.float32)
    found = quantize(values, 1.0, scheme)
    assert np.array_equal(found, nearest(values, scheme).astype(np.float32))
    ties = quantize(middle, 1.0, scheme)
    positive = middle > 0
    assert (ties[positive] > middle[positive]).all()
    assert (ties[middle < 0] < middle[middle < 0]).all()


def test_pot4_is_exact_on_every_upper_half_of_a_float32() -> None:
    """2^24 float32 patterns: every sign, exponent and the 15 upper bits of the mantissa, with lower bits that vary."""
    table = np.array(LEVELS["pot4"], np.float32)
    thresholds = np.array([-48, -24, -12, -6, -3, -1.5, -0.5, 0.5, 1.5, 3, 6, 12, 24, 48], np.float32)
    for start in range(0, 2**24, 2**21):
        upper = np.arange(start, start + 2**21, dtype=np.uint32)
        bits = (upper << np.uint32(8)) | (upper * np.uint32(2654435761) >> np.uint32(24))
        bits[::3] &= np.uint32(0xFFFFFF00)
        values = bits.view(np.float32)
        values = values[~np.isnan(values)]
        positive = np.searchsorted(thresholds, np.abs(values), side="right")  # ties belong to the larger magnitude
        expected = np.copysign(table[positive], values)
        assert np.array_equal(quantize(values, 1.0, "pot4"), expected)


@pytest.mark.parametrize("scheme", ["apot4", "apot6", "int4", "int6", "int8"])
def test_nearest_on_every_exponent(scheme: str) -> None:
    upper = np.arange(0, 2**16, dtype=np.uint32)
    values = ((upper << np.uint32(16)) | (upper * np.uint32(40503) & np.uint32(0xFFFF))).view(np.float32)
    values = values[~np.isnan(values)]
    assert np.array_equal(quantize(values, 1.0, scheme), nearest(values, scheme).astype(np.float32))


@pytest.mark.parametrize("scheme", SCHEMES)
@given(w=arrays(np.float32, st.integers(1, 40), elements=FINITE), scale=st.floats(2.0**-20, 2.0**20, width=32))
def test_quantize_is_the_nearest_level_and_idempotent(scheme: str, w: np.ndarray, scale: float) -> None:
    found = quantize(w, scale, scheme)
    with np.errstate(over="ignore", under="ignore"):
        expected = nearest(w / np.float32(scale), scheme).astype(np.float32) * np.float32(scale)
    assert np.array_equal(found, expected)
    assert found.dtype == np.float32
    assert np.array_equal(quantize(found, scale, scheme), found)
    assert np.array_equal(decode(encode(w, scale, scheme), scale, scheme), found)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_zeros_and_saturation(scheme: str) -> None:
    w = np.array([0.0, -0.0, 1e-45, -1e-45, np.inf, -np.inf, 3e38, -3e38], np.float32)
    low, high = LEVELS[scheme][0], LEVELS[scheme][-1]
    assert quantize(w, 1.0, scheme).tolist() == [0, 0, 0, 0, high, low, high, low]
    assert encode(w, 1.0, scheme)[:4].tolist() == [0, 0, 0, 0]


def test_one_scale_an_output_channel() -> None:
    w = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    scale = np.array([0.01, 0.1, 1, 10, 100], np.float32)
    rows = np.stack([quantize(row, s, "pot4") for row, s in zip(w, scale, strict=True)])
    assert np.array_equal(quantize(w, scale[:, None], "pot4"), rows)
    assert np.array_equal(quantize(w, scale, "pot4"), rows)


def test_tensors_in_tensors_out() -> None:
    w = torch.randn(6, 4, requires_grad=True)
    codes = encode(w, torch.full((6, 1), 0.1), "apot4")
    assert codes.dtype == torch.uint8
    back = decode(codes, 0.1, "apot4")
    assert isinstance(back, torch.Tensor)
    assert torch.equal(back, quantize(w, 0.1, "apot4"))
    assert np.array_equal(back.numpy(), quantize(w.detach().numpy(), 0.1, "apot4"))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: levels("pot5"), "did you mean 'pot"),
        (lambda: encode(np.array([np.nan], np.float32), 1.0, "pot4"), "NaN"),
        (lambda: encode(np.ones(3, np.float32), 0.0, "pot4"), "positive"),
        (lambda: encode(np.ones(3, np.float32), -1.0, "pot4"), "positive"),
        (lambda: encode(np.ones(3, np.float32), np.nan, "pot4"), "positive"),
        (lambda: encode(np.ones(3, np.float32), np.ones(2, np.float32), "pot4"), "broadcasts"),
        (lambda: encode(np.ones(3, np.complex64), 1.0, "pot4"), "real"),
        (lambda: decode(np.array([8], np.uint8), 1.0, "pot4"), "stands for no level"),
        (lambda: decode(np.array([16], np.uint8), 1.0, "pot4"), "0 to 15"),
        (lambda: decode(np.array([0.5]), 1.0, "pot4"), "integer"),
    ],
)
def test_bad_input_is_named(call, said: str) -> None:
    with pytest.raises(InputError, match=said):
        call()


def test_pot6_warns_once_and_names_apot6() -> None:
    program = (
        "import warnings, numpy as np\nwarnings.simplefilter('always')\n"
        "from quant import encode\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    for _ in range(3): encode(np.ones(1, np.float32), 1.0, 'pot6')\n"
        "print(len(seen), 'apot6' in str(seen[0].message))\n"
        "import sys; print('torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["1", "True", "False"]
