"""One trial of a search: its exact costs, its training or that of its twin, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FrozenTrial, TrialState

from nas.cost_aware import EXPECTED
from nas.costs import TRAINED
from nas.curves import Curve, expected_final
from nas.pareto import ended
from nas.space import Params
from nas.stopping import Stopper
from nas.task import Task

if TYPE_CHECKING:
    from optuna import Study

ACCURACIES, EPOCHS = "accuracy_by_epoch", "epochs"  # user attributes of a trial


@dataclass(frozen=True)
class Progress:
    """Where a search is: told to its `progress` callback after every epoch and after every trial.

    Attributes:
        done, total: trials that ended, and how many there will be.
        params: the candidate in hand.
        epoch, epochs: epochs of its training that are finished, and how many there will be.
        values: {objective: value} once the trial is finished, else None.
        stopped: whether the trial ended before its last epoch.
        study: for a look at what was found so far.
    """

    done: int
    total: int
    params: Params
    epoch: int
    epochs: int
    values: dict[str, float] | None = None
    stopped: bool = False
    study: Study | None = field(default=None, repr=False, compare=False)


class Stopped(Exception):
    """The training cannot reach the front any more."""


def run_trial(
    study: Study,
    task: Task,
    trial: optuna.Trial,
    total: int,
    stopping: Stopper | None,
    progress: Callable[[Progress], None] | None,
) -> None:
    """Train the candidate of a trial and tell the study its values, or that it was stopped."""
    params = dict(trial.params)
    done, epochs = len(ended(study)), task.epochs

    def tell(epoch: int) -> None:
        if progress is not None:
            progress(Progress(done, total, params, epoch, epochs, study=study))

    training = Training(study, task, params, stopping, tell)
    try:
        if set(TRAINED) & set(task.objectives) and not training.is_known():
            if task.supernet is None:
                task.accuracy(params, training.after_epoch)
            else:
                training.curve = [task.inherited_accuracy(params)]
    except Stopped:
        pass
    except BaseException:
        study.tell(trial, state=TrialState.FAIL)
        raise
    conclude(study, task, trial, training, total, progress)


def conclude(
    study: Study,
    task: Task,
    trial: optuna.Trial,
    training: Training,
    total: int,
    progress: Callable[[Progress], None] | None,
) -> None:
    """Tell the study how a training ended: the values of its trial, or that it was stopped."""
    params, values = dict(trial.params), None
    found = dict(task.costs(params))
    if set(TRAINED) & set(task.objectives):
        trial.set_user_attr(ACCURACIES, training.curve)
        trial.set_user_attr(EPOCHS, training.epochs)
        if training.curve:
            found["accuracy"] = training.expected() if training.stopped else training.curve[-1]
    if training.stopped:
        if training.curve:
            trial.set_user_attr(EXPECTED, [found[name] for name in task.objectives])
        study.tell(trial, state=TrialState.PRUNED)
    else:
        values = {name: found[name] for name in task.objectives}
        study.tell(trial, list(values.values()))
    if progress is not None:
        epoch = len(training.curve) if training.stopped else task.epochs
        progress(Progress(len(ended(study)), total, params, epoch, task.epochs, values, training.stopped, study))


class Training:
    """The training of one candidate, watched after every epoch.

    Attributes:
        curve: validation accuracy after each epoch.
        epochs: how many of them were trained for this candidate, and not for a twin.
        stopped: whether the rule gave the candidate up.
    """

    def __init__(
        self,
        study: Study,
        task: Task,
        params: Params,
        stopping: Stopper | None,
        tell: Callable[[int], None] | None = None,
    ) -> None:
        self._study, self._task, self._params, self._stopping, self._tell = study, task, params, stopping, tell
        self.curve: list[float] = []
        self.epochs = 0
        self.stopped = False

    def is_known(self) -> bool:
        """Whether a finished trial trained the same model, whose curve is then taken.

        Raises:
            Stopped: the rule gives this candidate up at once, or by the same training, known up to some epoch.
        """
        for twin in self._twins(TrialState.COMPLETE):
            self.curve = list(twin.user_attrs[ACCURACIES])
            return True
        for twin in self._twins(TrialState.PRUNED):
            for accuracy in twin.user_attrs[ACCURACIES]:
                self.curve.append(accuracy)
                self._stop_if_hopeless()
            self.curve = []
        self._stop_if_hopeless()
        return False

    def after_epoch(self, row: Mapping[str, float]) -> None:
        """Watch an epoch's row of the history.

        Raises:
            Stopped: the rule gives the candidate up.
        """
        self.curve.append(row["val_accuracy"])
        self.epochs += 1
        if self._tell is not None:
            self._tell(int(row["epoch"]))
        self._stop_if_hopeless()

    def expected(self) -> float:
        """The accuracy that a training which was stopped would have had in the end, as its curve tells."""
        others = [other.accuracy for other in curves_of(self._study, self._task) if other.finished]
        return min(1.0, expected_final(self.curve, others))

    def candidate(self) -> Curve:
        """What is known of the candidate before any epoch."""
        return Curve((), known_costs(self._task, self._params), False, self._task.traits(self._params))

    def _stop_if_hopeless(self) -> None:
        if self._stopping is None or len(self.curve) == self._task.recipe.epochs:
            return
        here = replace(self.candidate(), accuracy=tuple(self.curve))
        if self._stopping.stops(here, curves_of(self._study, self._task), self._task.recipe.epochs):
            self.stopped = True
            raise Stopped

    def _twins(self, state: TrialState) -> list[FrozenTrial]:
        """Trials of that state that trained the same model."""
        key = self._task.trained_by(self._params)
        trials = self._study.get_trials(deepcopy=False, states=(state,))
        return [trial for trial in trials if self._task.trained_by(trial.params) == key]


def curves_of(study: Study, task: Task) -> list[Curve]:
    """The trainings of the trials that ended, in the order they were started."""
    return [
        Curve(
            tuple(trial.user_attrs[ACCURACIES]),
            known_costs(task, trial.params),
            trial.state == TrialState.COMPLETE,
            task.traits(trial.params),
        )
        for trial in ended(study)
    ]


def known_costs(task: Task, params: Params) -> tuple[float, ...]:
    """The objectives of a candidate that are computed."""
    costs = task.costs(params)
    return tuple(costs[name] for name in task.objectives if name not in TRAINED)


def epochs_trained(study: Study) -> int:
    """Epochs that the trials of a study trained in all, those that were stopped included."""
    return sum(int(trial.user_attrs.get(EPOCHS, 0)) for trial in ended(study))
