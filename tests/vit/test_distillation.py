"""Distillation: its loss by hand, its resumption to the bit, what it refuses, and a student that learns."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.vit.distilling import CLASSES, MIXED, PLAIN, SHAPE, TIMM, distilled, model_of, same, weights_of
from vit import InputError, Recipe, VisionTransformer, ViTConfig, distill, evaluate, fit, load_data
from vit.distillation import hard_loss, soft_loss
from vit.teacher_logits import rounded
from vit.tensorfile import read_tensors
from vit.zoo import create_model


def softmax(row, temp=1.0):
    powers = [math.exp(value / temp) for value in row]
    return [power / sum(powers) for power in powers]


def kl_by_hand(rows, teacher_rows, temp):
    """T^2 times the mean over the rows of sum p (log p - log q)."""
    total = 0.0
    for row, teacher_row in zip(rows, teacher_rows, strict=True):
        for q, p in zip(softmax(row, temp), softmax(teacher_row, temp), strict=True):
            total += p * (math.log(p) - math.log(q))
    return temp**2 * total / len(rows)


STUDENT_ROWS = [[1.0, -2.0, 0.5], [0.0, 0.25, 3.0]]
TEACHER_ROWS = [[2.0, 0.0, -1.0], [-0.5, 1.0, 4.0]]


@pytest.mark.parametrize("temp", [0.5, 1.0, 4.0])
def test_soft_loss_by_hand(temp):
    loss = soft_loss(torch.tensor(STUDENT_ROWS), torch.tensor(TEACHER_ROWS), temp)
    assert float(loss) == pytest.approx(kl_by_hand(STUDENT_ROWS, TEACHER_ROWS, temp), rel=1e-5)


def test_a_hot_soft_loss_is_half_the_squared_difference_of_centred_logits():
    # Hinton et al. 2015, equation 4: that is what T^2 is for.
    student, teacher = (torch.tensor(rows) - torch.tensor(rows).mean(1, True) for rows in (STUDENT_ROWS, TEACHER_ROWS))
    limit = float((student - teacher).square().mean(dim=1).mean() / 2)
    assert float(soft_loss(student, teacher, temp=50.0)) == pytest.approx(limit, rel=0.03)


def test_soft_loss_is_zero_at_the_teacher_and_bears_a_class_ruled_out():
    logits = torch.tensor(TEACHER_ROWS)
    assert float(soft_loss(logits + 7, logits, 4.0)) == pytest.approx(0, abs=1e-6)
    far = rounded(torch.tensor([[0.0, -1e9, 1.0]]))
    assert torch.isfinite(soft_loss(logits[:1], far, 4.0))


def test_hard_loss_by_hand():
    likeliest = [0, 2]
    expected = -sum(math.log(softmax(STUDENT_ROWS[i])[likeliest[i]]) for i in range(2)) / 2
    loss = hard_loss(torch.tensor(STUDENT_ROWS), torch.tensor(TEACHER_ROWS))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("hard", [False, True])
def test_the_whole_loss_by_hand(stripes, hard):
    """One step over all images, nothing augmented: the loss is that of the weights at the start."""
    student, teacher = model_of(seed=1), model_of(seed=2, depth=2, drop_path=0.9)
    images = stripes.train.floats()
    with torch.no_grad():
        logits, taught = student(images), teacher(images)
        features = student.pool(student.forward_features(images)), teacher.pool(teacher.forward_features(images))
    guided = F.cross_entropy(logits, taught.argmax(1)) if hard else kl_by_hand(logits.tolist(), taught.tolist(), 3.0)
    squared = (features[0] - features[1]).square().mean()
    labelled = F.cross_entropy(logits, stripes.train.labels, label_smoothing=0.1)
    teacher.train()  # distill turns its drop-path off
    result = distill(student, stripes, PLAIN, teacher=teacher, temp=3.0, lam_kd=0.5, lam_f=0.3, lam_ce=0.2, hard=hard)
    expected = 0.5 * float(guided) + 0.3 * float(squared) + 0.2 * float(labelled)
    assert result.history[0]["train_loss"] == pytest.approx(expected, rel=1e-3)


def test_labels_alone_are_an_ordinary_training(stripes):
    ours, theirs = model_of(), model_of()
    distill(ours, stripes, MIXED, teacher=model_of(seed=2), lam_kd=0, lam_f=0, lam_ce=1)
    fit(theirs, stripes, MIXED)
    assert same(weights_of(ours), weights_of(theirs))


def test_a_projection_joins_other_widths_and_is_left_behind(stripes, tmp_path):
    student, teacher = model_of(dim=8), model_of(dim=12, seed=2)
    names, before = list(student.state_dict()), weights_of(teacher)
    recipe = Recipe(epochs=8, batch_size=8, lr=1e-2, crop_padding=0)
    history = distill(student, stripes, recipe, tmp_path, teacher=teacher, lam_kd=0, lam_f=1, lam_ce=0).history
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]
    assert list(student.state_dict()) == names
    assert same(weights_of(teacher), before)
    tensors, _ = read_tensors(tmp_path / "distill_state.safetensors", "training state", "out")
    assert tensors["model/projection.weight"].shape == (12, 8)


def test_a_distillation_token_learns_the_teacher_and_the_class_token_the_labels(stripes):
    def head_changes(**weights):
        torch.manual_seed(0)
        student = create_model(TIMM["deit"], CLASSES, 8, 1)
        before = student.head.bias.clone(), student.head_dist.bias.clone()
        distill(student, stripes, PLAIN, teacher=model_of(seed=2), **weights)
        after = student.head.bias, student.head_dist.bias
        return [not torch.equal(*pair) for pair in zip(before, after, strict=True)]

    assert head_changes(lam_kd=1, lam_f=0, lam_ce=0, hard=True) == [False, True]
    assert head_changes(lam_kd=0, lam_f=0, lam_ce=1) == [True, False]


def test_what_a_timm_student_learnt_is_in_it(stripes):
    student = create_model(TIMM["vit"], CLASSES, 8, 1)
    result = distill(student, stripes, PLAIN, teacher=model_of(seed=2))
    assert evaluate(student, stripes.val).loss == pytest.approx(result.val_loss)


class Stop(Exception):
    pass


@pytest.mark.parametrize("lam_f", [0.0, 0.2])
def test_stopped_and_started_again_it_ends_with_the_same_bits(stripes, tmp_path, lam_f):
    teacher = model_of(dim=12, seed=2)
    whole = distilled(stripes, teacher, tmp_path / "whole", lam_f=lam_f)

    def stop(row):
        if row["epoch"] == 2:
            raise Stop

    with pytest.raises(Stop):
        distilled(stripes, teacher, tmp_path / "parts", lam_f=lam_f, on_epoch=stop)
    rows = []
    torch.rand(1)  # another process has other random numbers
    parts = distilled(stripes, teacher, tmp_path / "parts", lam_f=lam_f, on_epoch=rows.append)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert parts[0] == whole[0]
    assert same(parts[1], whole[1])
    ends = [
        read_tensors(tmp_path / part / "distill_state.safetensors", "training state", "out")[0]
        for part in ("whole", "parts")
    ]
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0]), "the projection too"
    assert ("model/projection.weight" in ends[0]) == (lam_f > 0)


def test_a_folder_goes_on_with_the_same_teacher_and_terms_only(stripes, tmp_path):
    teacher = model_of(seed=2)
    first = distilled(stripes, teacher, tmp_path)
    assert same(distilled(stripes, copy.deepcopy(teacher), tmp_path)[1], first[1]), "complete: loaded"
    with pytest.raises(InputError, match="another teacher"):
        distilled(stripes, model_of(seed=3), tmp_path)
    with pytest.raises(InputError, match="another distillation loss"):
        distilled(stripes, teacher, tmp_path, temp=5.0)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"lam_kd": -0.1}, "lam_kd = -0.1: allowed is a number in"),
        ({"lam_f": -1}, "lam_f = -1"),
        ({"lam_ce": float("nan")}, "lam_ce = nan"),
        ({"lam_ce": float("inf")}, "lam_ce = inf"),
        ({"lam_kd": 0, "lam_f": 0, "lam_ce": 0}, "at least one weight above 0"),
        ({"temp": 0}, "temp = 0"),
        ({"temp": -4.0}, "temp = -4.0"),
        ({"temp": "hot"}, "temp = 'hot'"),
        ({"hard": 1}, "hard = 1: allowed is true or false"),
        ({"teacher": 3}, "teacher = 3"),
        ({"teacher": "absent.safetensors"}, "absent.safetensors"),
        ({"device": "cuda:99"}, "device"),
    ],
)
def test_bad_arguments_are_refused(stripes, options, line):
    with pytest.raises(InputError, match=line):
        distill(model_of(), stripes, PLAIN, **{"teacher": model_of(seed=2), **options})


def test_teachers_and_students_that_do_not_fit_are_refused(stripes, tmp_path):
    student, teacher = model_of(), model_of(seed=2)
    other = model_of(seed=2, num_classes=7)
    with pytest.raises(InputError, match=r"teacher = 'logits of shape .7.': allowed is a model of 3 classes"):
        distill(student, stripes, PLAIN, tmp_path, teacher=other)
    distill(model_of(), stripes, PLAIN, teacher=other, lam_kd=0)  # its features are as good as any
    with pytest.raises(InputError, match=r"student = 'logits of shape .7.'"):
        distill(model_of(num_classes=7), stripes, PLAIN, tmp_path, teacher=teacher)
    with pytest.raises(InputError, match="the student itself"):
        distill(student, stripes, PLAIN, tmp_path, teacher=student)
    with pytest.raises(InputError, match=r"teacher = .* takes images of 1 x 8 x 8"):
        distill(student, stripes, PLAIN, tmp_path, teacher=model_of(in_channels=3))
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    with pytest.raises(InputError, match="lam_f = 0 needs no features"):
        distill(student, stripes, PLAIN, tmp_path, teacher=plain)
    distill(model_of(), stripes, PLAIN, teacher=plain, lam_f=0)
    nn.init.constant_(plain[1].bias, float("nan"))
    with pytest.raises(InputError, match="not finite"):
        distill(student, stripes, PLAIN, tmp_path, teacher=plain, lam_f=0)
    assert not list(tmp_path.iterdir()), "nothing is written before all is known to fit"


def test_a_student_learns_digits_from_its_teacher_without_a_label():
    digits = load_data("digits")
    config = {**SHAPE, "patch_size": 2, "num_classes": 10, "heads": 4, "pool": "mean", "dim": 32}
    torch.manual_seed(0)
    teacher, student = (VisionTransformer(ViTConfig(**{**config, "depth": depth})) for depth in (2, 1))
    recipe = Recipe.for_data("digits", epochs=4, batch_size=32, lr=8e-3, cutmix=0.0)
    fit(teacher, digits, recipe)
    untaught = evaluate(student, digits.val).accuracy
    result = distill(student, digits, recipe, teacher=teacher, lam_kd=1, lam_f=0, lam_ce=0)
    assert untaught < 0.3
    assert result.val_accuracy > 0.8
    assert not digits.test_was_read
