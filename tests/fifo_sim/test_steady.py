"""Long runs that are cut short where they repeat themselves, against the same runs gone through."""

from __future__ import annotations

from random import Random

import pytest

from fifo_sim import Edge, Pipeline, Resource, Stage, simulate
from fifo_sim.compile import layout_of
from fifo_sim.ledger import result_of
from fifo_sim.simulator import program_for, run
from tests.fifo_sim.random_pipelines import KINDS, random_pipeline

ALL_BUT_TIMES = ("cycles", "deadlock", "horizon", "max_occupancy", "stalls")


def repeated(pipeline: Pipeline, times: int, rng: Random) -> Pipeline:
    """The pipeline run `times` times over, its sequences repeating, its service times over some firings."""
    firings = dict(zip(pipeline.index, pipeline.firings, strict=True))
    stages = []
    for stage in pipeline.stages:
        period = stage.service_pattern.expand(rng.choice((1, 1, 2, 3, firings[stage.name])))
        stages.append(
            Stage(stage.name, {"repeat": period.tolist()}, times * firings[stage.name], stage.mode, stage.fork)
        )
    edges = []
    for edge in pipeline.edges:
        sequences = [p.expand(firings[edge.dst]).tolist() for p in (edge.need_pattern, edge.rel_pattern)]
        need, rel = ({"repeat": sequence, "step": firings[edge.src]} for sequence in sequences)
        edges.append(Edge(edge.src, edge.dst, edge.depth, edge.latency, need, rel, edge.release))
    return Pipeline(None, stages, edges, pipeline.resources)


def gone_through(pipeline: Pipeline):
    """The account of a walk, which skips nothing."""
    layout = layout_of(pipeline)
    state = layout.state(pipeline.depths, history=False)
    run(layout, state)
    return result_of(pipeline, layout, state)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_run_gone_through(kind):
    skipped = 0
    for seed in range(60):
        rng = Random(f"steady {kind} {seed}")
        pipeline = repeated(Pipeline.from_dict(random_pipeline(rng, kind, tiles=6)), rng.randint(2, 90), rng)
        expected = gone_through(pipeline)
        for found in (simulate(pipeline, history=False), simulate(pipeline)):
            for name in ALL_BUT_TIMES:
                assert getattr(found, name) == getattr(expected, name), f"{kind} {seed} {name}: {pipeline.to_dict()}"
        state = layout_of(pipeline).state(pipeline.depths, history=False)
        skipped += program_for(pipeline, state) is not None
    assert skipped > 5


def test_a_billion_tiles():
    services = [3, 7, 2, 11, 5, 11, 1, 4]
    stages = [Stage(f"s{i}", service) for i, service in enumerate(services)]
    edges = [Edge(f"s{i}", f"s{i + 1}", 4) for i in range(len(services) - 1)]
    edges += [Edge("s1", "s6", 12), Edge("s0", "s7", 9)]
    short, long = (simulate(Pipeline(tiles, stages, edges), history=False) for tiles in (10**4, 10**9))
    more = 10**9 - 10**4
    assert long.cycles == short.cycles + 11 * more
    assert long.max_occupancy == short.max_occupancy
    assert long.stalls["s3"] == short.stalls["s3"] | {"busy": 11 * 10**9}
    assert long.stalls["s0"]["blocked"] == short.stalls["s0"]["blocked"] + 8 * more


def test_images_without_end():
    """Full attention over images of four tiles, ten million images."""
    need, rel = {"repeat": [4] * 4, "step": 4}, {"repeat": [0, 0, 0, 4], "step": 4}
    stages = [Stage("in", 2), Stage("attend", {"repeat": [3, 3, 3, 5]}), Stage("add", 1, fork="eager"), Stage("out", 1)]
    edges = [Edge("in", "attend", 8, 2, need, rel, "end"), Edge("attend", "add", 1), Edge("in", "add", 8)]
    edges.append(Edge("add", "out", 2))
    few, more, many = (simulate(Pipeline(4 * n, stages, edges), history=False) for n in (10**3, 2 * 10**3, 10**7))
    assert not many.deadlock
    assert (many.cycles - few.cycles) % (10**7 - 10**3) == 0
    assert many.cycles == few.cycles + (more.cycles - few.cycles) // 10**3 * (10**7 - 10**3)
    assert sum(many.stalls["add"].values()) == many.cycles


def test_turns_without_end():
    stages, ports = [Stage("a", 2), Stage("b", 3), Stage("c", 1)], [Resource(("a", "b"))]
    found = simulate(Pipeline(10**9, stages, [Edge("a", "b", 2), Edge("b", "c", 2)], ports), history=False)
    assert found.cycles == 6 * 10**9 + 2  # a round: 2 cycles, 1 through the FIFO, 3 cycles
    assert found.stalls["b"]["busy"] == 3 * 10**9
