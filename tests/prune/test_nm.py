import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from prune import magnitude_prune, nm_prune, sparsity
from tests.prune.reference import n_of_m
from vit import InputError, VisionTransformer, ViTConfig
from vit.masks import masks, prunable_layers

TINY = ViTConfig(image_size=8, patch_size=4, in_channels=1, dim=16, depth=1, heads=2)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 5), st.integers(2, 9), st.data())
def test_equals_the_reference(inputs: int, outputs: int, m: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, m - 1))
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.mul_(10).round_()  # with ties
    expected = n_of_m(layer.weight.detach().numpy(), n, m)
    before = layer.weight.detach().clone()
    nm_prune(layer, n, m)
    np.testing.assert_array_equal(layer.weight.detach().numpy(), before.numpy() * expected)


def test_two_of_four_halves_every_layer() -> None:
    model = nm_prune(VisionTransformer(TINY))
    for name, layer in prunable_layers(model).items():
        groups = layer.weight.detach().flatten(1).unflatten(1, (-1, 4))
        assert ((groups != 0).sum(dim=2) <= 2).all(), name
    assert sparsity(model)["total"] == 0.5


def test_what_was_masked_stays_masked() -> None:
    model = magnitude_prune(VisionTransformer(TINY), 0.3)
    old = {name: mask.clone() for name, mask in masks(model).items()}
    nm_prune(model, 1, 4)
    assert all(not (mask & ~old[name]).any() for name, mask in masks(model).items() if name in old)
    assert sparsity(model)["total"] >= 0.75


@pytest.mark.parametrize(("n", "m", "field"), [(4, 4, "n"), (5, 4, "n"), (0, 4, "n"), (1, 1, "m"), (1.5, 4, "n")])
def test_bad_patterns_are_named(n: int, m: int, field: str) -> None:
    with pytest.raises(InputError) as caught:
        nm_prune(nn.Linear(8, 8), n, m)
    assert caught.value.field == field
