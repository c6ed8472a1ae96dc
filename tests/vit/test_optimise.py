from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from vit.masks import set_mask
from vit.optimise import Optimiser, WeightAverage, learning_rate, parameter_groups
from vit.recipe import Recipe
from vit.zoo import create_model


def test_the_rate_rises_linearly_and_falls_along_a_cosine() -> None:
    recipe = Recipe(lr=2.0, warmup=0.2)
    rates = [learning_rate(step, 50, recipe) for step in range(50)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10] == 2.0
    assert rates[30] == pytest.approx(1.0)
    assert rates[49] == pytest.approx(1 + math.cos(math.pi * 39 / 40))
    assert learning_rate(0, 50, Recipe(lr=2.0, warmup=0.0)) == 2.0
    assert learning_rate(0, 1, recipe) == 2.0


def test_only_matrices_and_kernels_decay() -> None:
    model = create_model({"dim": 8, "depth": 1, "heads": 2, "pool": "seq"})
    model.scale = nn.Parameter(torch.ones(8, 1))
    set_mask(model.head, torch.ones(10, 8, dtype=torch.bool))
    model.norm.weight.requires_grad_(False)
    decayed, free = ([id(p) for p in group["params"]] for group in parameter_groups(model, 0.1))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert sorted(names[key] for key in decayed) == [
        "blocks.0.attn.proj.weight",
        "blocks.0.attn.qkv.weight",
        "blocks.0.mlp.fc1.weight",
        "blocks.0.mlp.fc2.weight",
        "head.parametrizations.weight.original",
        "pool_score.weight",
        "stem.proj.weight",
    ]
    assert {"pos_embed", "scale", "head.bias"} <= {names[key] for key in free}
    assert len(decayed) + len(free) == len(names) - 1


def test_a_step_is_torchs_adamw_with_clipping() -> None:
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    recipe = Recipe(lr=0.1, warmup=0.0, weight_decay=0.3, clip_grad=0.5)
    optimiser = Optimiser(ours, recipe, total_steps=3)
    reference = torch.optim.AdamW(
        [{"params": [theirs.weight], "weight_decay": 0.3}, {"params": [theirs.bias], "weight_decay": 0.0}], lr=0.1
    )
    for step in range(3):
        x = torch.randn(5, 3)
        optimiser.step(ours(x).square().sum(), step)
        reference.param_groups[0]["lr"] = reference.param_groups[1]["lr"] = learning_rate(step, 3, recipe)
        reference.zero_grad()
        theirs(x).square().sum().backward()
        norm = torch.sqrt(theirs.weight.grad.square().sum() + theirs.bias.grad.square().sum())
        for parameter in theirs.parameters():
            parameter.grad.mul_(min(1.0, 0.5 / float(norm)))
        reference.step()
        torch.testing.assert_close(ours.weight, theirs.weight)
        torch.testing.assert_close(ours.bias, theirs.bias)


def test_moments_come_back_in_their_parameters_memory_layout() -> None:
    """The fused kernel walks parameter and moments in memory order: a kernel in another layout would be mixed up."""
    torch.manual_seed(0)
    recipe = Recipe(lr=0.1, warmup=0.0)
    conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimiser = Optimiser(conv, recipe, 4)
    images = torch.randn(2, 3, 5, 5)
    for step in range(2):
        optimiser.step(conv(images).square().sum(), step)
    twin = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    twin.load_state_dict(conv.state_dict())
    restored = Optimiser(twin, recipe, 4)
    restored.load(
        {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in optimiser.state().items()}
    )
    optimiser.step(conv(images).square().sum(), 2)
    restored.step(twin(images).square().sum(), 2)
    assert torch.equal(conv.weight, twin.weight)


def test_the_average_is_the_recurrence() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = WeightAverage(model, decay=0.5)
    expected = model[0].weight.detach().clone()
    buffer = model[1].running_mean.clone()
    for step in range(1, 6):
        with torch.no_grad():
            model[0].weight.add_(1.0)
            model[1].running_mean.add_(2.0)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
        buffer = decay * buffer + (1 - decay) * model[1].running_mean
    live = model[0].weight.detach().clone()
    with average.in_place():
        torch.testing.assert_close(model[0].weight.detach(), expected)
        torch.testing.assert_close(model[1].running_mean, buffer)
    assert torch.equal(model[0].weight, live)
