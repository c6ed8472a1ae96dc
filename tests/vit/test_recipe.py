from __future__ import annotations

import json
from typing import Any

import pytest

from vit.errors import InputError
from vit.recipe import PRESETS, Recipe


def test_a_recipe_survives_json() -> None:
    for recipe in (Recipe(), Recipe(flip=False, crop_padding=2), Recipe.for_data("digits", seed=3)):
        assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert "flip" not in Recipe().to_dict()


def test_presets_are_the_defaults_with_changes() -> None:
    assert Recipe.for_data("some/folder", epochs=3) == Recipe(epochs=3)
    digits = Recipe.for_data("digits", epochs=3)
    assert digits == Recipe.from_dict({**PRESETS["digits"], "epochs": 3})
    assert digits.crop_padding == 0


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 0},
        {"batch_size": 1.5},
        {"lr": 0},
        {"lr": "fast"},
        {"weight_decay": -1},
        {"warmup": 1.0},
        {"label_smoothing": 1},
        {"mixup": -0.1},
        {"cutmix": float("inf")},
        {"randaugment": -1},
        {"randaugment_magnitude": 31},
        {"crop_padding": -1},
        {"flip": 1},
        {"amp": None},
        {"ema": 1},
        {"clip_grad": float("nan")},
        {"seed": -1},
    ],
)
def test_values_out_of_range_are_refused_by_field(values: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        Recipe.from_dict(values)
    assert caught.value.field == next(iter(values))


def test_unknown_fields_suggest_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'batch_size'"):
        Recipe.from_dict({"batchsize": 3})
    with pytest.raises(InputError, match="a table"):
        Recipe.from_dict(3)  # type: ignore[arg-type]
