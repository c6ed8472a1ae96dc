"""What holds of a study that several workers share, wherever it is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.trial import TrialState

from nas import search
from nas.pareto import finished
from nas.storage import forget, holds_study
from tests.nas.toy import toy_data, toy_recipe, toy_space

ROOT = Path(__file__).parents[2]
WORKER = ("-m", "tests.nas.worker")


class Killed(NamedTuple):
    """What the death of a worker cost: trials that failed, and the workers that finished one."""

    lost: int
    finishers: int


def toy_search(storage: str | None, trials: int) -> optuna.Study:
    given = {"objectives": ("accuracy", "params"), "recipe": toy_recipe()}
    return search(toy_space(), toy_data(), None, trials=trials, storage=storage, **given)


def kill_one_in_mid_trial(url: str, workers: int, trials: int, program: Sequence[str] = WORKER) -> Killed:
    """Have workers share a search and kill the first; no finished trial is lost or repeated, and its own is retried.

    Args:
        program: of a worker, as arguments of Python; it takes the storage, the trials and a pause after each epoch.
    """
    command = [sys.executable, *program, url, str(trials), "0.1"]
    crew = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(workers)]
    assert crew[0].stdout is not None
    for line in crew[0].stdout:
        if line.endswith("epoch\n"):
            break
    os.kill(crew[0].pid, signal.SIGKILL)
    for process in crew:
        process.communicate()
    assert [process.returncode for process in crew] == [-signal.SIGKILL, *[0] * (workers - 1)]
    study = toy_search(url, trials)  # has nothing left to do
    done = finished(study)
    candidates = [json.dumps(trial.params, sort_keys=True) for trial in done]
    assert len(candidates) == len(set(candidates)) == trials
    lost = [trial.params for trial in study.trials if trial.state == TrialState.FAIL]
    assert all(params in [trial.params for trial in done] for params in lost)
    return Killed(len(lost), len({trial.user_attrs["worker"] for trial in done}))


def goes_on_as_in_memory(url: str) -> None:
    """One worker, stopped once, finds what it finds in memory; the search can be forgotten."""
    whole = toy_search(None, 6)
    for trials in (2, 6):
        study = toy_search(url, trials)
    assert [(t.params, t.values) for t in finished(study)] == [(t.params, t.values) for t in finished(whole)]
    assert holds_study(url)
    forget(url)
    assert not holds_study(url)
    forget(url)  # of nothing is no error
