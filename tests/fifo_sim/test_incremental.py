"""Runs kept up to date while depths change, against runs afresh."""

from __future__ import annotations

from random import Random

import pytest

from fifo_sim import Edge, Incremental, Pipeline, Stage, simulate
from tests.fifo_sim.random_pipelines import KINDS, random_pipeline
from vit.errors import InputError

CHAIN = Pipeline(200, [Stage("a", 2), Stage("b", 3), Stage("c", 1)], [Edge("a", "b", 4), Edge("b", "c", 4)])


@pytest.mark.parametrize("kind", KINDS)
def test_equals_a_run_afresh(kind):
    updated = 0
    for seed in range(40):
        rng = Random(f"incremental {kind} {seed}")
        pipeline = Pipeline.from_dict(random_pipeline(rng, kind, tiles=20))
        run = Incremental(pipeline)
        assert run.result() == simulate(pipeline)
        for _ in range(8 if pipeline.edges else 0):
            e, depth = rng.randrange(len(pipeline.edges)), rng.choice((1, 2, 3, 5, 8, 13, 40))
            cycles = run.set_depth(e, depth)
            expected = simulate(run.pipeline)
            assert run.pipeline.depths[e] == depth
            assert cycles == run.cycles == expected.cycles, (kind, seed)
            if rng.random() < 0.5:
                assert run.result() == expected, (kind, seed)
            updated += run.computed is not None
    assert updated > 5 or kind == "ports"


def test_computes_only_what_moves():
    run = Incremental(CHAIN)
    assert run.set_depth("b->c", 5) == simulate(CHAIN).cycles
    assert run.computed == 0
    assert run.set_depth("a->b", 3) == run.result().cycles
    assert run.computed is None or run.computed <= 3 * 200


def test_a_deadlock_and_back():
    stages = [Stage(name) for name in ("in", "attend", "add")]
    edges = [Edge("in", "attend", 4, need=[4] * 4, rel=[0, 0, 0, 4]), Edge("attend", "add", 1), Edge("in", "add", 4)]
    run = Incremental(Pipeline(4, stages, edges))
    assert run.cycles == 14
    assert run.set_depth("in->add", 3) is None
    assert run.result().deadlock
    assert run.set_depth("in->add", 4) == 14
    assert run.result() == simulate(run.pipeline)


@pytest.mark.parametrize(("edge", "depth"), [(2, 1), (-1, 1), ("a->c", 1), ("a->b", 0), ("a->b", "2"), (0.0, 1)])
def test_refuses(edge, depth):
    with pytest.raises(InputError):
        Incremental(CHAIN).set_depth(edge, depth)


def test_two_fifos_of_one_name_go_by_position():
    run = Incremental(Pipeline(4, [Stage("a"), Stage("b")], [Edge("a", "b", 1), Edge("a", "b", 3)]))
    with pytest.raises(InputError, match="the position of one FIFO"):
        run.set_depth("a->b", 2)
    assert run.set_depth(0, 3) == simulate(run.pipeline).cycles


@pytest.mark.filterwarnings("error")
def test_sums_of_times_near_the_limit_do_not_overflow():
    stages = [Stage(f"s{i}", 2**61 // 80) for i in range(8)]
    run = Incremental(Pipeline(60, stages, [Edge(f"s{i}", f"s{i + 1}", 2) for i in range(7)]))
    run.set_depth(0, 1)
    assert run.result() == simulate(run.pipeline)
