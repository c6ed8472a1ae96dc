"""Timelines: a trace that viewers accept and that repeats the ledger, cut where it grows too large; a picture."""

from __future__ import annotations

import json
from collections import Counter
from random import Random

import pytest

import fifo_sim.gantt_chart
import fifo_sim.trace
from fifo_sim import Pipeline, gantt, simulate, write_trace
from tests.fifo_sim.random_pipelines import KINDS, random_pipeline
from vit.errors import InputError

CHAIN = {
    "tiles": 40,
    "stages": [{"name": 'a "quoted"', "service": 1}, {"name": "b", "service": 3}],
    "edges": [{"src": 'a "quoted"', "dst": "b", "depth": 2}],
}


@pytest.mark.parametrize("kind", KINDS)
def test_slices_repeat_the_ledger_and_counters_the_peaks(kind, tmp_path):
    for seed in range(12):
        pipeline = Pipeline.from_dict(random_pipeline(Random(f"trace {kind} {seed}"), kind))
        result = simulate(pipeline)
        summary = write_trace(pipeline, tmp_path / "trace.json")
        trace = json.loads((tmp_path / "trace.json").read_text())
        events = trace["traceEvents"]
        assert summary.events == len(events)
        assert summary.whole is trace["otherData"]["whole"] is True
        tracks = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
        assert list(tracks.values()) == [stage.name for stage in pipeline.stages]
        sums, last = Counter(), {}
        for event in events:
            if event["ph"] == "X":
                sums[tracks[event["tid"]], event["cat"]] += event["dur"]
                assert event["ts"] >= last.get(event["tid"], 0)  # slices of a track do not overlap
                last[event["tid"]] = event["ts"] + event["dur"]
                assert event["cname"]
        for stage, ledger in result.stalls.items():
            assert {state: sums[stage, state] for state in ledger} == ledger
        fills = {}
        for event in events:
            if event["ph"] == "C":
                fills.setdefault(event["name"], []).append(event["args"]["tokens"])
        pairs = zip(fills.values(), result.max_occupancy, pipeline.edges, strict=True)
        for tokens, peak, edge in pairs:
            assert 0 <= min(tokens) <= max(tokens) <= edge.depth
            assert max(tokens) == peak or (not any(tokens) and peak <= 1)


def test_events_are_of_the_format(tmp_path):
    write_trace(CHAIN, tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert trace["displayTimeUnit"] == "ns"
    required = {
        "X": {"name", "cat", "ph", "ts", "dur", "pid", "tid", "args", "cname"},
        "C": {"name", "ph", "ts", "pid", "args"},
        "M": {"name", "ph", "pid", "args"},
    }
    for event in trace["traceEvents"]:
        assert required[event["ph"]] <= set(event)
    names = {event["name"] for event in trace["traceEvents"]}
    assert {"busy", 'blocked: a "quoted"->b', 'starved: a "quoted"->b', "drained"} <= names


def test_window(tmp_path):
    summary = write_trace(CHAIN, tmp_path / "trace.json", begin=30, end=60)
    assert (summary.begin, summary.end, summary.whole) == (30, 60, True)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    for event in events:
        if event["ph"] == "X":
            assert 30 <= event["ts"] < event["ts"] + event["dur"] <= 60
        elif event["ph"] == "C":
            assert 30 <= event["ts"] < 60
    assert sum(event["dur"] for event in events if event["ph"] == "X") == 2 * 30
    assert next(event["args"]["tokens"] for event in events if event["ph"] == "C") == 2  # what it held before


def test_size_is_bounded(tmp_path, monkeypatch):
    whole = write_trace(CHAIN, tmp_path / "whole.json")
    monkeypatch.setattr(fifo_sim.trace, "MOST_EVENTS", 60)
    summary = write_trace(CHAIN, tmp_path / "trace.json")
    assert not summary.whole
    assert summary.events <= 60
    assert 0 < summary.end < whole.end
    rest = write_trace(CHAIN, tmp_path / "trace.json", begin=summary.end)
    assert rest.begin == summary.end < rest.end
    monkeypatch.setattr(fifo_sim.trace, "MOST_EVENTS", 8)
    with pytest.raises(InputError, match="entries in a cycle"):
        write_trace(CHAIN, tmp_path / "trace.json")


def test_refuses(tmp_path):
    for window, told in (({"begin": 10**6}, "begin"), ({"begin": 5, "end": 5}, "end"), ({"begin": -1}, "begin")):
        with pytest.raises(InputError, match=told):
            write_trace(CHAIN, tmp_path / "trace.json", **window)
    with pytest.raises(InputError, match="output"):
        write_trace(CHAIN, "/proc/trace.json")
    with pytest.raises(InputError, match="output"):
        gantt(CHAIN, tmp_path / "picture.doc")
    with pytest.raises(InputError, match="firings"):
        write_trace(CHAIN | {"tiles": 10**9}, tmp_path / "trace.json")
    assert list(tmp_path.iterdir()) == []


def test_picture(tmp_path):
    figure = gantt(CHAIN, tmp_path / "picture.svg")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ['a "quoted"', "b"]
    assert axes.get_title() == "122 cycles"
    assert (tmp_path / "picture.svg").read_text().startswith("<?xml")
    bars = [path.get_extents() for path in axes.collections[1].get_paths()]
    assert sum(bar.width for bar in bars) == 122
    assert gantt(CHAIN, begin=10, end=20).axes[0].get_title() == "122 cycles, shown: 10 to 20"


def test_picture_is_bounded(monkeypatch):
    monkeypatch.setattr(fifo_sim.gantt_chart, "MOST_BARS", 20)
    figure = gantt(CHAIN)
    assert sum(len(bars.get_paths()) for bars in figure.axes[0].collections) <= 20
    monkeypatch.setattr(fifo_sim.gantt_chart, "MOST_STAGES", 1)
    with pytest.raises(InputError, match="at most 1 in a picture"):
        gantt(CHAIN)
