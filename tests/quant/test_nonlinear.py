"""The one definition of LayerNorm, softmax and GELU: close to the mathematics, the same bits in numba and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numba import njit
from scipy import special
from torch.nn import functional as F

from kernels import nonlinear
from kernels.pot import nearest_power
from quant import exact
from tests.quant import reference


def values(*shape: int, spread: float = 4.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3)) * spread


def on_other_devices(function, *arguments):
    """What `function` computes where there is no numba: its torch ops, run here through a tensor that says so."""

    class Elsewhere(torch.Tensor):
        device = torch.device("meta")

    return function(*(a.as_subclass(Elsewhere) if torch.is_tensor(a) else a for a in arguments)).as_subclass(
        torch.Tensor
    )


def test_exp_is_within_two_units_of_the_last_place() -> None:
    x = np.linspace(-87, 0, 200_001).astype(np.float32)
    exact_powers = np.exp(x.astype(np.float64))
    found = np.array([nonlinear.exp_negative(v) for v in x[::20]])
    assert np.abs(found / exact_powers[::20] - 1).max() < 2 * 2.0**-23
    assert nonlinear.exp_negative(np.float32(0)) == 1
    assert nonlinear.exp_negative(np.float32(-88)) == 0
    assert nonlinear.exp_negative(np.float32(-np.inf)) == 0


def test_gelu_is_the_exact_form() -> None:
    x = torch.linspace(-12, 12, 100_001)
    wide = x.double().numpy()
    expected = 0.5 * wide * (1 + special.erf(wide / np.sqrt(2)))
    assert np.abs(exact.gelu(x).numpy() - expected).max() < 3e-6
    assert np.abs(exact.gelu(x).numpy() - F.gelu(x).numpy()).max() < 3e-6


def test_softmax_and_layer_norm_are_what_torch_has() -> None:
    x, weight, bias = values(50, 33), values(33), values(33)
    assert torch.allclose(exact.softmax(x), x.double().softmax(-1).float(), atol=3e-7)
    assert torch.allclose(
        exact.layer_norm(x, weight, bias, 1e-6), F.layer_norm(x, (33,), weight, bias, 1e-6), atol=1e-5
    )


@pytest.mark.parametrize("width", [1, 5, 64])
def test_numba_and_torch_ops_give_the_same_bits(width: int) -> None:
    x, weight, bias = values(200, width), values(width), values(width)
    assert torch.equal(exact.gelu(x), on_other_devices(exact.gelu, x))
    assert torch.equal(exact.softmax(x), on_other_devices(exact.softmax, x))
    assert torch.equal(
        exact.layer_norm(x, weight, bias, 1e-6), on_other_devices(exact.layer_norm, x, weight, bias, 1e-6)
    )


def test_non_contiguous_tensors_are_read_in_their_order() -> None:
    x = values(6, 5, 4).transpose(0, 2)
    assert torch.equal(exact.gelu(x), exact.gelu(x.contiguous()))
    assert torch.equal(exact.softmax(x), exact.softmax(x.contiguous()))


@pytest.mark.parametrize("value", [0.5, -0.5, 1.5, 2.5, 0.49999997, -0.49999997, 8388607.5, 8388609.0, 0.0])
def test_ties_go_away_from_zero(value: float) -> None:
    expected = np.copysign(np.floor(np.abs(np.float64(np.float32(value))) + 0.5), value)
    assert exact.round_away(torch.tensor([value])).item() == expected


def test_product_is_exact_up_to_its_bound_and_beyond() -> None:
    a, b = torch.full((2, 300), 255.0), torch.full((300, 2), 1000.0)
    assert (exact.product(a, b, 255 * 1000 * 300) == 255 * 1000 * 300).all()


def test_a_log2_probability_is_the_nearest_of_sixteen_values() -> None:
    edges = np.array([0.5, *(1.5 * 2.0**k for k in range(15))], np.float32)
    around = [edges, np.nextafter(edges, np.float32(0)), np.nextafter(edges, np.float32(1e9))]
    every = np.arange(0, 0x46800001, 2**12, dtype=np.uint32).view(np.float32)  # 0 to 2^14 by the upper 20 bits
    x = np.concatenate([*around, every, np.float32([2**14, 2**15, 1e-45])])
    expected = reference.nearest_power(x, 14)
    assert len(np.unique(expected)) == 16
    assert np.array_equal(exact.nearest_power(torch.from_numpy(x), 2**14).numpy(), expected)
    assert np.array_equal(power_of_each(x, np.float32(2**14)), expected)


@njit
def power_of_each(x, top):
    return np.array([nearest_power(value, top) for value in x])
