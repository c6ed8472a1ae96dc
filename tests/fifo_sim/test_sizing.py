"""Smallest FIFO depths against brute force; what is said of them is true; the graphs they are meant for."""

from __future__ import annotations

import itertools
import json
from random import Random

import numpy as np
import pytest

from fifo_sim import Pipeline, lower, min_depths, pareto_depths, simulate
from fifo_sim.given import unlimited_depths, without_priority
from fifo_sim.sizing_search import NO_LIMIT, DepthSearch
from tests.fifo_sim.brute_force import AllDepths
from tests.fifo_sim.random_pipelines import KINDS, random_pipeline
from vit.config import ViTConfig
from vit.errors import InputError

MOST_SETTINGS = 4000


def small_pipelines(label: str, kind: str, count: int):
    """(pipeline, bytes of a slot) of random graphs that brute force can do and that some depths free from deadlock."""
    found, seed = 0, 0
    while found < count:
        rng = Random(f"{label} {kind} {seed}")
        seed += 1
        pipeline = Pipeline.from_dict(random_pipeline(rng, kind, tiles=8))
        token_bytes = [rng.randint(1, 9) for _ in pipeline.edges]
        if not pipeline.edges or AllDepths.count(pipeline) > MOST_SETTINGS:
            continue
        if simulate(pipeline.with_depths(unlimited_depths(pipeline)), history=False).deadlock:
            continue
        found += 1
        yield pipeline, token_bytes


