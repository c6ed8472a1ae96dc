"""A model keeps the mean and deviation that it was trained with, wherever it goes."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prune import learn_gates, structured_prune
from quant import PackedModel, convert, load_qat, prepare_qat, save_qat
from vit import (
    DataSplits,
    InputError,
    Recipe,
    ViTConfig,
    create_model,
    distill,
    evaluate,
    fit,
    load_checkpoint,
    load_data,
    save_checkpoint,
)
from vit.preprocessing import Normalisation, as_trained, image_size_of, normalisation_of, note_normalisation
from vit.teacher import Teacher

SHAPE = ViTConfig(image_size=8, patch_size=2, in_channels=1, dim=16, depth=1, heads=2, mlp_ratio=1.0)
OWN = Normalisation((0.25,), (0.5,))
RECIPE = Recipe(epochs=1, batch_size=100)


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    whole = load_data("digits")
    few = [part.take(torch.arange(100)) for part in (whole.train, whole.val)]
    return DataSplits("digits", *few, lambda: whole.test, flip=False)


def test_a_model_takes_the_datas_and_keeps_them(digits: DataSplits) -> None:
    model = create_model(SHAPE)
    assert normalisation_of(model) is None
    assert as_trained(model, digits) is digits
    fit(model, digits, RECIPE)
    assert normalisation_of(model) == Normalisation(digits.mean, digits.std)
    assert as_trained(model, digits.val) is digits.val
    fit(model, digits.normalised_by((0.1,), (0.2,)), RECIPE)
    assert normalisation_of(model) == Normalisation(digits.mean, digits.std)


def test_images_are_evaluated_and_trained_on_as_the_model_was(digits: DataSplits) -> None:
    model = create_model(SHAPE).eval()
    own = digits.normalised_by(OWN.mean, OWN.std)
    plain, others = evaluate(model, digits.val), evaluate(model, own.val)
    assert plain.loss != others.loss
    note_normalisation(model, OWN)
    assert evaluate(model, digits.val) == others
    again = copy.deepcopy(model)
    assert fit(model, digits, RECIPE).history[0]["train_loss"] == fit(again, own, RECIPE).history[0]["train_loss"]
    assert not own.test_was_read
    assert own.test.mean == (0.25,)


def test_it_goes_along_into_every_file(digits: DataSplits, tmp_path: Path) -> None:
    model = create_model(SHAPE)
    note_normalisation(model, OWN)
    save_checkpoint(tmp_path / "float.safetensors", structured_prune(model, heads=0.5, mlp=0.5))
    loaded = load_checkpoint(tmp_path / "float.safetensors").model
    assert normalisation_of(loaded) == OWN
    save_qat(tmp_path / "qat.safetensors", prepare_qat(loaded, calibration=digits.val.floats()))
    prepared, _ = load_qat(tmp_path / "qat.safetensors")
    assert normalisation_of(prepared) == OWN
    convert(prepared).save(tmp_path / "packed.safetensors")
    packed = PackedModel.load(tmp_path / "packed.safetensors")
    assert (packed.mean.tolist(), packed.std.tolist()) == ([0.25], [0.5])
    assert convert(prepared, (0.0,), (1.0,)).mean.tolist() == [0.0]


def test_students_and_gates_keep_theirs_and_teachers_get_theirs(digits: DataSplits) -> None:
    student, teacher = create_model(SHAPE), create_model(SHAPE)
    note_normalisation(teacher, OWN)
    guide = Teacher.of(teacher, digits)
    given = digits.val.floats()
    assert torch.allclose(guide.prepared(given), digits.val.normalised_by(OWN.mean, OWN.std).floats(), atol=1e-5)
    distill(student, digits, RECIPE, teacher=teacher)
    assert normalisation_of(student) == Normalisation(digits.mean, digits.std)
    assert Teacher.of(student, digits).affine is None
    trained, _ = learn_gates(teacher, digits, RECIPE)
    assert normalisation_of(trained) == OWN


def test_what_cannot_be_is_refused(digits: DataSplits, tmp_path: Path) -> None:
    model = create_model(SHAPE)
    note_normalisation(model, Normalisation((0.5,) * 3, (0.5,) * 3))
    assert as_trained(model, digits.val) is digits.val  # which has one channel
    model.normalisation = replace(OWN)
    object.__setattr__(model.normalisation, "std", (0.0,))
    save_checkpoint(tmp_path / "model.safetensors", model)
    with pytest.raises(InputError, match="no mean and deviation"):
        load_checkpoint(tmp_path / "model.safetensors")


def test_models_say_what_size_they_take() -> None:
    assert image_size_of(create_model(SHAPE)) == 8
    assert image_size_of(create_model("mobilevit_xxs", image_size=64)) == 64
    assert image_size_of(torch.nn.Linear(1, 1)) is None
