"""The simulator against the Verilog it exports, run by iverilog: every start, end, counter and FIFO peak."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from fifo_sim import Edge, Pipeline, Stage, check_rtl, to_verilog
from fifo_sim.rtl import check_rtl_of, rtl_tool
from fifo_sim.rtl_library import LIBRARY
from tests.fifo_sim.random_pipelines import KINDS, random_pipeline
from vit.errors import InputError

BATCHES, BATCH = 2, 35
needs_iverilog = pytest.mark.skipif(rtl_tool() is None, reason="iverilog is not installed: no check against Verilog")

# A fault in the hardware: pipelines that show it, and the change of the library that makes it.
FAULTS = {
    "a slot too many": ("chain", "assign ready = level < DEPTH", "assign ready = level <= DEPTH"),
    "seen a cycle late": ("chain", "seen + moving[LATENCY-1]", "seen + on_the_way[LATENCY-1]"),
    "room counted before the push": ("residual", "level + push < DEPTH", "level < DEPTH"),
    "slots back at the other end of a firing": ("chain", "AT_END ? finish : start", "AT_END ? start : finish"),
    "an idle cycle after each end": ("chain", "wire idle = !at_work || finish", "wire idle = !at_work"),
    "a lazy fork that is eager": ("residual", "(EAGER ? computed : finish)", "(computed)"),
    "a turn that stays": ("ports", "turn <= next_turn", "turn <= turn"),
    "a turn for those who are done": ("ports", "!found && more[(turn + i) % N]", "!found"),
    "the last member first": ("ports", "i = N - 1; i >= 0; i = i - 1", "i = 0; i < N; i = i + 1"),
    "a port held a cycle longer": ("ports", "held <= taken - 1", "held <= taken"),
    "a service a cycle longer": ("chain", "left <= start ? service - 1", "left <= start ? service"),
    "a peak that forgets": ("residual", "if (next_level > peak) peak", "peak"),
}


def pipelines(count: int, kind: str, batch: int = 0) -> list[Pipeline]:
    return [Pipeline.from_dict(random_pipeline(Random(f"{kind} {batch} {i}"), kind, tiles=8)) for i in range(count)]


@needs_iverilog
@pytest.mark.rtl
@pytest.mark.parametrize("batch", range(BATCHES))
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_hardware(kind, batch):
    chosen = pipelines(BATCH, kind, batch)
    reports = check_rtl_of(chosen)
    for pipeline, report in zip(chosen, reports, strict=True):
        assert report.equal, f"{report.difference} of {pipeline.to_dict()}"
    assert sum(report.firings for report in reports) > 10 * BATCH


@needs_iverilog
@pytest.mark.rtl
@pytest.mark.parametrize("fault", FAULTS)
def test_notices_faulty_hardware(fault):
    kind, right, wrong = FAULTS[fault]
    assert LIBRARY.count(right) == 1
    reports = check_rtl_of(pipelines(12, kind), LIBRARY.replace(right, wrong))
    assert any(not report.equal and report.difference for report in reports)


@needs_iverilog
@pytest.mark.rtl
def test_reports_what_it_compared():
    report = check_rtl({"tiles": 3, "stages": [{"name": "a", "service": 2}, {"name": "b", "service": 1}]})
    assert report.equal
    assert report.difference == ""
    assert report.firings == 2 * 2 * 3
    assert report.cycles > 6


def test_names_the_tool_that_is_missing(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="an installed iverilog"):
        check_rtl({"tiles": 1, "stages": [{"name": "a", "service": 1}]})


def test_text_of_any_name_and_number():
    stages = [Stage("blocks.0 attn/qkv"), Stage("é", 2**40)]
    text = to_verilog(Pipeline(2, stages, [Edge(stages[0].name, "é", 3)]), name="top")
    assert "module top (" in text
    assert "stage_0_blocks_0_attn_qkv" in text
    assert ".DEPTH(64'd3)" in text
    assert text.isascii()


@pytest.mark.parametrize("name", ["", "1st", "a b", "a;", None])
def test_refuses_names_that_are_no_identifiers(name):
    with pytest.raises(InputError, match="letters, digits and _"):
        to_verilog({"tiles": 1, "stages": [{"name": "a", "service": 1}]}, name)


def test_refuses_to_write_a_million_numbers():
    with pytest.raises(InputError, match="at most 1048576"):
        to_verilog(Pipeline(2**20 + 1, [Stage("a", np.arange(1, 2**20 + 2))]))
