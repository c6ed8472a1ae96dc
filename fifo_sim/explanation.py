"""Explain a run: a cause for every stalled cycle, the critical path and cycle, and what to change to lift them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fifo_sim.critical import critical_arcs
from fifo_sim.critical_report import CriticalCycle, CriticalPath, critical_cycle, critical_path
from fifo_sim.deadlock import DeadlockExplanation, explain_deadlock
from fifo_sim.given import fifo_names, pipeline_of, port_names, slot_bytes
from fifo_sim.remedies import Remedy, remedies
from fifo_sim.replay import Replay, refuse_long_runs
from fifo_sim.simulator import simulate
from fifo_sim.spans import BLOCKED, BUSY, DRAINED, RESOURCE, STARVED, STATES, spans_of
from vit.errors import require_float

if TYPE_CHECKING:
    from fifo_sim.given import Given


MOST_SHOWN = 12  # causes in the printed form; the rows have them all


@dataclass(frozen=True)
class CauseRow:
    """Cycles of one stage with one cause.

    Attributes:
        stage: its name.
        state: "busy", "starved", "blocked", "resource" or "drained", as in the ledger of `simulate`.
        cause: name of the FIFO (empty if starved, full if blocked) or of the port; "" for busy and drained.
        index: position of that FIFO or port; -1 for none.
        cycles: how many.
        waits: how many separate waits, or firings if busy.
    """

    stage: str
    state: str
    cause: str
    index: int
    cycles: int
    waits: int


@dataclass(frozen=True)
class Explanation:
    """Why a run takes as long as it does.

    Attributes:
        cycles: of the run; None if it deadlocks.
        horizon: the cycles that the rows of each stage sum to: `cycles`, or those up to the deadlock.
        rows: stage by stage, in the order busy, starved, blocked, resource, drained, the largest cause first.
        path: the critical path; None if it deadlocks.
        cycle: the critical cycle; None if nothing repeats itself on the path.
        remedies: what to change, the cheapest first.
        deadlock: the circular wait, if there is one.
    """

    cycles: int | None
    horizon: int
    rows: tuple[CauseRow, ...]
    path: CriticalPath | None
    cycle: CriticalCycle | None
    remedies: tuple[Remedy, ...]
    deadlock: DeadlockExplanation | None

    def stalls(self) -> tuple[CauseRow, ...]:
        """The rows of stalled cycles (starved, blocked, resource), the most cycles first."""
        stalled = [row for row in self.rows if row.state in ("starved", "blocked", "resource")]
        return tuple(sorted(stalled, key=lambda row: -row.cycles))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.cycles} cycles" if self.cycles is not None else f"deadlock after {self.horizon} cycles"]
        stalls = self.stalls()
        for row in stalls[:MOST_SHOWN]:
            what = {"starved": "waits for FIFO {}, empty", "blocked": "waits for FIFO {}, full"}.get(
                row.state, "waits for {}"
            )
            lines.append(f"  {row.stage}: {row.cycles} cycles, {what.format(row.cause)}")
        if len(stalls) > MOST_SHOWN:
            lines.append(f"  and {len(stalls) - MOST_SHOWN} more")
        if self.cycle is not None:
            lines.append(f"steady state: {self.cycle}")
        lines += [f"to change: {remedy.sentence}" for remedy in self.remedies]
        if self.deadlock is not None:
            lines.append(str(self.deadlock))
        return "\n".join(lines)


def explain(pipeline: Given, token_bytes: int | Sequence[int] | None = None, seconds: float = 2.0) -> Explanation:
    """Simulate a pipeline and put every stalled cycle down to a FIFO or port; name what limits it and what lifts that.

    A stage that lacks several inputs waits for the one that comes last: that one is the cause of the whole wait.

    Args:
        pipeline: a Pipeline, a dict of the kind `Pipeline.from_dict` reads, or what `lower` gives.
        token_bytes: bytes of a slot, by which deeper FIFOs are priced: one number, or one for each FIFO; by default
            what `lower` knows, otherwise 1.
        seconds: about how long to search for what to change.

    Raises:
        InputError: the dict is no pipeline, token_bytes do not fit it, or it fires more than 2^22 times.
    """
    asked, weights = pipeline_of(pipeline), slot_bytes(pipeline, token_bytes)
    require_float("seconds", seconds, 0, 1e6, open_low=True)
    refuse_long_runs(asked, "an explanation")
    replay = Replay(asked, simulate(asked))
    rows = tuple(row for s in range(len(asked.stages)) for row in _rows(replay, s))
    if replay.deadlock:
        told = explain_deadlock(asked, weights.tolist(), seconds)
        return Explanation(None, replay.horizon, rows, None, None, (), told)
    arcs = critical_arcs(replay)
    path, cycle = critical_path(asked, arcs), critical_cycle(asked, arcs)
    lifts = tuple(remedies(asked, weights, arcs, replay.horizon, seconds))
    return Explanation(replay.horizon, replay.horizon, rows, path, cycle, lifts, None)


def _rows(replay: Replay, s: int) -> list[CauseRow]:
    spans = spans_of(replay, s)
    fifos, ports = fifo_names(replay.pipeline), port_names(replay.pipeline)
    rows = []
    for state in (BUSY, STARVED, BLOCKED, RESOURCE, DRAINED):
        found = []
        for cause in np.unique(spans.cause[spans.state == state]).tolist():
            chosen = spans.select((spans.state == state) & (spans.cause == cause))
            name = "" if cause < 0 else ports[cause] if state == RESOURCE else fifos[cause]
            cycles = int((chosen.end - chosen.begin).sum())
            found.append(CauseRow(replay.pipeline.stages[s].name, STATES[state], name, cause, cycles, len(chosen)))
        rows += sorted(found, key=lambda row: -row.cycles)
    return rows
