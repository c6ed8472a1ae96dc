"""A search in a process of its own, for the tests that kill it: python -m tests.nas.worker JOURNAL TRIALS [TRACE]."""

from __future__ import annotations

import sys
import time

import torch

from nas import Progress, SearchSpace, search
from tests.nas.toy import toy_data, toy_recipe, toy_space


def main() -> None:
    torch.set_num_threads(1)
    journal, trials, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])

    def report(progress: Progress) -> None:
        print(progress.done, progress.epoch, "trial" if progress.values else "epoch", flush=True)
        time.sleep(pause)

    space: SearchSpace = toy_space()
    search(
        space,
        toy_data(),
        None,
        ("accuracy", "params"),
        trials=trials,
        storage=journal,
        recipe=toy_recipe(),
        progress=report,
    )


if __name__ == "__main__":
    main()
