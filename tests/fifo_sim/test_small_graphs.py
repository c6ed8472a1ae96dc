"""The simulator on very small graphs, where every option meets every other."""

from random import Random

import pytest

from fifo_sim import Pipeline
from tests.fifo_sim.small_graphs import small_graph
from tests.fifo_sim.test_simulate import assert_equal


@pytest.mark.parametrize("hundred", range(15))
def test_equals_the_reference(hundred):
    for seed in range(100 * hundred, 100 * hundred + 100):
        graph = small_graph(Random(seed))
        try:
            assert_equal(Pipeline.from_dict(graph))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {graph}") from error


def test_a_period_does_not_begin_before_the_entries_ahead_of_it_are_past():
    graph = {
        "tiles": 3,
        "stages": [{"name": "a", "service": 1}, {"name": "b", "service": 1}],
        "edges": [{"src": "a", "dst": "b", "depth": 1, "need": [0, 1, 2], "rel": [0, 1, 1]}],
    }
    assert assert_equal(Pipeline.from_dict(graph))
