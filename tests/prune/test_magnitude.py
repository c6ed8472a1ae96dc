import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from prune import SCOPES, magnitude_prune, sparsity
from prune.magnitude import erk
from tests.prune.reference import erk_densities, smallest
from vit import InputError, VisionTransformer, ViTConfig
from vit.masks import masks, prunable_layers

TINY = ViTConfig(image_size=8, patch_size=4, in_channels=1, dim=16, depth=2, heads=2)


def small_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 5, 3), nn.Flatten(), nn.Linear(7, 11), nn.ReLU(), nn.Linear(11, 3))


def weights(model: nn.Module) -> list[np.ndarray]:
    return [layer.weight.detach().numpy() for layer in prunable_layers(model).values()]


def zeros(model: nn.Module) -> int:
    return sum(int((w == 0).sum()) for w in weights(model))


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 0.999), st.integers(0, 5))
def test_global_masks_exactly_the_smallest(fraction: float, seed: int) -> None:
    model = small_net(seed)
    count = round(fraction * sum(w.size for w in weights(model)))
    expected = smallest(weights(model), count)
    before = [w.copy() for w in weights(model)]
    assert magnitude_prune(model, fraction) is model
    assert zeros(model) == count
    for old, new, keep in zip(before, weights(model), expected, strict=True):
        np.testing.assert_array_equal(new, old * keep)


def test_ties_are_broken_by_position() -> None:
    model = small_net()
    for layer in prunable_layers(model).values():
        nn.init.constant_(layer.weight, 0.5)
    expected = smallest(weights(model), 100)
    magnitude_prune(model, 100 / sum(w.size for w in weights(model)))
    for new, keep in zip(weights(model), expected, strict=True):
        np.testing.assert_array_equal(new != 0, keep)


def test_layer_scope_prunes_every_layer_alike() -> None:
    model = magnitude_prune(VisionTransformer(TINY), 0.6, scope="layer")
    for name, layer in prunable_layers(model).items():
        assert int((layer.weight == 0).sum()) == round(0.6 * layer.weight.numel()), name


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(1, 40), st.integers(1, 40)),
            st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 5), st.integers(1, 5)),
        ),
        min_size=1,
        max_size=6,
    ),
    st.floats(0, 0.99),
)
def test_erk_counts_follow_the_paper(shapes: list[tuple[int, ...]], fraction: float) -> None:
    sizes = [int(np.prod(shape)) for shape in shapes]
    removed = list(erk({str(i): shape for i, shape in enumerate(shapes)}, fraction).values())
    asked = round(fraction * sum(sizes))
    assert sum(removed) == asked
    for density, gone, size in zip(erk_densities(shapes, 1 - asked / sum(sizes)), removed, sizes, strict=True):
        assert abs(size - gone - density * size) <= 1 + 1e-6 * size


def test_erk_keeps_small_layers_denser() -> None:
    found = sparsity(magnitude_prune(VisionTransformer(TINY), 0.8, scope="erk"))
    assert found["head"] < found["blocks.0.attn.qkv"]
    assert found["total"] == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("again", SCOPES)
def test_a_second_pruning_keeps_the_zeros_of_the_first(scope: str, again: str) -> None:
    model = magnitude_prune(VisionTransformer(TINY), 0.4, scope=scope)
    with torch.no_grad():  # training moves what is left below and above old magnitudes
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    old = {name: mask.clone() for name, mask in masks(model).items()}
    magnitude_prune(model, 0.7, scope=again)
    for name, mask in masks(model).items():
        assert not (mask & ~old.get(name, torch.ones_like(mask))).any(), name
    assert sparsity(model)["total"] >= 0.7 - 1e-3  # rounded layer by layer


def test_pruning_less_than_before_changes_nothing() -> None:
    model = magnitude_prune(small_net(), 0.5)
    before = zeros(model)
    magnitude_prune(model, 0.2)
    assert zeros(model) == before


def test_masks_hold_while_training_and_in_copies() -> None:
    torch.manual_seed(0)
    model = magnitude_prune(VisionTransformer(TINY), 0.5)
    holes = {name: ~mask for name, mask in masks(model).items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(8, 1, 8, 8)), torch.arange(8)).backward()
        optimizer.step()
    reloaded = VisionTransformer(TINY)
    magnitude_prune(reloaded, 0.5)
    reloaded.load_state_dict(model.state_dict())
    for shown in (model, copy.deepcopy(model), reloaded):
        layers = prunable_layers(shown)
        assert all((layers[name].weight[hole] == 0).all() for name, hole in holes.items())
        assert sparsity(shown)["total"] == pytest.approx(0.5, abs=1e-4)


def test_skip_leaves_layers_alone_and_uncounted() -> None:
    model = VisionTransformer(TINY)
    before = model.head.weight.detach().clone()
    magnitude_prune(model, 0.5, skip=["head", "stem"])
    assert torch.equal(model.head.weight, before)
    rest = [layer for name, layer in prunable_layers(model).items() if name.startswith("blocks")]
    assert sum(int((layer.weight == 0).sum()) for layer in rest) == round(0.5 * sum(x.weight.numel() for x in rest))
    assert set(masks(model)) == {name for name in prunable_layers(model) if name.startswith("blocks")}


def test_sparsity_is_counted_by_layer() -> None:
    model = small_net()
    with torch.no_grad():
        model[2].weight[:, :3] = 0
    found = sparsity(model)
    assert found["0"] == 0.0
    assert found["2"] == 33 / 77
    assert found["total"] == 33 / (90 + 77 + 33)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"sparsity": 1.0}, "sparsity"),
        ({"sparsity": -0.1}, "sparsity"),
        ({"sparsity": float("nan")}, "sparsity"),
        ({"sparsity": True}, "sparsity"),
        ({"sparsity": 0.5, "scope": "globl"}, "scope"),
        ({"sparsity": 0.5, "skip": ["haed"]}, "skip"),
        ({"sparsity": 0.5, "skip": "head"}, "skip"),
        ({"sparsity": 0.5, "skip": ["blocks", "stem", "head"]}, "model"),
    ],
)
def test_bad_input_is_named_and_nothing_is_masked(arguments: dict[str, object], field: str) -> None:
    model = VisionTransformer(TINY)
    with pytest.raises(InputError) as caught:
        magnitude_prune(model, **arguments)
    assert caught.value.field == field
    assert masks(model) == {}
