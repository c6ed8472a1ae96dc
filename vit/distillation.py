"""Knowledge distillation: a student learns a teacher's answers, its features and the labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vit.device import resolve_device
from vit.errors import InputError, require_float
from vit.image_set import DataSplits
from vit.preprocessing import Normalisation, as_trained, note_normalisation
from vit.recipe import Recipe
from vit.resume import fingerprint
from vit.teacher import Teacher, answer, probe
from vit.teacher_logits import TeacherLogits, rounded
from vit.training import Batch, FitResult, Row, fit

PROBED = 2  # images on which models show what they take and give
# Fields of the recipe that change no image; whatever field it gains is taken to change them.
NOT_AUGMENTATION = ("epochs", "lr", "weight_decay", "warmup", "label_smoothing", "ema", "clip_grad")


@dataclass(frozen=True)
class Terms:
    """The weights of the loss, and how its first term is made.

    Raises:
        InputError: a weight or temperature out of range, or all weights 0.
    """

    temp: float
    lam_kd: float
    lam_f: float
    lam_ce: float
    hard: bool

    def __post_init__(self) -> None:
        require_float("temp", self.temp, 0, math.inf, open_low=True, open_high=True)
        weights = {name: getattr(self, name) for name in ("lam_kd", "lam_f", "lam_ce")}
        for name, value in weights.items():
            require_float(name, value, 0, math.inf, open_high=True)
        if not any(weights.values()):
            raise InputError("lam_kd, lam_f, lam_ce", tuple(weights.values()), "at least one weight above 0")
        if not isinstance(self.hard, bool):
            raise InputError("hard", self.hard, "true or false")


def distill(
    student: nn.Module,
    data: DataSplits,
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    teacher: nn.Module | str | Path,
    temp: float = 4.0,
    lam_kd: float = 0.7,
    lam_f: float = 0.2,
    lam_ce: float = 0.1,
    hard: bool = False,
    device: str | torch.device = "cpu",
    on_epoch: Callable[[Row], None] | None = None,
    on_best: Callable[[nn.Module, Row], None] | None = None,
    name: str = "distill",
) -> FitResult:
    """Train the student in place, as `fit` does, on lam_kd T^2 KL(teacher || student) + lam_f MSE + lam_ce CE.

    KL is between softmaxes at temperature T = `temp` (Hinton et al. 2015), the mean of a batch, in nats. MSE is between
    the features that enter the classifiers (`vit.teacher.answer`); where the widths differ, a linear layer from the
    student's to the teacher's is trained along and left behind. CE is with the labels, smoothed and mixed as the recipe
    says. The teacher sees the very images that the student sees. A student with a distillation token (timm's
    `deit_*_distilled_*`) learns the first term at that token's classifier and the labels at the other.

    The teacher's logits are rounded to float16 in any case, and with `out` each epoch's are kept in `teacher_logits/`
    there: at most two bytes a logit. The next distillation in that folder from the same teacher on the same images,
    of another student, say (under another `name`), takes them from there, to the same bits. With lam_f = 0 it does
    not run the teacher in such an epoch at all; with lam_f > 0 the teacher runs for its features, which are not kept.

    Stopped and started again with the same `out`, it ends with the bits of a distillation never stopped.

    Args:
        student: as `fit` leaves its model; nothing is added to it.
        out: folder for `<name>_state.safetensors` and `teacher_logits/`.
        teacher: a module (left on `device`, in evaluation mode, its weights untouched), the path of a checkpoint, or a
            timm name, then with pretrained weights. It gets images of the size it takes.
        temp: temperature, above 0.
        lam_kd, lam_f, lam_ce: weights of the terms, none below 0. With lam_kd = 0 its classes need not be the data's.
        on_best: as in `fit`, with the student.
        hard: cross-entropy with the teacher's likeliest class, unsmoothed, in place of T^2 KL (Touvron et al. 2021).

    Raises:
        InputError: what `fit` refuses; a weight or temperature out of range, all weights 0; a teacher that cannot be
            had, takes other images, tells other classes apart or (with lam_f > 0) has no known features; a training
            in `out` with another teacher or other terms.
    """
    terms = Terms(temp, lam_kd, lam_f, lam_ce, hard)
    place = resolve_device(device)
    if teacher is student:
        raise InputError("teacher", "the student itself", "another module", "copy.deepcopy(student) stays as it is")
    data = as_trained(student, data)
    note_normalisation(student, Normalisation(data.mean, data.std))
    guide = Teacher.of(teacher, data).to(place)
    student.to(place).eval()
    images = data.train.normalise(data.train.images[:PROBED]).to(place)
    classes, features = data.num_classes, terms.lam_f > 0
    teacher_width = probe("teacher", guide, images, classes if terms.lam_kd else None, features=features)
    width = probe("student", partial(answer, student), images, classes, features=features)
    projection = _projection(width, teacher_width, recipe.seed) if features else nn.Identity()
    source = _source(guide, data, recipe, place)
    kept = TeacherLogits(out if terms.lam_kd else None, source, (len(data.train), classes), place)
    return fit(
        _Pupil(student, projection),
        data,
        recipe,
        out,
        device=device,
        loss=_Loss(terms, guide, kept),
        identity={"teacher": source["teacher"], "distillation loss": asdict(terms)},
        on_epoch=on_epoch,
        on_best=None if on_best is None else lambda pupil, row: on_best(pupil.student, row),  # type: ignore[arg-type]
        name=name,
    )


def soft_loss(logits: Tensor, teacher_logits: Tensor, temp: float) -> Tensor:
    """T^2 KL(teacher || student) of (B, classes) at temperature T, mean of the batch (Hinton et al. 2015, section 2).

    T^2 keeps the size of the gradient about the same whatever the temperature.
    """
    student = F.log_softmax(logits.float() / temp, dim=1)
    return temp**2 * F.kl_div(student, F.softmax(teacher_logits.float() / temp, dim=1), reduction="batchmean")


def hard_loss(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy of (B, classes) with the teacher's likeliest classes: Touvron et al. 2021, equation 3."""
    return F.cross_entropy(logits, teacher_logits.argmax(dim=1))


