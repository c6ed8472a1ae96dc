import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nas import search
from nas.pareto import finished
from nas.trial import Progress
from tests.nas.toy import toy_data, toy_recipe, toy_space

TRIALS = 12


def crewed(journal: Path, **options: object) -> object:
    given = {"objectives": ("accuracy", "params"), "trials": TRIALS, "storage": journal, "recipe": toy_recipe()}
    return search(toy_space(), toy_data(), None, workers=2, **(given | options))


def test_two_workers_share_one_study(tmp_path: Path) -> None:
    mine: list[Progress] = []

    def slowly(progress: Progress) -> None:
        mine.append(progress)
        time.sleep(0.3)  # leaves some trials to the helper, which has torch to import first

    study = crewed(tmp_path / "s.journal", progress=slowly)
    candidates = [json.dumps(trial.params, sort_keys=True) for trial in finished(study)]
    assert len(candidates) == len(set(candidates)) == TRIALS
    assert len({trial.user_attrs["worker"] for trial in finished(study)}) == 2
    assert sum(state.values is not None for state in mine) < TRIALS


def test_helpers_end_with_what_started_them(tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crewed(tmp_path / "s.journal", progress=interrupt)
    study = crewed(tmp_path / "s.journal")
    assert len(finished(study)) == TRIALS


def test_helpers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys; from tests.nas.test_crew import crewed\n"
        "crewed(sys.argv[1], trials=10**6, progress=lambda progress: print(1, flush=True))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "s.journal")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        process.stdout.readline()
        workers = tmp_path / "s.journal.workers"
        while len(list(workers.iterdir())) < 2:
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
        process.stdout.read()  # until the last process that holds the pipe is gone
    assert crewed(tmp_path / "s.journal", trials=1) is not None
