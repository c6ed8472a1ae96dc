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


def test_no_settings():
    assert simulate_many(CHAIN.to_dict(), np.empty((0, 2), int)).shape == (0,)


@pytest.mark.parametrize("wrong", [[1, 2], [[1]], [[1, 2, 3]], [[1.0, 2.0]], [[1, 2], [3]], [[0, 1]], [["1", "2"]]])
def test_refuses(wrong):
    with pytest.raises(InputError, match="depths"):
        simulate_many(CHAIN, wrong)
