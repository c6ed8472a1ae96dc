"""What a worker does: it takes one trial after the other until the study has all."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from nas.pareto import ended
from nas.place import WORKER, Overtaken, Place
from nas.stopping import Stopper
from nas.task import Task
from nas.trial import Progress, run_trial

if TYPE_CHECKING:
    from optuna import Study

POLL_SECONDS = 0.2


def work(
    study: Study,
    task: Task,
    place: Place,
    trials: int,
    stopping: Stopper | None,
    progress: Callable[[Progress], None] | None,
) -> None:
    """Run trials, as one worker among others perhaps, until `trials` have ended."""
    while len(ended(study)) < trials:
        # a worker that was taken for dead gives up its trial, which others have by now, and goes on as a new one
        with suppress(Overtaken, UpdateFinishedTrialError), place.working() as worker:
            while len(ended(study)) < trials:
                trial = next_trial(study, task, place, worker, trials)
                if trial is not None:
                    run_trial(study, task, trial, trials, stopping, progress)
                elif len(ended(study)) < trials:  # the last are with others; should one die, its trial is ours
                    time.sleep(POLL_SECONDS)


def next_trial(study: Study, task: Task, place: Place, worker: str, trials: int) -> optuna.Trial | None:
    """A trial to run, of a dead worker's candidate if there is one; None where those begun are all that is wanted."""
    with place.turn():
        place.retry_abandoned(study, task.distributions)
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        begun = len(ended(study)) + len(running)
        if begun >= trials:
            return None
        study.sampler = task.sampler(begun)
        trial = study.ask(task.distributions)
        trial.set_user_attr(WORKER, worker)
        return trial
