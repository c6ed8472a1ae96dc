"""Trials on the workers of an existing Dask cluster: they train; this process proposes, and keeps the study."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState

from nas.costs import TRAINED
from nas.curves import Curve
from nas.pareto import ended
from nas.place import Place
from nas.space import Params, SearchSpace
from nas.stopping import Stopper
from nas.task import Task, trained_accuracy
from nas.trial import Progress, Stopped, Training, conclude, curves_of
from nas.worker import next_trial

if TYPE_CHECKING:
    from optuna import Study

    from vit.image_set import DataSplits, ImageSet
    from vit.recipe import Recipe

POLL_SECONDS = 0.2
STARTS = 4  # of a training whose workers die
ONE_AT_A_TIME = threading.Lock()  # in a process of the cluster: a training seeds torch's own generators
Splits = tuple[str, Any, Any, bool]  # name, training images, validation images, flip


def work_on_dask(
    client: Any,
    study: Study,
    task: Task,
    place: Place,
    trials: int,
    stopping: Stopper | None,
    progress: Callable[[Progress], None] | None,
) -> None:
    """Keep every worker of a Dask cluster busy with one trial until `trials` have ended.

    A training whose Dask worker dies is started again by Dask on another. A rule that stops trainings sees the trials
    that had ended when the training was started.

    Args:
        client: a distributed.Client of the cluster, whose workers need tilevit installed.
    """
    with place.working() as worker:
        images, under_way = _Images(client, task.data), list[_Job]()
        while len(ended(study)) < trials:
            trial = None
            if len(under_way) < len(client.nthreads()):
                trial = next_trial(study, task, place, worker, trials)
            if trial is not None:
                training = Training(study, task, dict(trial.params), stopping)
                if _is_settled(task, training):
                    conclude(study, task, trial, training, trials, progress)
                else:
                    others = curves_of(study, task) if stopping else []
                    candidate = (task.space, dict(trial.params), task.recipe, task.device)
                    rule = (stopping, training.candidate(), others)
                    under_way.append(_Job(images, (*candidate, *rule), trial, training))
                continue
            for job in [job for job in under_way if job.is_over()]:
                under_way.remove(job)
                job.take(study)
                conclude(study, task, job.trial, job.training, trials, progress)
            time.sleep(POLL_SECONDS)


class _Images:
    """The training and validation images on the cluster, put there again when the workers that held them are gone."""

    def __init__(self, client: Any, data: DataSplits) -> None:
        self.client, self._splits = client, (data.name, data.train, data.val, data.flip)
        self._there = self._scattered()

    def there(self) -> Any:
        """What a task on the cluster takes for them."""
        if self._there.status != "finished":
            self._there = self._scattered()
        return self._there

    def instead_of(self, lost: Any) -> Any:
        """Others than those a training was lost with: the cluster may not have noticed yet that they are gone."""
        if lost is self._there:
            self._there = self._scattered()
        return self.there()

    def _scattered(self) -> Any:
        # under a new name each time: Dask would not send again what it believes to be there
        return self.client.scatter([self._splits], broadcast=True, hash=False)[0]


class _Job:
    """A training on the cluster, and the trial it is for."""

    def __init__(self, images: _Images, arguments: tuple[Any, ...], trial: optuna.Trial, training: Training) -> None:
        self._images, self._arguments, self._starts = images, arguments, 0
        self.trial, self.training = trial, training
        self._found: tuple[list[float], bool] | None = None
        self._start(images.there())

    def is_over(self) -> bool:
        """Whether it ended, with a result that was fetched or an error; one that was lost is started again.

        A training is lost with its worker, or with the images there; so is a result that was not fetched yet.
        """
        if self._future.status == "pending":
            return False
        if self._future.status == "error":
            return True
        if self._future.status != "lost":
            with suppress(CancelledError):
                self._found = self._future.result()
                return True
        if self._starts == STARTS:
            return bool(self._future.status != "lost")  # which Dask may find again
        self._start(self._images.instead_of(self._with))
        return False

    def take(self, study: Study) -> None:
        """Put what the cluster found into the training; had it failed there, the trial fails, and so does this."""
        if self._found is None:
            try:
                self._found = self._future.result()
            except BaseException:
                study.tell(self.trial, state=TrialState.FAIL)
                raise
        self.training.curve, self.training.stopped = self._found
        self.training.epochs = len(self.training.curve)

    def _start(self, images: Any) -> None:
        self._starts, self._with = self._starts + 1, images
        self._future = self._images.client.submit(train_there, images, *self._arguments, pure=False)


def train_there(
    splits: Splits,
    space: SearchSpace,
    params: Params,
    recipe: Recipe,
    device: str,
    stopping: Stopper | None,
    candidate: Curve,
    others: Sequence[Curve],
) -> tuple[list[float], bool]:
    """On a worker of the cluster: the validation accuracy after each epoch, and whether the rule stopped it."""
    from vit.image_set import DataSplits

    name, train, val, flip = splits
    curve: list[float] = []

    def after_epoch(row: dict[str, float]) -> None:
        curve.append(row["val_accuracy"])
        if stopping is None or len(curve) == recipe.epochs:
            return
        if stopping.stops(replace(candidate, accuracy=tuple(curve)), others, recipe.epochs):
            raise Stopped

    with ONE_AT_A_TIME:
        try:
            trained_accuracy(
                space, params, DataSplits(name, train, val, _no_test, flip=flip), recipe, device, after_epoch
            )
        except Stopped:
            return curve, True
    return curve, False


def _is_settled(task: Task, training: Training) -> bool:
    """Whether a candidate needs no training: no accuracy is asked, or a twin's tells enough."""
    try:
        return not set(TRAINED) & set(task.objectives) or training.is_known()
    except Stopped:
        return True


def _no_test() -> ImageSet:
    raise AssertionError("a search reads no test images")