@pytest.mark.parametrize("kind", KINDS)
def test_equals_brute_force(kind):
    for pipeline, token_bytes in small_pipelines("least", kind, 12):
        every = AllDepths(pipeline, token_bytes)
        full_speed = simulate(pipeline.with_depths(unlimited_depths(pipeline)), history=False).cycles
        monotone = without_priority(pipeline) is pipeline
        for target, limit in (
            ("deadlock-free", None),
            ("full-speed", full_speed),
            (full_speed + 1, full_speed + 1),
            (full_speed * 5 // 4, full_speed * 5 // 4),
        ):
            depths = min_depths(pipeline, target, token_bytes)
            assert depths.total_bytes == int(np.dot(depths, token_bytes))
            assert depths.cycles == simulate(pipeline.with_depths(depths), history=False).cycles
            assert limit is None or depths.cycles <= limit
            assert depths.bound_bytes <= every.least_bytes(limit) <= depths.total_bytes
            if monotone or target == "deadlock-free":
                assert depths.proven
            assert depths.proven == (depths.gap == 0)


@pytest.mark.parametrize("kind", KINDS)
def test_front_equals_brute_force(kind):
    for pipeline, token_bytes in small_pipelines("front", kind, 6):
        front = pareto_depths(pipeline, token_bytes)
        for total, cycles, depths in front:
            assert (total, cycles) == (depths.total_bytes, depths.cycles)
            assert total == int(np.dot(depths, token_bytes))
            assert cycles == simulate(pipeline.with_depths(depths), history=False).cycles
        assert all(a[0] < b[0] and a[1] > b[1] for a, b in itertools.pairwise(front))
        expected = AllDepths(pipeline, token_bytes).pareto()
        if without_priority(pipeline) is pipeline:
            assert front.proven
            assert [point[:2] for point in front] == expected
        else:
            assert all(depths.bound_bytes <= depths.total_bytes for *_, depths in front)


def test_cuts_hold_for_all_depths_that_are_enough():
    """What one setting that is too small says of the others: none of those that break the cut is enough."""
    drawn = 0
    for seed in range(120):
        rng = Random(f"cuts {seed}")
        pipeline = without_priority(Pipeline.from_dict(random_pipeline(rng, tiles=20)))
        lowest = np.array([rng.randint(1, 2) for _ in pipeline.edges], dtype=np.int64)
        full_speed = simulate(pipeline.with_depths(unlimited_depths(pipeline)), history=False).cycles
        if full_speed is None or not pipeline.edges:
            continue
        limit = rng.choice((NO_LIMIT, full_speed, full_speed * 6 // 5))
        search = DepthSearch(pipeline, np.ones_like(lowest), lowest, limit)

        def draw(rng=rng, search=search, lowest=lowest):
            most = np.maximum(lowest, np.minimum(search.unlimited, rng.choice((2, 4, 9, 20))))
            return [rng.randint(low, high) for low, high in zip(lowest.tolist(), most.tolist(), strict=True)]

        for _ in range(3):
            depths = np.array(draw(), dtype=np.int64)
            if search.enough(depths[None])[0]:
                continue
            cut = search.cut(depths)
            drawn += 1
            assert not cut.holds(depths, limit)
            others = np.array([draw() for _ in range(80)], dtype=np.int64)
            broken = others[[not cut.holds(row, limit) for row in others]]
            assert not len(broken) or not search.enough(broken).any(), (seed, depths, cut)
    assert drawn > 100


def test_residual_fifo_covers_its_branch():
    pipeline = _residual()
    assert min_depths(pipeline, "deadlock-free") == [1, 1, 1, 1]
    depths = min_depths(pipeline, "full-speed")
    # the slot comes back after 1, three tokens travel, a and b compute: 8 cycles at one tile every 2
    assert depths == [1, 1, 1, 4]
    assert depths.proven
    assert depths.cycles == simulate(pipeline.with_depths([99] * 4), history=False).cycles
    assert min_depths(pipeline, depths.cycles, token_bytes=[1, 1, 1, 10]).total_bytes == 43


def test_result_is_a_list():
    depths = min_depths(_residual(), "full-speed")
    assert json.loads(json.dumps(depths)) == [1, 1, 1, 4]
    assert np.array(depths).shape == (4,)
    assert "proven" in repr(depths)


def test_no_fifos():
    depths = min_depths({"tiles": 3, "stages": [{"name": "a", "service": 2}]})
    assert (depths, depths.cycles, depths.total_bytes, depths.proven) == ([], 6, 0, True)
    assert [point[:2] for point in pareto_depths({"tiles": 3, "stages": [{"name": "a", "service": 2}]})] == [(0, 6)]


def test_time_that_is_over_leaves_a_gap():
    rng = Random("hard")
    stages = [{"name": f"s{i}", "service": [rng.randint(1, 20) for _ in range(300)]} for i in range(9)]
    edges = [{"src": f"s{i}", "dst": f"s{i + 1}", "depth": 1} for i in range(8)]
    pipeline = Pipeline.from_dict({"tiles": 300, "stages": stages, "edges": edges})
    full_speed = simulate(pipeline.with_depths([300] * 8), history=False).cycles
    depths = min_depths(pipeline, full_speed * 21 // 20, seconds=0.05)
    assert depths.cycles <= full_speed * 21 // 20
    assert 8 <= depths.bound_bytes <= depths.total_bytes
    assert depths.gap == depths.total_bytes - depths.bound_bytes
    front = pareto_depths(pipeline, seconds=0.05)
    assert not front.proven
    assert all(a[0] < b[0] and a[1] > b[1] for a, b in itertools.pairwise(front))
    assert front[-1][1] == full_speed


def test_priority_port_is_bounded_without_it():
    pipeline = Pipeline.from_dict(
        {
            "tiles": 12,
            "stages": [{"name": name, "service": service} for name, service in (("a", 3), ("b", 1), ("c", 4))],
            "edges": [{"src": "a", "dst": "b", "depth": 1}, {"src": "b", "dst": "c", "depth": 1}],
            "resources": [{"order": ["a", "c"], "policy": "priority"}],
        }
    )
    every = AllDepths(pipeline, [1, 1])
    full_speed = simulate(pipeline.with_depths([12, 12]), history=False).cycles
    depths = min_depths(pipeline, "full-speed")
    assert depths.bound_bytes <= every.least_bytes(full_speed) <= depths.total_bytes
    assert depths.cycles <= full_speed


@pytest.mark.parametrize("attention", ["full", "window"])
def test_four_block_vit(attention):
    lowered = lower(ViTConfig(depth=4), "zcu104", attention=attention, images=3)
    free = min_depths(lowered, "deadlock-free")
    fast = min_depths(lowered)
    assert free.proven
    assert fast.proven
    assert free.total_bytes == int(np.dot(free, lowered.token_bytes)) < fast.total_bytes
    unlimited = lowered.pipeline.with_depths(unlimited_depths(lowered.pipeline))
    assert fast.cycles == simulate(unlimited, history=False).cycles < free.cycles
    for e, (depth, size) in enumerate(zip(fast, lowered.token_bytes, strict=True)):
        if depth > 1:  # not even one slot can go
            less = [*fast[:e], depth - 1, *fast[e + 1 :]]
            assert simulate(lowered.pipeline.with_depths(less), history=False).cycles != fast.cycles, (e, size)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"target": "fastest"}, "target = 'fastest': allowed is deadlock-free, full-speed or a number of cycles"),
        ({"target": 10}, "target = 10: allowed is at least"),
        ({"target": 0}, "target = 0: allowed is a whole number from 1"),
        ({"target": True}, "target = True"),
        ({"target": 1e9}, "target = 1000000000.0"),
        ({"token_bytes": [1, 2]}, "token_bytes = '2 numbers': allowed is one number, or 4"),
        ({"token_bytes": 0}, "token_bytes = 0"),
        ({"token_bytes": 1.5}, "token_bytes = 1.5: allowed is a whole number"),
        ({"token_bytes": [1, 2, 3, 0.5]}, "token_bytes = 0.5"),
        ({"seconds": 0}, "seconds = 0"),
    ],
)
def test_refuses(arguments, told):
    with pytest.raises(InputError, match="^" + told.replace("(", r"\(")):
        min_depths(_residual(), **arguments)


def test_refuses_what_no_depths_free():
    pipeline = {
        "tiles": 2,
        "stages": [{"name": "a", "service": 1}, {"name": "b", "service": 1}],
        "edges": [{"src": "a", "dst": "b", "depth": 1}],
        "resources": [{"order": ["b", "a"]}],
    }
    for call in (min_depths, pareto_depths):
        with pytest.raises(InputError, match="orders in which all stages can start"):
            call(pipeline)


def test_refuses_a_run_that_is_too_long():
    with pytest.raises(InputError, match="at most 4194304 firings"):
        min_depths({"tiles": 10**9, "stages": [{"name": "a", "service": 1}]})


def _residual() -> Pipeline:
    stages = [{"name": name, "service": service} for name, service in (("fork", 1), ("a", 2), ("b", 2), ("join", 1))]
    joins = (("fork", "a"), ("a", "b"), ("b", "join"), ("fork", "join"))
    edges = [{"src": src, "dst": dst, "depth": 1} for src, dst in joins]
    return Pipeline.from_dict({"tiles": 50, "stages": stages, "edges": edges})
