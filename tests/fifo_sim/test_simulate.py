"""The simulator against the clock-by-clock reference, and small pipelines worked out by hand."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from fifo_sim import Edge, Pipeline, Resource, Stage, simulate
from tests.fifo_sim.random_pipelines import KINDS, random_pipeline
from tests.fifo_sim.reference import CAUSES, step_through
from vit.errors import InputError

FOUND = ("cycles", "deadlock", "horizon", "starts", "ends", "max_occupancy", "stalls")


def assert_equal(pipeline: Pipeline) -> bool:
    """Simulator and reference agree in everything; whether it was a deadlock."""
    expected, found = step_through(pipeline), simulate(pipeline)
    for name in FOUND:
        assert getattr(found, name) == getattr(expected, name), name
    brief = simulate(pipeline, history=False)
    assert brief.starts is None
    assert brief.ends is None
    for name in set(FOUND) - {"starts", "ends"}:
        assert getattr(brief, name) == getattr(expected, name), name
    assert all(sum(stalls.values()) == found.horizon for stalls in found.stalls.values())
    return expected.deadlock


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_reference(kind):
    deadlocks = 0
    for seed in range(200):
        pipeline = Pipeline.from_dict(random_pipeline(Random(f"{kind} {seed}"), kind))
        try:
            deadlocks += assert_equal(pipeline)
        except AssertionError as error:
            raise AssertionError(f"{kind} {seed}: {pipeline.to_dict()}") from error
    assert 0 < deadlocks < 200 or kind == "chain"


def test_two_stages_by_hand():
    """a takes 1 cycle, b 2, one slot between them: b sees token 0 in cycle 2, and its start makes room in cycle 3."""
    found = simulate(
        {
            "tiles": 3,
            "stages": [{"name": "a", "service": 1}, {"name": "b", "service": 2}],
            "edges": [{"src": "a", "dst": "b", "depth": 1}],
        }
    )
    assert found.starts == {"a": [0, 1, 3], "b": [2, 4, 6]}
    assert found.ends == {"a": [1, 3, 5], "b": [4, 6, 8]}
    assert found.cycles == found.horizon == 8
    assert not found.deadlock
    assert found.max_occupancy == [1]
    assert found.stalls["a"] == {"busy": 3, "starved": 0, "blocked": 2, "resource": 0, "drained": 3}
    assert found.stalls["b"] == {"busy": 6, "starved": 2, "blocked": 0, "resource": 0, "drained": 0}
    assert list(found.stalls["a"]) == list(CAUSES)


def test_blocking_before_service_starts_later_and_ends_on_time():
    stages = [Stage("a", 3, mode="bbs"), Stage("b", 9)]
    found = simulate(Pipeline(3, stages, [Edge("a", "b", 1)]))
    assert found.starts["a"] == [0, 5, 14]  # b starts in 4 and 13, its slot is free a cycle later
    assert found.ends["a"] == [3, 8, 17]
    assert found.stalls["a"]["blocked"] == 2 + 6


def test_residual_around_attention_deadlocks():
    """The branch needs all four tokens before its first firing; the FIFO past it holds three."""
    stages = [Stage(name) for name in ("in", "attend", "add")]
    edges = [Edge("in", "attend", 4, need=[4] * 4, rel=[0, 0, 0, 4]), Edge("attend", "add", 1), Edge("in", "add", 3)]
    found = simulate(Pipeline(4, stages, edges))
    assert found.deadlock
    assert found.cycles is None
    assert found.starts == {"in": [0, 1, 2, 3], "attend": [], "add": []}
    assert found.ends == {"in": [1, 2, 3], "attend": [], "add": []}
    assert found.horizon == 4
    assert found.stalls["add"]["starved"] == 4
    assert found.max_occupancy == [3, 0, 3]
    assert simulate(Pipeline(4, stages, [*edges[:2], Edge("in", "add", 4)])).cycles == 14


def test_ports():
    stages = [Stage("a", 2), Stage("b", 3)]
    turns = simulate(Pipeline(2, stages, (), [Resource(("b", "a"))]))
    assert turns.starts == {"a": [3, 8], "b": [0, 5]}
    ranked = simulate(Pipeline(2, stages, (), [Resource(("a", "b"), "priority")]))
    assert ranked.starts == {"a": [0, 2], "b": [4, 7]}
    assert ranked.stalls["b"]["resource"] == 4


def test_a_stage_that_is_done_is_passed_over_in_its_turn():
    stages = [Stage("a", 2, firings=1), Stage("b", 1, firings=3)]
    assert simulate(Pipeline(None, stages, (), [Resource(("a", "b"))])).starts == {"a": [0], "b": [2, 3, 4]}


def test_arrays_are_taken_and_given():
    service = np.array([1, 5, 1], dtype=np.int32)
    found = simulate(Pipeline(3, [Stage("a", service), Stage("b", 1)], [Edge("a", "b", 2)]))
    assert found.start_times["b"].tolist() == found.starts["b"] == [2, 7, 8]
    assert found.start_times["b"].dtype == np.int64


def test_overflow_is_told_and_never_wraps():
    long = 2**60
    assert simulate(Pipeline(2, [Stage("a", long)])).cycles == 2**61
    for history in (True, False):
        with pytest.raises(InputError, match="2\\^61"):
            simulate(Pipeline(3, [Stage("a", long)]), history)
        with pytest.raises(InputError, match="2\\^61"):
            simulate(Pipeline(3, [Stage("a", 1), Stage("b", 1)], [Edge("a", "b", 1, latency=2**61)]), history)


def test_memory_follows_the_fifos():
    """Two million firings through FIFOs of four slots: some kilobytes without history."""
    from fifo_sim.compile import layout_of

    pipeline = Pipeline(10**6, [Stage("a"), Stage("b", [2] * 10**6)], [Edge("a", "b", 4)])
    layout = layout_of(pipeline)
    state = layout.state(pipeline.depths, history=False)
    held = [*vars(state).values(), *vars(layout).values()]
    assert sum(array.nbytes for array in held if isinstance(array, np.ndarray)) < 4096


def test_refuses_what_no_memory_holds():
    stages = [Stage("a"), Stage("b")]
    with pytest.raises(InputError, match="firings in all': allowed is at most 268435456"):
        simulate(Pipeline(10**12, stages, [Edge("a", "b", 1)]))
    deep = Pipeline(10**12, stages, [Edge("a", "b", 10**11)])
    with pytest.raises(InputError, match="slots in all': allowed is at most 268435456"):
        simulate(deep, history=False)
