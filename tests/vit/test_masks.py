from __future__ import annotations

import copy

import torch
from torch import nn

from vit.masks import get_mask, masks, prunable_layers, remove_mask, set_mask


def layer() -> nn.Linear:
    return nn.Linear(6, 4)


def test_a_masked_weight_is_zero_and_stays_so_through_training() -> None:
    linear = layer()
    mask = torch.rand(4, 6) > 0.5
    before = linear.weight.detach().clone()
    set_mask(linear, mask)
    assert torch.equal(linear.weight, before * mask)
    optimiser = torch.optim.AdamW(linear.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        linear(torch.randn(8, 6)).square().sum().backward()
        optimiser.step()
    assert (linear.weight[~mask] == 0).all()
    assert (linear.weight[mask] != before[mask]).all()


def test_an_optimiser_made_before_pruning_goes_on_training() -> None:
    linear = layer()
    parameter = linear.weight
    set_mask(linear, torch.ones(4, 6, dtype=torch.bool))
    assert linear.parametrizations.weight.original is parameter


def test_a_second_mask_replaces_the_first_and_copies_keep_theirs() -> None:
    model = nn.Sequential(layer(), nn.ReLU(), nn.Conv2d(1, 2, 3))
    assert masks(model) == {}
    assert list(prunable_layers(model)) == ["0", "2"]
    first, second = torch.rand(4, 6) > 0.5, torch.rand(4, 6) > 0.5
    set_mask(model[0], first)
    set_mask(model[0], second)
    twin = copy.deepcopy(model)
    assert list(masks(twin)) == ["0"]
    found = get_mask(twin[0])
    assert found is not None
    assert torch.equal(found, second)
    assert torch.equal(twin[0].weight == 0, ~(first & second))
    remove_mask(model[0])
    remove_mask(model[2])
    assert masks(model) == {}
    assert (model[0].weight[~second] == 0).all()


def test_removing_the_mask_of_a_copy_leaves_the_original_alone() -> None:
    original = layer()
    set_mask(original, torch.rand(4, 6) > 0.5)
    before = original.weight.detach().clone()
    twin = copy.deepcopy(original)
    remove_mask(twin)
    assert torch.equal(original.weight, before)
    assert torch.equal(twin.weight, before)
    assert type(twin) is nn.Linear
    remove_mask(original)
    assert torch.equal(original.weight, before)
