"""Explain a deadlock: who waits for whom, and the smallest change of FIFO depths that resolves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fifo_sim.deadlock_waits import EMPTY, FULL, StuckWait, blocking_waits
from fifo_sim.given import fifo_names, pipeline_of, port_names, slot_bytes, unlimited_depths
from fifo_sim.pattern import Ints
from fifo_sim.pipeline import Pipeline
from fifo_sim.replay import Replay, refuse_long_runs
from fifo_sim.simulator import simulate
from fifo_sim.sizing import cheapest
from fifo_sim.sizing_search import NO_LIMIT
from vit.errors import require_float

if TYPE_CHECKING:
    from fifo_sim.given import Given


@dataclass(frozen=True)
class Wait:
    """One link of a circular wait.

    Attributes:
        stage: who waits, with firing number `firing`.
        kind: "full" (a FIFO has no room for its token), "empty" (a FIFO lacks the token it needs) or "turn" (another
            stage has to start at a port before).
        what: name of the FIFO or port.
        on: the stage it waits for.
        sentence: the same in words.
    """

    stage: str
    firing: int
    kind: str
    what: str
    on: str
    sentence: str


@dataclass(frozen=True)
class DepthChange:
    """One FIFO that should be deeper: its name, position, and depth before and after."""

    fifo: str
    edge: int
    before: int
    after: int


@dataclass(frozen=True)
class DeadlockExplanation:
    """Why a pipeline stops, and what to do about it.

    Attributes:
        deadlock: whether it stops at all; if not, the rest is empty.
        waits: the circular wait: each waits for the stage of the next, the last for that of the first. Where there is
            no circle, the one wait for slots that a stage which has finished never gives back.
        changes: the smallest change of depths that resolves it: least extra bytes in all, and the deadlocks that would
            come next are resolved as well. Verified by simulation. Empty if no depths help.
        depths: all depths after it, in edge order; None if no depths help.
        extra_slots, extra_bytes: what it costs.
        proven: whether no smaller change resolves it.
    """

    deadlock: bool
    waits: tuple[Wait, ...] = ()
    changes: tuple[DepthChange, ...] = ()
    depths: tuple[int, ...] | None = None
    extra_slots: int = 0
    extra_bytes: int = 0
    proven: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        if not self.deadlock:
            return "no deadlock"
        lines = ["deadlock: " + ("a circular wait" if len(self.waits) > 1 else "a wait that nothing ends")]
        lines += [f"  {wait.sentence}" for wait in self.waits]
        if self.depths is None:
            return "\n".join([*lines, "no FIFO depths resolve it: the turns at the ports wait for one another"])
        least = "smallest" if self.proven else "smallest found"
        lines.append(f"{least} change that resolves it: {self.extra_slots} slots, {self.extra_bytes} bytes more")
        return "\n".join(lines + [f"  FIFO {c.fifo}: depth {c.before} -> {c.after}" for c in self.changes])


def explain_deadlock(
    pipeline: Given, token_bytes: int | Sequence[int] | None = None, seconds: float = 10.0
) -> DeadlockExplanation:
    """The circular wait in which a pipeline stops, by name, and the smallest depth change that resolves it.

    Args:
        pipeline: a Pipeline, a dict of the kind `Pipeline.from_dict` reads, or what `lower` gives.
        token_bytes: bytes of a slot: one number, or one for each FIFO; by default what `lower` knows, otherwise 1. With
            1 the change is the one of fewest slots.
        seconds: about how long to search for the smallest change.

    Raises:
        InputError: the dict is no pipeline, token_bytes do not fit it, or it fires more than 2^22 times.
    """
    asked, weights = pipeline_of(pipeline), slot_bytes(pipeline, token_bytes)
    require_float("seconds", seconds, 0, 1e6, open_low=True)
    refuse_long_runs(asked, "explaining a deadlock")
    if not simulate(asked, history=False).deadlock:
        return DeadlockExplanation(False)
    replay = Replay(asked, simulate(asked))
    waits = tuple(_named(replay, wait) for wait in blocking_waits(replay))
    before: Ints = np.array(asked.depths, dtype=np.int64)
    roomy = np.maximum(before, unlimited_depths(asked))
    if simulate(asked.with_depths(roomy), history=False).deadlock:
        return DeadlockExplanation(True, waits)
    found = cheapest(asked, weights, before, NO_LIMIT, seconds)
    changes = depth_changes(asked, found.depths)
    extra = int(weights @ (found.depths - before))
    slots = sum(change.after - change.before for change in changes)
    return DeadlockExplanation(
        True, waits, changes, tuple(found.depths.tolist()), slots, extra, found.bound == found.total
    )


def depth_changes(pipeline: Pipeline, depths: Ints) -> tuple[DepthChange, ...]:
    """The FIFOs whose depths differ from the pipeline's own."""
    rows = zip(fifo_names(pipeline), pipeline.depths, depths.tolist(), strict=True)
    return tuple(DepthChange(name, e, old, new) for e, (name, old, new) in enumerate(rows) if new != old)


def _named(replay: Replay, wait: StuckWait) -> Wait:
    pipeline = replay.pipeline
    stage, on = pipeline.stages[wait.stage].name, pipeline.stages[wait.on].name
    if wait.kind in (FULL, EMPTY):
        edge, what = pipeline.edges[wait.index], fifo_names(pipeline)[wait.index]
        written = len(replay.pushes(wait.index))
        if wait.kind == EMPTY:
            need = edge.need_pattern.at(wait.firing)
            why = f"FIFO {what} is empty: it needs {need} tokens in all and {written} were written; {on} writes them"
        else:
            why = f"FIFO {what} is full ({edge.depth} of {edge.depth} slots): "
            never = wait.event >= pipeline.firings[wait.on]
            why += f"{on}, at its end, keeps them" if never else f"{on} frees one at its firing {wait.event}"
    else:
        what = port_names(pipeline)[wait.index]
        why = f"it is {on}'s turn at {what}"
    return Wait(stage, wait.firing, wait.kind, what, on, f"{stage} (firing {wait.firing}) waits: {why}")
