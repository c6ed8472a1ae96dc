"""A stretch of a run as slices and counters, as a picture or a trace of limited size wants it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fifo_sim.given import fifo_names, port_names
from fifo_sim.pattern import LARGEST, Ints
from fifo_sim.replay import Replay
from fifo_sim.spans import RESOURCE, STATES, Spans, spans_of
from vit.errors import InputError, require_int


@dataclass(frozen=True)
class Window:
    """What happens from cycle `begin` to `end`, which no slice passes.

    Attributes:
        begin, end: of the window.
        whole: whether it is all that was asked for; if not, it was ended where the limit was reached.
        slices: spans by stage.
        fills: (cycle, tokens) at every change, by FIFO; the first is at `begin`.
    """

    begin: int
    end: int
    whole: bool
    slices: list[Spans]
    fills: list[tuple[Ints, Ints]]


def window_of(replay: Replay, begin: int, end: int | None, limit: int, fills: bool = True) -> Window:
    """The window from `begin` to `end` (the end of the run if None), shorter if it has more than `limit` entries.

    Raises:
        InputError: the cycles are no window of the run, or even its first cycle has more entries.
    """
    begin = require_int("begin", begin, 0, max(0, replay.horizon - 1))
    asked = replay.horizon if end is None else min(require_int("end", end, begin + 1, LARGEST), replay.horizon)
    slices = [_within(spans_of(replay, s), begin, asked) for s in range(len(replay.pipeline.stages))]
    edges = len(replay.pipeline.edges) if fills else 0
    beyond = asked + (asked == replay.horizon)  # the last tokens of a run are written in the cycle that ends it
    changes = [_within_fill(*fill_of(replay, e), begin, beyond) for e in range(edges)]
    last = min(asked, _end_within(limit, [each.begin for each in slices] + [cycles for cycles, _ in changes], asked))
    if last <= begin < asked:
        raise InputError("pipeline", f"{len(slices)} stages", f"a pipeline with at most {limit} entries in a cycle")
    if last < asked:
        slices = [_within(each, begin, last) for each in slices]
        changes = [_within_fill(cycles, tokens, begin, last) for cycles, tokens in changes]
    return Window(begin, last, last == asked, slices, changes)


def fill_of(replay: Replay, e: int) -> tuple[Ints, Ints]:
    """(cycle, tokens in the FIFO from then on) at every change of FIFO `e`; a slot given back counts at once."""
    edge, pushes = replay.pipeline.edges[e], replay.pushes(e)
    opened = (replay.ends if edge.release == "end" else replay.starts)[replay.wiring.dst[e]]
    given = np.diff(edge.rel_pattern.expand(len(opened)), prepend=0)
    moments = np.concatenate([pushes, opened])
    steps = np.concatenate([np.ones(len(pushes), np.int64), -given])
    cycles, places = np.unique(moments, return_inverse=True)
    change = np.zeros(len(cycles), np.int64)
    np.add.at(change, places, steps)
    moved = change != 0
    return cycles[moved], np.cumsum(change)[moved]


def slice_names(replay: Replay) -> dict[tuple[int, int], str]:
    """What a slice of each (state, cause) is called: "busy", "starved: a->b", "resource: port 0 (a, b)"."""
    names = {(state, -1): name for state, name in enumerate(STATES)}
    for state in range(len(STATES)):
        causes: Sequence[str] = port_names(replay.pipeline) if state == RESOURCE else fifo_names(replay.pipeline)
        names |= {(state, i): f"{STATES[state]}: {cause}" for i, cause in enumerate(causes)}
    return names


def _within(spans: Spans, begin: int, end: int) -> Spans:
    found = spans.select((spans.end > begin) & (spans.begin < end))
    return Spans(found.state, found.cause, found.firing, np.maximum(found.begin, begin), np.minimum(found.end, end))


def _within_fill(cycles: Ints, tokens: Ints, begin: int, end: int) -> tuple[Ints, Ints]:
    first = int(np.searchsorted(cycles, begin, side="right"))
    last = int(np.searchsorted(cycles, end, side="left"))
    now = tokens[first - 1] if first else 0
    return np.concatenate([[begin], cycles[first:last]]), np.concatenate([[now], tokens[first:last]])


def _end_within(limit: int, moments: list[Ints], asked: int) -> int:
    """The latest end such that at most `limit` of the moments lie before it."""
    everything = np.concatenate(moments)
    if len(everything) <= limit:
        return asked
    return int(np.partition(everything, limit)[limit])
