"""The timeline of a run as Trace Event JSON, which ui.perfetto.dev and chrome://tracing open.

Format: "Trace Event Format" (Google, docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU): complete
events "X", counters "C" and metadata "M". One cycle is shown as one microsecond.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fifo_sim.given import fifo_names, pipeline_of
from fifo_sim.pipeline import Pipeline
from fifo_sim.replay import Replay, refuse_long_runs
from fifo_sim.simulator import simulate
from fifo_sim.spans import BLOCKED, BUSY, DRAINED, RESOURCE, STARVED, STATES
from fifo_sim.window import Window, slice_names, window_of
from vit.files import written_aside

if TYPE_CHECKING:
    from fifo_sim.given import Given

MOST_EVENTS = 400_000  # about 40 MB, which viewers still open at ease
STAGES, FIFOS = 1, 2  # the two groups of tracks
COLOURS = {  # names that chrome://tracing reserves; Perfetto colours by the name of a slice
    BUSY: "thread_state_running",
    STARVED: "thread_state_iowait",
    BLOCKED: "terrible",
    RESOURCE: "rail_response",
    DRAINED: "grey",
}


@dataclass(frozen=True)
class TraceSummary:
    """What a trace file holds: its events, and the cycles from `begin` to `end`; `whole` if that is all asked for."""

    events: int
    begin: int
    end: int
    whole: bool


def write_trace(pipeline: Given, path: str | Path, begin: int = 0, end: int | None = None) -> TraceSummary:
    """Simulate a pipeline and write its timeline: stages as tracks, firings and stalls as slices, FIFOs as counters.

    Stalls are named after their cause and coloured by its kind. The file has at most MOST_EVENTS events: a longer
    timeline ends at the cycle where they are used up, which the summary and the file's "otherData" state; a later part
    takes another `begin`. It is written whole or not at all.

    Args:
        pipeline: a Pipeline, a dict of the kind `Pipeline.from_dict` reads, or what `lower` gives.
        path: where to write; usually *.json.
        begin, end: the cycles wanted; by default all.

    Raises:
        InputError: the cycles are no window of the run, the pipeline fires more than 2^22 times, or the file cannot be
            written.
    """
    asked = pipeline_of(pipeline)
    refuse_long_runs(asked, "a trace")
    result = simulate(asked)
    replay = Replay(asked, result)
    tracks = 2 + 2 * len(asked.stages)
    window = window_of(replay, begin, end, MOST_EVENTS - tracks)
    about = {
        "unit": "1 us is 1 cycle",
        "begin_cycle": window.begin,
        "end_cycle": window.end,
        "whole": window.whole,
        "cycles": result.cycles,
        "deadlock": result.deadlock,
    }
    events = 0
    with written_aside(path) as aside, open(aside, "w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit":"ns","otherData":' + json.dumps(about) + ',"traceEvents":[\n')
        for event in _events(asked, window, slice_names(replay)):
            file.write((",\n" if events else "") + json.dumps(event, separators=(",", ":")))
            events += 1
        file.write("\n]}\n")
    return TraceSummary(events, window.begin, window.end, window.whole)


def _events(pipeline: Pipeline, window: Window, names: dict[tuple[int, int], str]) -> Iterator[dict[str, Any]]:
    for pid, name in ((STAGES, "stages"), (FIFOS, "FIFOs")):
        yield {"ph": "M", "pid": pid, "name": "process_name", "args": {"name": name}}
    for s, (stage, spans) in enumerate(zip(pipeline.stages, window.slices, strict=True)):
        track = {"pid": STAGES, "tid": s + 1}
        yield {"ph": "M", **track, "name": "thread_name", "args": {"name": stage.name}}
        yield {"ph": "M", **track, "name": "thread_sort_index", "args": {"sort_index": s}}
        columns = (spans.state, spans.cause, spans.firing, spans.begin, spans.end)
        for state, cause, firing, first, last in zip(*(column.tolist() for column in columns), strict=True):
            yield {
                "ph": "X",
                **track,
                "ts": first,
                "dur": last - first,
                "name": names[state, cause],
                "cat": STATES[state],
                "cname": COLOURS[state],
                "args": {"firing": firing},
            }
    for name, (cycles, tokens) in zip(fifo_names(pipeline), window.fills, strict=True):
        for cycle, held in zip(cycles.tolist(), tokens.tolist(), strict=True):
            yield {"ph": "C", "pid": FIFOS, "name": name, "ts": cycle, "args": {"tokens": held}}
