"""Many depth settings at once, against one simulation each."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from fifo_sim import Edge, Pipeline, Stage, simulate, simulate_many
from tests.fifo_sim.random_pipelines import KINDS, random_pipeline
from vit.errors import InputError

CHAIN = Pipeline(3, [Stage("a"), Stage("b"), Stage("c")], [Edge("a", "b", 1), Edge("b", "c", 1)])


@pytest.mark.parametrize("kind", KINDS)
def test_equals_single_runs(kind):
    for seed in range(12):
        rng = Random(f"many {kind} {seed}")
        pipeline = Pipeline.from_dict(random_pipeline(rng, kind))
        settings = [[rng.randint(1, 6) for _ in pipeline.edges] for _ in range(rng.randint(1, 40))]
        found = simulate_many(pipeline, np.array(settings).reshape(len(settings), -1))
        assert found.dtype == np.int64
        for setting, cycles in zip(settings, found.tolist(), strict=True):
            expected = simulate(pipeline.with_depths(setting), history=False).cycles
            assert cycles == (-1 if expected is None else expected), (seed, setting)


def test_an_eager_fork_that_waits_for_two_readers():
    """x cannot end its fourth firing, but y only waits for its token on the second FIFO: a slot more there suffices."""
    edges = [Edge("x", "y", 3), Edge("x", "y", 3, need=[4] * 4, rel=[0, 0, 0, 4])]
    pipeline = Pipeline(4, [Stage("x", fork="eager"), Stage("y")], edges)
    assert simulate_many(pipeline, [[3, 3], [3, 4], [4, 3], [2, 4]]).tolist() == [-1, 9, -1, -1]


def test_all_depths_of_eager_forks():
    for seed in range(12):
        rng = Random(f"eager {seed}")
        pipeline = _eager(rng)
        settings = np.stack(np.meshgrid(*[range(1, 5)] * 3), axis=-1).reshape(-1, 3)
        single = [simulate(pipeline.with_depths(setting.tolist()), history=False).cycles for setting in settings]
        assert simulate_many(pipeline, settings).tolist() == [cycles or -1 for cycles in single], seed


def _eager(rng: Random) -> Pipeline:
    """Two branches from an eager fork to a join, which takes several tokens of one of them at once."""
    image = rng.randint(2, 4)
    need = [min(4, image * (k // image + 1)) for k in range(4)]
    rel = [0, *[(k + 1) // image * image for k in range(1, 3)], 4]
    ends = [rng.choice(("start", "end")) for _ in range(3)]
    edges = [Edge("a", "b", 1, release=ends[0]), Edge("a", "c", 1, need=need, rel=rel, release=ends[1])]
    stages = [Stage(name, rng.randint(1, 4), fork="eager") for name in "abc"]
    return Pipeline(4, stages, [*edges, Edge("b", "c", 1, release=ends[2])])


def test_no_settings():
    assert simulate_many(CHAIN.to_dict(), np.empty((0, 2), int)).shape == (0,)


@pytest.mark.parametrize("wrong", [[1, 2], [[1]], [[1, 2, 3]], [[1.0, 2.0]], [[1, 2], [3]], [[0, 1]], [["1", "2"]]])
def test_refuses(wrong):
    with pytest.raises(InputError, match="depths"):
        simulate_many(CHAIN, wrong)
    with pytest.raises(InputError, match="depths"):
        CHAIN.with_depths(None)
