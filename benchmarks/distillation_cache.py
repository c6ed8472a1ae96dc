"""What keeping a teacher's logits on disk costs: bytes an epoch, and time a step.

    python benchmarks/distillation_cache.py [--rounds 9] [--threads 1]

A small teacher is trained on the digits and a student distilled from it for three epochs by its logits alone
(lam_f = 0). The sides take turns:

    teacher runs      no folder: the teacher is asked at every step, nothing is kept
    logits recorded   the same into an empty folder: each epoch's logits are written as well
    logits replayed   another student in that folder: the teacher does not run
    no teacher        `fit` on the labels, in a folder
    no folder         the same without one: its training state is not kept

The overhead of recording is "logits recorded" over "teacher runs" and the keeping of the state, which a folder brings
with it; of replaying, "logits replayed" over "no teacher": the reading of the file and both terms of the loss. Each is
the median over the rounds of the ratio within a round, in processor time, which other work on the machine disturbs
less. The targets are 5 % and, scaled to 50,000 images of 10 classes, 1 MB an epoch.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from vit import Recipe, create_model, distill, fit, load_data

EPOCHS, IMAGES = 3, 50_000
SHAPE = {"image_size": 8, "patch_size": 2, "in_channels": 1, "heads": 4, "pool": "mean"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    data, recipe = load_data("digits"), Recipe.for_data("digits", epochs=EPOCHS)
    teacher, student = (create_model({**SHAPE, "dim": dim, "depth": 3}) for dim in (96, 64))
    fit(teacher, data, Recipe.for_data("digits", epochs=10))

    def distilled(out: Path | None, name: str = "distill") -> None:
        distill(copy.deepcopy(student), data, recipe, out, teacher=teacher, lam_f=0.0, name=name)

    times: dict[str, list[float]] = {}

    def timed(name: str, run: Callable[[], object]) -> None:
        began = time.process_time()
        run()
        times.setdefault(name, []).append(time.process_time() - began)

    for _ in range(options.rounds + 1):
        with tempfile.TemporaryDirectory() as place:
            out = Path(place)
            timed("teacher runs", lambda: distilled(None))
            timed("logits recorded", lambda: distilled(out))  # noqa: B023
            timed("logits replayed", lambda: distilled(out, "another"))  # noqa: B023
            timed("no teacher", lambda: fit(copy.deepcopy(student), data, recipe, out))  # noqa: B023
            timed("no folder", lambda: fit(copy.deepcopy(student), data, recipe))
            sizes = [file.stat().st_size for file in (out / "teacher_logits").iterdir()]
    steps = EPOCHS * -(-len(data.train) // recipe.batch_size)
    print(f"torch {torch.__version__}, {options.threads} threads, {len(data.train)} digits, {steps} steps")
    for name, taken in times.items():
        print(f"  {name:16} {1e3 * statistics.median(taken[1:]) / steps:7.2f} ms a step")  # the first round warms up
    recorded, replayed, runs, labels, bare = (
        np.array(times[name][1:])
        for name in ("logits recorded", "logits replayed", "teacher runs", "no teacher", "no folder")
    )
    print(f"recording: {np.median(recorded / (runs + labels - bare)):.3f}; the target is 1.05")
    print(f"replaying: {np.median(replayed / labels):.3f}; the target is 1.05")
    scaled = max(sizes) * IMAGES / len(data.train) / 1e6
    print(f"{max(sizes):,} bytes an epoch, {scaled:.2f} MB for {IMAGES:,} images of 10 classes; the target is 1")


if __name__ == "__main__":
    main()
