"""Where every cycle of a stage went: spans of one state and one cause each, from cycle 0 to the end of the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fifo_sim.pattern import Ints
from fifo_sim.replay import Replay

STATES = ("busy", "starved", "blocked", "resource", "drained")
BUSY, STARVED, BLOCKED, RESOURCE, DRAINED = range(5)


@dataclass(frozen=True)
class Spans:
    """Spans of one stage in the order of time; they touch, and none is empty.

    Attributes:
        state: positions in STATES.
        cause: of starved and blocked: position of the FIFO; of resource: position of the port; otherwise -1.
        firing: the firing that computes or waits; of drained: the number of firings.
        begin, end: cycles. All are int64 of shape (spans,).
    """

    state: Ints
    cause: Ints
    firing: Ints
    begin: Ints
    end: Ints

    def __len__(self) -> int:
        return len(self.state)

    def select(self, chosen: npt.NDArray[Any]) -> Spans:
        """The chosen spans (a mask, or positions)."""
        columns = (self.state, self.cause, self.firing, self.begin, self.end)
        return Spans(*(column[chosen] for column in columns))


def spans_of(replay: Replay, s: int) -> Spans:
    """The spans of stage `s`.

    A wait is put down to what ended it: of several inputs missing, the one that came last. Before a start a stage waits
    for inputs, then (mode bbs) for space, then for its ports; after computing, for space.
    """
    stage, started, ended = replay.pipeline.stages[s], len(replay.starts[s]), len(replay.ends[s])
    horizon, asked = replay.horizon, replay.asked[s]
    free = replay.free_before(s)
    start, ready = (np.concatenate([t, np.full(asked - started, horizon)]) for t in (replay.starts[s], replay.ready(s)))
    end = np.concatenate([replay.ends[s], np.full(asked - ended, horizon)])
    inputs, missing = _latest(free, [(e, replay.arrivals(e)) for e in replay.wiring.inputs[s]], horizon)
    rooms = [(e, replay.room(e)) for e in replay.wiring.outputs[s]]
    space, full = _latest(inputs, rooms if stage.mode == "bbs" else [], horizon)
    _, held = _latest(space, [(p, replay.port_free(p, s)) for p in replay.wiring.ports[s]], horizon)
    _, full_after = _latest(ready, rooms, horizon)
    nothing = np.full(asked, -1)
    rows = (
        (STARVED, missing, free, inputs),
        (BLOCKED, full, inputs, space),
        (RESOURCE, held, space, start),
        (BUSY, nothing, start, ready),
        (BLOCKED, full_after, ready, end),
    )
    found = Spans(
        np.tile([row[0] for row in rows], asked),
        *(np.stack(columns, axis=1).ravel() for columns in ([row[1] for row in rows], [np.arange(asked)] * len(rows))),
        *(np.stack([row[i] for row in rows], axis=1).ravel() for i in (2, 3)),
    )
    if ended == replay.pipeline.firings[s]:
        last = (DRAINED, -1, ended, end[-1], horizon)
        columns = (found.state, found.cause, found.firing, found.begin, found.end)
        found = Spans(*(np.append(column, value) for column, value in zip(columns, last, strict=True)))
    return found.select(found.end > found.begin)


def _latest(since: Ints, waits: list[tuple[int, Ints]], horizon: int) -> tuple[Ints, Ints]:
    """(when the last of the waits is over, at most `horizon`; which one that is, -1 where `since` is no earlier)."""
    latest, which = since, np.full(len(since), -1)
    for index, times in waits:
        which = np.where(times > latest, index, which)
        latest = np.maximum(latest, times)
    return np.minimum(latest, horizon), which
