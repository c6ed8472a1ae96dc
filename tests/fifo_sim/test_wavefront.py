"""Chains run along their wavefront: equal to the stepped reference, whatever depths, latencies and service times."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from fifo_sim import Edge, Pipeline, Resource, Stage, simulate, wavefront
from fifo_sim.compile import layout_of
from fifo_sim.ledger import result_of
from fifo_sim.simulator import run
from fifo_sim.wavefront import wavefront_for
from tests.fifo_sim.reference import step_through

FOUND = ("cycles", "deadlock", "horizon", "starts", "ends", "max_occupancy", "stalls")


@pytest.fixture(autouse=True)
def short_chains_too(monkeypatch):
    monkeypatch.setattr(wavefront, "FEWEST_STAGES", 2)
    monkeypatch.setattr(wavefront, "TILES_A_STAGE", 1)


def random_chain(rng: Random, stages: int, tiles: int, longest: int = 6) -> Pipeline:
    """A chain with depths all alike or not, and service times of its stages or of their firings."""
    depth = rng.choice([None, None, 1, 2, 3, 4])
    own = rng.random()

    def service() -> int | list[int]:
        times = [rng.randint(1, longest) for _ in range(tiles)]
        return times if rng.random() < own else times[0]

    made = [Stage(f"s{i}", service(), fork=rng.choice(["lazy", "eager"])) for i in range(stages)]
    edges = [
        Edge(f"s{i}", f"s{i + 1}", depth or rng.choice([1, 1, 2, 3, 5, 9]), rng.choice([1, 1, 2, 4]))
        for i in range(stages - 1)
    ]
    rng.shuffle(edges)
    return Pipeline(tiles, made, edges)


@pytest.mark.parametrize("stages", [2, 3, 7, 8, 9, 16, 17])
def test_equals_the_reference(stages):
    for seed in range(12):
        rng = Random(f"wavefront {stages} {seed}")
        pipeline = random_chain(rng, stages, stages + rng.randint(0, 2 * stages))
        assert wavefront_for(pipeline, layout_of(pipeline), True) is not None
        found, expected = simulate(pipeline), step_through(pipeline)
        for name in FOUND:
            assert getattr(found, name) == getattr(expected, name), f"{seed} {name}: {pipeline.to_dict()}"
        short = simulate(pipeline, history=False)
        assert (short.cycles, short.stalls, short.max_occupancy) == (found.cycles, found.stalls, found.max_occupancy)


@pytest.mark.parametrize("longest", [50, 2**16, 2**20, 2**45])
def test_equals_the_walk_in_times_of_any_size(longest):
    for seed in range(4):
        pipeline = random_chain(Random(f"{longest} {seed}"), 24, 400, longest)
        layout = layout_of(pipeline)
        wave = wavefront_for(pipeline, layout, True)
        assert wave is not None
        assert wave.services.dtype == (np.int32 if layout.longest < 2**31 - 1 else np.int64)
        state = layout.state(pipeline.depths, history=True)
        run(layout, state)
        assert simulate(pipeline) == result_of(pipeline, layout, state)


def test_what_is_no_chain_is_run_otherwise():
    def chosen(stages=None, edges=None, resources=(), tiles=9, history=True):
        stages = stages or [Stage(name, 2) for name in "abc"]
        edges = edges or [Edge("a", "b", 2), Edge("b", "c", 2)]
        pipeline = Pipeline(tiles, stages, edges, resources)
        return wavefront_for(pipeline, layout_of(pipeline), history)

    line = [Edge("a", "b", 2), Edge("b", "c", 2)]
    assert chosen() is not None
    assert chosen(history=False) is None  # its steady state is found instead
    assert chosen([Stage("a", 2), Stage("b", list(range(1, 10))), Stage("c")], history=False) is not None
    assert chosen([Stage("a", 2), Stage("b", {"repeat": [1, 2]}, 9), Stage("c")]) is None
    assert chosen(edges=[*line, Edge("a", "c", 2)]) is None
    assert chosen(edges=[Edge("a", "b", 2), Edge("a", "c", 2)]) is None
    assert chosen(edges=[Edge("a", "b", 2, release="end"), line[1]]) is None
    assert chosen(edges=[Edge("a", "b", 2, need=[*range(2, 10), 9]), line[1]]) is None
    assert chosen(edges=[Edge("a", "b", 3, rel=[0, *range(1, 9)]), line[1]]) is None
    assert chosen([Stage("a", 2), Stage("b", 2, mode="bbs"), Stage("c", 2)]) is None
    assert chosen(resources=[Resource(["a", "b"])]) is None
    assert chosen([Stage("a", firings=18), Stage("b", firings=9), Stage("c", firings=9)]) is None
    assert chosen(edges=[Edge("a", "b", 10**6), line[1]]) is not None  # no deeper than there are tiles
    assert chosen(edges=[Edge("a", "b", 10**6), line[1]], tiles=10**6) is None
