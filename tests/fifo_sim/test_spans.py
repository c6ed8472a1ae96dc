"""Every cycle of every stage has one state and one cause; summed they are the simulator's ledger."""

from __future__ import annotations

from random import Random

import pytest

from fifo_sim import Pipeline, simulate
from fifo_sim.replay import Replay
from fifo_sim.spans import BLOCKED, RESOURCE, STARVED, STATES, spans_of
from tests.fifo_sim.random_pipelines import KINDS, random_pipeline


@pytest.mark.parametrize("kind", KINDS)
def test_spans_sum_to_the_ledger(kind):
    for seed in range(30):
        pipeline = Pipeline.from_dict(random_pipeline(Random(f"spans {kind} {seed}"), kind, tiles=20))
        result = simulate(pipeline)
        replay = Replay(pipeline, result)
        for s, stage in enumerate(pipeline.stages):
            spans = spans_of(replay, s)
            sums = {name: int((spans.end - spans.begin)[spans.state == i].sum()) for i, name in enumerate(STATES)}
            assert sums == result.stalls[stage.name], (seed, stage.name)
            assert (spans.begin[1:] == spans.end[:-1]).all()
            assert (spans.end > spans.begin).all()
            if len(spans):
                assert (spans.begin[0], spans.end[-1]) == (0, result.horizon)
            for state, cause in zip(spans.state, spans.cause, strict=True):
                if state == STARVED:
                    assert pipeline.edges[cause].dst == stage.name
                elif state == BLOCKED:
                    assert pipeline.edges[cause].src == stage.name
                elif state == RESOURCE:
                    assert stage.name in pipeline.resources[cause].order
                else:
                    assert cause == -1


def test_the_input_that_comes_last_is_the_cause():
    pipeline = Pipeline.from_dict(
        {
            "tiles": 1,
            "stages": [{"name": "a", "service": 3}, {"name": "b", "service": 9}, {"name": "c", "service": 1}],
            "edges": [{"src": "a", "dst": "c", "depth": 1}, {"src": "b", "dst": "c", "depth": 1}],
        }
    )
    spans = spans_of(Replay(pipeline, simulate(pipeline)), 2)
    assert spans.state.tolist() == [STARVED, STATES.index("busy")]
    assert spans.cause.tolist() == [1, -1]
    assert spans.end.tolist() == [10, 11]