class _Pupil(nn.Module):
    """The student with what maps its features to the teacher's: saved as one, used as the student."""

    def __init__(self, student: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.student, self.projection = student, projection

    def forward(self, images: Tensor) -> Tensor:
        return self.student(images)


class _Loss:
    """The loss of one batch."""

    def __init__(self, terms: Terms, teacher: Teacher, kept: TeacherLogits) -> None:
        self.terms, self.teacher, self.kept = terms, teacher, kept

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        pupil: Any = model
        terms = self.terms
        said = answer(pupil.student, batch.images)
        logits, features = self._taught(batch)
        parts: list[Tensor] = []
        if logits is not None:
            mine = said.by_head[-1]
            parts.append(
                terms.lam_kd * (hard_loss(mine, logits) if terms.hard else soft_loss(mine, logits, terms.temp))
            )
        if features is not None:
            parts.append(terms.lam_f * F.mse_loss(pupil.projection(said.features).float(), features.float()))
        if terms.lam_ce:
            labelled = F.cross_entropy(said.by_head[0], batch.targets, label_smoothing=batch.label_smoothing)
            parts.append(terms.lam_ce * labelled)
        return torch.stack(parts).sum()

    def _taught(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """The teacher's logits and features, each None where its term has no weight; the teacher runs if it must."""
        wanted = self.terms.lam_kd > 0
        logits = self.kept.replay(batch) if wanted else None
        if not self.terms.lam_f and (logits is not None or not wanted):
            return logits, None
        said = self.teacher(batch.images)
        if wanted and logits is None:
            logits = rounded(said.logits)
            self.kept.record(batch, logits)
        return logits, said.features if self.terms.lam_f else None


def _projection(width: int, wanted: int, seed: int) -> nn.Module:
    """From features of one width to another's: nothing where they are equal, else linear, drawn by `seed`."""
    if width == wanted:
        return nn.Identity()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.Linear(width, wanted)


def _source(teacher: Teacher, data: DataSplits, recipe: Recipe, device: torch.device) -> dict[str, Any]:
    """All that a teacher's logits of an epoch depend on, as JSON values."""
    prints = fingerprint(teacher.model, data, recipe)
    augmentation = {field: value for field, value in prints["recipe"].items() if field not in NOT_AUGMENTATION}
    return {
        "teacher": {"weights": prints["model"], **teacher.description},
        "data": {"images": prints["data"], "mean": list(data.mean), "std": list(data.std), "flip": data.flip},
        "augmentation": augmentation,
        "device": device.type,
    }
