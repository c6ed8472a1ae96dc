"""Where a study lives, and how the workers that share it know of one another."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import optuna
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState

WORKER = "worker"  # user attribute of a trial: who runs it
RETRY_OF = "retry_of"  # and the number of the trial whose candidate it tries again


class Overtaken(Exception):
    """This worker was held up so long that the others took it for dead, and its turn for theirs."""


class Place(ABC):
    """A storage of Optuna, with what it lacks: turns, and a sign of life that a worker's death takes away."""

    storage: BaseStorage
    name: str  # as it may be shown
    lost: tuple[type[Exception], ...] = ()  # what says that it cannot be reached any more

    @abstractmethod
    def turn(self) -> AbstractContextManager[None]:
        """Hold the right to start and to give up trials: workers take turns, so each sees what others have begun.

        Raises:
            Overtaken: on leaving it, if the turn ended before.
        """

    @abstractmethod
    def sign_of_life(self, worker: str) -> AbstractContextManager[None]:
        """While the block runs, and no longer than the process, the worker counts as alive."""

    @abstractmethod
    def is_alive(self, worker: str) -> bool:
        """Whether a worker still runs."""

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Let go of what only workers need; the storage stays open."""

    @contextmanager
    def working(self) -> Iterator[str]:
        """Yield the name of a new worker, alive until the block is left or the process dies."""
        name = uuid.uuid4().hex
        with self.sign_of_life(name):
            yield name

    def retry_abandoned(self, study: optuna.Study, names: Collection[str]) -> int:
        """Mark the running trials of dead workers as failed and enqueue their candidates again; how many there were.

        Args:
            names: the parameters of a candidate. Of a worker that died before it had written them all, what it had
                written is left: completed by another proposal it may be infeasible.
        """
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        abandoned = [t for t in running if not self.is_alive(t.user_attrs.get(WORKER, ""))]
        everyone = study.get_trials(deepcopy=False) if abandoned else []
        retried = {t.user_attrs.get(RETRY_OF) for t in everyone}
        for trial in abandoned:  # enqueued first: who dies between the two lines leaves it to be marked, not to be lost
            candidate = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            if candidate.keys() == set(names) and trial.number not in retried:
                study.enqueue_trial(candidate, user_attrs={RETRY_OF: trial.number})
            study.tell(trial.number, state=TrialState.FAIL)
        return len(abandoned)


class Memory(Place):
    """The memory of this process: nobody else works there."""

    def __init__(self) -> None:
        self.storage, self.name = InMemoryStorage(), "memory"
        self._working: set[str] = set()

    def turn(self) -> AbstractContextManager[None]:
        """Nobody else has one."""
        return nullcontext()

    @contextmanager
    def sign_of_life(self, worker: str) -> Iterator[None]:
        """A name in a set."""
        self._working.add(worker)
        try:
            yield
        finally:
            self._working.discard(worker)

    def is_alive(self, worker: str) -> bool:
        """Whether the worker's block has not been left."""
        return worker in self._working
