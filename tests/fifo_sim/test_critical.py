"""The critical path and cycle, against simulation and against the cycles of marked graphs counted one by one."""

from __future__ import annotations

import itertools
from fractions import Fraction
from random import Random

import numpy as np
import pytest

from fifo_sim import Pipeline, simulate, simulate_many
from fifo_sim.critical import ROOM, critical_arcs
from fifo_sim.critical_report import critical_cycle, critical_path
from fifo_sim.given import unlimited_depths, without_priority
from fifo_sim.replay import Replay
from tests.fifo_sim.random_pipelines import KINDS, random_pipeline


@pytest.mark.parametrize("kind", KINDS)
def test_path_sums_to_the_makespan_and_other_fifos_do_not_matter(kind):
    for seed in range(25):
        pipeline = Pipeline.from_dict(random_pipeline(Random(f"path {kind} {seed}"), kind, tiles=20))
        result = simulate(pipeline)
        if result.deadlock:
            continue
        arcs = critical_arcs(Replay(pipeline, result))
        assert sum(arc.cycles for arc in arcs) == result.cycles
        path = critical_path(pipeline, arcs)
        assert path.cycles == sum(part.cycles for part in path.parts) == result.cycles
        if without_priority(pipeline) is pipeline and pipeline.edges:
            depths = unlimited_depths(pipeline) + max(pipeline.depths)
            for e in path.fifos():
                depths[e] = pipeline.edges[e].depth
            assert simulate_many(pipeline, depths[None])[0] == result.cycles


def test_arcs_follow_one_another():
    """Each arc ends where the next begins: the times they lead through are times of the run."""
    pipeline = Pipeline.from_dict(random_pipeline(Random("one path"), "residual", tiles=20))
    replay = Replay(pipeline, simulate(pipeline))
    time = replay.horizon
    for arc in critical_arcs(replay):
        begun = replay.starts[arc.stage][arc.firing]
        assert time == begun or (arc.kind in ("service", "room") and time > begun)
        time -= arc.cycles
    assert time == 0


def test_cycle_sets_the_throughput_of_marked_graphs():
    for seed in range(40):
        pipeline = _marked_graph(Random(f"marked {seed}"))
        cycle = critical_cycle(pipeline, critical_arcs(Replay(pipeline, simulate(pipeline))))
        assert cycle is not None
        found = Fraction(cycle.cycles).limit_denominator(10**6) / Fraction(cycle.tokens).limit_denominator(10**6)
        assert found == _largest_cycle_ratio(pipeline), seed


def test_cycle_by_name():
    pipeline = _residual(depth=2)
    cycle = critical_cycle(pipeline, critical_arcs(Replay(pipeline, simulate(pipeline))))
    assert cycle is not None
    # a slot comes back, three tokens travel, a and b compute: 1 + 3 x 1 + 2 + 2 cycles for the two slots
    assert {part.name for part in cycle.parts if part.kind == ROOM} == {"fork->join"}
    assert [part.slots for part in cycle.parts if part.kind == ROOM] == [2]
    assert {part.name for part in cycle.parts if part.kind == "service"} == {"a", "b"}
    assert (cycle.cycles, cycle.tokens) == (8, 2)
    assert "FIFO fork->join is full (2 slots)" in str(cycle)


def test_no_cycle_in_a_short_run():
    pipeline = Pipeline.from_dict({"tiles": 1, "stages": [{"name": "a", "service": 3}]})
    assert critical_cycle(pipeline, critical_arcs(Replay(pipeline, simulate(pipeline)))) is None


def test_full_attention_goes_round_once_an_image():
    image, images = 4, 30
    firings = image * images
    need = [image * (k // image + 1) for k in range(firings)]
    rel = [image * ((k + 1) // image) for k in range(firings)]
    pipeline = Pipeline.from_dict(
        {
            "tiles": firings,
            "stages": [{"name": "qkv", "service": 5}, {"name": "scores", "service": 7}],
            "edges": [
                {"src": "qkv", "dst": "scores", "depth": image, "need": need, "rel": rel, "release": "end"},
            ],
        }
    )
    cycle = critical_cycle(pipeline, critical_arcs(Replay(pipeline, simulate(pipeline))))
    assert cycle is not None
    # nothing overlaps but the first of the next image, which waits with its token ready: 4 x 7 + 1 + 3 x 5 + 1
    assert (cycle.cycles, cycle.tokens) == (4 * 7 + 1 + 3 * 5 + 1, image)


def _residual(depth: int) -> Pipeline:
    stages = [{"name": name, "service": service} for name, service in (("fork", 1), ("a", 2), ("b", 2), ("join", 1))]
    joins = (("fork", "a", 4), ("a", "b", 4), ("b", "join", 4), ("fork", "join", depth))
    edges = [{"src": src, "dst": dst, "depth": slots} for src, dst, slots in joins]
    return Pipeline.from_dict({"tiles": 200, "stages": stages, "edges": edges})


def _marked_graph(rng: Random) -> Pipeline:
    names = [f"s{i}" for i in range(rng.randint(2, 6))]
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    joins = set(rng.sample(pairs, rng.randint(1, len(pairs)))) | set(itertools.pairwise(names))
    return Pipeline.from_dict(
        {
            "tiles": 400,
            "stages": [{"name": name, "service": rng.randint(1, 6)} for name in names],
            "edges": [
                {"src": src, "dst": dst, "depth": rng.randint(1, 4), "latency": rng.randint(1, 3)}
                for src, dst in sorted(joins)
            ],
        }
    )


def _largest_cycle_ratio(pipeline: Pipeline) -> Fraction:
    """The largest weight for each token of all simple cycles of the event graph, each walked once."""
    arcs: dict[tuple[str, str], list[tuple[tuple[str, str], int, int]]] = {}
    for stage in pipeline.stages:
        arcs["start", stage.name] = [(("end", stage.name), stage.service_pattern.at(0), 0)]
        arcs["end", stage.name] = [(("start", stage.name), 0, 1)]
    for edge in pipeline.edges:
        arcs["end", edge.src].append((("start", edge.dst), edge.latency, 0))
        arcs["start", edge.dst].append((("end", edge.src), 1, edge.depth))
    best = Fraction(0)

    def walk(first, here, seen, weight, tokens):
        nonlocal best
        for there, cycles, moved in arcs[here]:
            if there == first:
                best = max(best, Fraction(weight + cycles, tokens + moved))
            elif there > first and there not in seen:
                walk(first, there, seen | {there}, weight + cycles, tokens + moved)

    for first in arcs:
        walk(first, first, {first}, 0, 0)
    return best


def test_reference_counts_a_known_cycle():
    assert _largest_cycle_ratio(_residual(depth=2)) == 4
    assert np.isclose(float(_largest_cycle_ratio(_residual(depth=3))), 8 / 3)
