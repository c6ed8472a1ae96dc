"""Gradual pruning while a model trains."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from prune.magnitude import SCOPES, magnitude_prune
from vit.errors import InputError, require_choice, require_float, require_int


class CubicSchedule:
    """Sparsity that rises fast at first and slowly at the end (Zhu & Gupta 2017, equation 1).

    s(t) = final + (initial - final) * (1 - (t - t0) / (t1 - t0))^3 for t0 <= t <= t1, with t0 = begin * total_steps
    and t1 = end * total_steps. It keeps no state: what is pruned stands in the masks of the model, so a run that is
    resumed from a checkpoint goes on as if it had not been stopped.

    Args:
        final: sparsity from t1 on, in [0, 1).
        initial: sparsity at t0, at most `final`.
        begin, end: where the rise starts and ends, as fractions of the training; after `end` the weights recover.
        every: steps between two prunings.
        scope, skip: as in `magnitude_prune`.

    Raises:
        InputError: a value out of its range.

    >>> schedule = CubicSchedule(0.8, begin=0.0, end=0.5)
    >>> [round(schedule.sparsity_at(step, 100), 3) for step in (0, 25, 50, 99)]
    [0.0, 0.7, 0.8, 0.8]
    """

    def __init__(
        self,
        final: float,
        initial: float = 0.0,
        begin: float = 0.0,
        end: float = 0.7,
        every: int = 10,
        scope: str = "global",
        skip: Sequence[str] = (),
    ) -> None:
        self.final = require_float("final", final, 0, 1, open_high=True)
        self.initial = require_float("initial", initial, 0, self.final)
        self.end = require_float("end", end, 0, 1, open_low=True)
        self.begin = require_float("begin", begin, 0, 1)
        if self.begin >= self.end:
            raise InputError("begin", begin, f"less than end = {self.end:g}")
        self.every = require_int("every", every)
        self.scope = require_choice("scope", scope, SCOPES)
        self.skip = tuple(skip)

    def sparsity_at(self, step: int, total_steps: int) -> float:
        """The sparsity the schedule asks for after step `step` of `total_steps`; 0 before it begins."""
        begin, end = self._span(total_steps)
        if step < begin:
            return 0.0
        if step >= end:
            return self.final
        left = 1.0 - (step - begin) / (end - begin)
        return self.final + (self.initial - self.final) * left**3

    def __call__(self, model: nn.Module, step: int, total_steps: int) -> None:
        """Prune to the sparsity due now; to be called after each optimiser step (`on_step` of vit.training.fit)."""
        begin, end = self._span(total_steps)
        rising = begin <= step < end and (step - begin) % self.every == 0
        due = rising or step in (end, total_steps)  # the last again, if steps are counted from 1
        wanted = self.sparsity_at(step, total_steps)
        if due and wanted > 0:
            magnitude_prune(model, wanted, self.scope, self.skip)

    def _span(self, total_steps: int) -> tuple[int, int]:
        """First and last step of the rise; the last lies within the training however its steps are counted."""
        last = max(0, total_steps - 1)
        end = min(last, math.ceil(self.end * total_steps))
        return min(end, math.floor(self.begin * total_steps)), end
