"""A teacher's logits on disk: replayed to the bit, never when stale, within a megabyte an epoch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.vit.distilling import MIXED, Counted, distilled, model_of, same
from vit import DataSplits, Recipe
from vit.teacher_logits import TeacherLogits, deflated, inflated, rounded
from vit.tensorfile import read_tensors, write_tensors
from vit.training import Batch


def test_replayed_logits_give_the_bits_of_a_teacher_that_runs(stripes, tmp_path):
    teacher = Counted(model_of(seed=2))
    free = distilled(stripes, teacher, lam_f=0)
    assert teacher.asked == 1 + 3 * MIXED.epochs
    kept = distilled(stripes, teacher, tmp_path, lam_f=0)
    assert sorted(file.name for file in (tmp_path / "teacher_logits").iterdir()) == [
        f"epoch_{epoch:04d}.safetensors" for epoch in (1, 2, 3)
    ]
    teacher.asked = 0
    again = distilled(stripes, teacher, tmp_path, lam_f=0, name="again")
    assert teacher.asked == 1, "the teacher need not run"
    for ours in (kept, again):
        assert ours[0] == free[0]
        assert same(ours[1], free[1])


def test_another_student_and_a_longer_training_use_the_cache(stripes, tmp_path):
    teacher = Counted(model_of(seed=2))
    distilled(stripes, teacher, tmp_path, lam_f=0)
    teacher.asked = 0
    longer = Recipe.from_dict({**MIXED.to_dict(), "epochs": 4, "lr": 1e-3, "ema": 0.0})
    options = {"seed": 9, "dim": 12, "lam_f": 0, "temp": 2.0, "recipe": longer}
    ours = distilled(stripes, teacher, tmp_path, name="other", **options)
    assert teacher.asked == 1 + 3, "only the fourth epoch is new"
    assert same(ours[1], distilled(stripes, teacher, **options)[1])


def test_features_need_the_teacher_but_not_other_logits(stripes, tmp_path):
    teacher = Counted(model_of(seed=2))
    distilled(stripes, teacher, tmp_path, lam_f=0)
    teacher.asked = 0
    ours = distilled(stripes, teacher, tmp_path, name="features")
    assert teacher.asked == 1 + 3 * MIXED.epochs
    assert same(ours[1], distilled(stripes, teacher)[1])


def changed(recipe, **changes):
    return Recipe.from_dict({**recipe.to_dict(), **changes})


@pytest.mark.parametrize("stale", ["teacher", "heads", "seed", "batch size", "augmentation", "images", "normalisation"])
def test_a_stale_cache_is_not_used(stripes, tmp_path, stale):
    distilled(stripes, model_of(seed=2), tmp_path, lam_f=0)
    teacher, recipe = model_of(seed=2), MIXED
    if stale == "teacher":
        teacher = model_of(seed=3)
    elif stale == "heads":  # the same tensors, another function
        teacher = model_of(seed=2, heads=1)
    elif stale == "images":
        train = replace(stripes.train, images=255 - stripes.train.images)
        stripes = DataSplits("stripes", train, stripes.val, lambda: stripes.val, flip=False)
    elif stale == "normalisation":
        train = replace(stripes.train, mean=(0.5,), std=(0.2,))
        stripes = DataSplits("stripes", train, stripes.val, lambda: stripes.val, flip=False)
    else:
        recipe = changed(MIXED, **{"seed": {"seed": 1}, "batch size": {"batch_size": 6}}.get(stale, {"mixup": 0.1}))
    counted = [0]
    teacher.register_forward_hook(lambda *_: counted.__setitem__(0, counted[0] + 1))
    ours = distilled(stripes, teacher, tmp_path, lam_f=0, recipe=recipe, name="other")
    assert counted[0] > 3
    assert same(ours[1], distilled(stripes, teacher, lam_f=0, recipe=recipe)[1])


def test_a_damaged_cache_is_made_anew(stripes, tmp_path):
    teacher = Counted(model_of(seed=2))
    expected = distilled(stripes, teacher, tmp_path, lam_f=0)
    folder = tmp_path / "teacher_logits"
    _, metadata = read_tensors(folder / "epoch_0003.safetensors", "teacher logits", "out")
    (folder / "epoch_0001.safetensors").write_bytes(b"\0" * 100)
    (folder / "epoch_0002.safetensors").unlink()
    write_tensors(folder / "epoch_0003.safetensors", {"logits": np.zeros(9, np.uint8)}, metadata, "teacher logits")
    teacher.asked = 0
    ours = distilled(stripes, teacher, tmp_path, lam_f=0, name="again")
    assert teacher.asked == 1 + 3 * MIXED.epochs
    assert same(ours[1], expected[1])
    teacher.asked = 0
    distilled(stripes, teacher, tmp_path, lam_f=0, name="third")
    assert teacher.asked == 1


def test_an_epoch_of_50000_images_in_10_classes_keeps_within_a_megabyte(tmp_path):
    logits = torch.randn(50_000, 10, generator=torch.Generator().manual_seed(0)) * 5
    kept = TeacherLogits(tmp_path, {"teacher": "t"}, (50_000, 10), torch.device("cpu"))
    batch = Batch(torch.empty(0), torch.empty(0), torch.empty(0), torch.arange(50_000), 0, 0.0)
    assert kept.replay(batch) is None
    kept.record(batch, rounded(logits))
    assert (tmp_path / "teacher_logits" / "epoch_0001.safetensors").stat().st_size <= 1_000_000
    again = TeacherLogits(tmp_path, {"teacher": "t"}, (50_000, 10), torch.device("cpu"))
    assert torch.equal(again.replay(batch), rounded(logits))


def test_rounding_keeps_the_order_and_the_softmax():
    logits = torch.randn(1000, 10, generator=torch.Generator().manual_seed(0)) * 20 + 300
    kept = rounded(logits)
    assert torch.equal(kept.argmax(1), logits.argmax(1))
    torch.testing.assert_close(kept.float().softmax(1), logits.softmax(1), atol=3e-4, rtol=0)
    rows = kept.numpy()
    assert np.array_equal(inflated(deflated(rows), rows.shape), rows)
