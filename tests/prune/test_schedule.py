import copy
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from prune import CubicSchedule, sparsity
from vit import InputError, VisionTransformer, ViTConfig
from vit.data import load_data
from vit.recipe import Recipe
from vit.training import fit


def test_follows_the_formula_of_zhu_and_gupta() -> None:
    schedule = CubicSchedule(0.9, initial=0.1, begin=0.2, end=0.8)
    for step in range(20, 81):
        expected = 0.9 + (0.1 - 0.9) * (1 - (step - 20) / 60) ** 3
        assert schedule.sparsity_at(step, 100) == pytest.approx(expected)
    assert schedule.sparsity_at(19, 100) == 0.0
    assert schedule.sparsity_at(99, 100) == 0.9


@pytest.mark.parametrize("first", [0, 1])  # steps counted from 0 or from 1
@pytest.mark.parametrize("total", [1, 2, 7, 50])
@pytest.mark.parametrize("end", [0.5, 1.0])
def test_reaches_the_final_sparsity_in_any_training(first: int, total: int, end: float) -> None:
    model, schedule = nn.Linear(40, 25), CubicSchedule(0.8, end=end, every=7)
    seen = []
    for step in range(first, first + total):
        schedule(model, step, total)
        seen.append(sparsity(model)["total"])
    assert seen == sorted(seen)
    assert seen[-1] == 0.8


def test_resumes_from_the_model_alone() -> None:
    def train(model: nn.Module, schedule: CubicSchedule, steps: range) -> None:
        for step in steps:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.sin(torch.arange(parameter.numel()) * (step + 1.0)).view_as(parameter) * 0.01)
            schedule(model, step, 40)

    torch.manual_seed(0)
    whole = nn.Linear(16, 16)
    half = copy.deepcopy(whole)
    train(whole, CubicSchedule(0.6, every=3), range(40))
    train(half, CubicSchedule(0.6, every=3), range(17))
    train(copied := copy.deepcopy(half), CubicSchedule(0.6, every=3), range(17, 40))
    assert torch.equal(whole.weight, copied.weight)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"final": 1.0}, "final"),
        ({"final": 0.5, "initial": 0.6}, "initial"),
        ({"final": 0.5, "begin": 0.7}, "begin"),
        ({"final": 0.5, "end": 1.5}, "end"),
        ({"final": 0.5, "every": 0}, "every"),
        ({"final": 0.5, "scope": "all"}, "scope"),
    ],
)
def test_bad_input_is_named(arguments: dict[str, object], field: str) -> None:
    with pytest.raises(InputError) as caught:
        CubicSchedule(**arguments)
    assert caught.value.field == field


@pytest.mark.parametrize("ema", [0.0, 0.99])
def test_prunes_within_fit_and_resumes_bit_for_bit(tmp_path: Path, ema: float) -> None:
    data, recipe = load_data("digits"), Recipe(epochs=3, batch_size=256, lr=2e-3, ema=ema)
    config = ViTConfig(image_size=8, patch_size=4, in_channels=1, dim=16, depth=1, heads=2)

    def trained(out: Path | None, stop: int | None = None) -> VisionTransformer:
        torch.manual_seed(0)
        model = VisionTransformer(config)

        def interrupt(row: dict[str, float]) -> None:
            if row["epoch"] == stop:
                raise KeyboardInterrupt

        with suppress(KeyboardInterrupt):
            fit(model, data, recipe, out, on_step=CubicSchedule(0.7, every=1), on_epoch=interrupt)
        return model

    whole = trained(None)
    for stop in (1, 2, None):
        resumed = trained(tmp_path, stop)
    assert sparsity(whole)["total"] == pytest.approx(0.7, abs=1e-3)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
