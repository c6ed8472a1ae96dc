"""What a pipeline refuses, in one clear line, and what survives a round trip."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fifo_sim import Edge, Pipeline, Resource, Stage
from fifo_sim.pattern import Pattern
from vit.errors import InputError


def two_stages(**edge):
    return {
        "tiles": 4,
        "stages": [{"name": "a", "service": 1}, {"name": "b", "service": 2}],
        "edges": [{"src": "a", "dst": "b", "depth": 1} | edge],
    }


def one_stage(**stage):
    return {"tiles": 3, "stages": [{"name": "a", "service": 1} | stage]}


def with_port(*ports):
    return two_stages() | {"resources": list(ports)}


REFUSED = [
    ([], "pipeline = []: allowed is a table"),
    ({}, "stages = None: allowed is a list of tables"),
    ({"tiles": 1, "stages": []}, "at least one stage"),
    ({"tiles": 1, "stages": {}}, "allowed is a list of tables"),
    ({"tiles": 1, "stages": ["a"]}, "stages[0] = 'a'"),
    ({"tiles": 1, "stages": [{"name": "a"}]}, "'service'"),
    ({"tile": 1, "stages": []}, "did you mean 'tiles'?"),
    (one_stage() | {"tiles": 0}, "tiles = 0"),
    (one_stage() | {"tiles": True}, "tiles = True"),
    ({"stages": [{"name": "a", "service": 1}]}, "stage a has no firings of its own"),
    (one_stage(name=""), "stage name = ''"),
    (one_stage(name=3), "stage name = 3"),
    (one_stage(service=0), "stage a service = 0"),
    (one_stage(service=1.5), "stage a service = 1.5"),
    (one_stage(service=[1, 2]), "3 entries, one a firing"),
    (one_stage(service=[1, 2, 0]), "stage a service = 0"),
    (one_stage(service=[1, 2, True]), "stage a service = True"),
    (one_stage(service=[]), "it is empty"),
    (one_stage(service="123"), "stage a service = '123'"),
    (one_stage(service=2**70), "stage a service"),
    (one_stage(service={"repeat": [1, 0]}), "stage a service.repeat = 0"),
    (one_stage(service={"repeat": [1], "step": 1}), "stage a service = 'step'"),
    (one_stage(service={"step": 1}), "stage a service = 'step'"),
    (one_stage(firings=0), "stage a firings = 0"),
    (one_stage(mode="bsb"), "did you mean 'bbs'?"),
    (one_stage(fork="greedy"), "stage a fork = 'greedy'"),
    (one_stage(servise=2), "did you mean 'service'?"),
    (two_stages(depth=0), "edge a->b depth = 0"),
    (two_stages(latency=0), "edge a->b latency = 0"),
    (two_stages(depth="4"), "edge a->b depth = '4'"),
    (two_stages(release="now"), "edge a->b release = 'now'"),
    (two_stages(src="x"), "edges[0].src = 'x'"),
    (two_stages(dst="c"), "edges[0].dst = 'c'"),
    (two_stages(dst=None), "edge a->None dst = None"),
    (two_stages(dst="a"), "'a -> a': allowed is a graph without cycles"),
    (two_stages(need=[1, 2, 3]), "edge a->b need = '3 entries'"),
    (two_stages(need=[1, 3, 2, 4]), "edge a->b need[2] = 2: allowed is at least 3"),
    (two_stages(need=[1, 2, 3, 5]), "at most 4, all that a ever writes"),
    (two_stages(need=[-1, 2, 3, 4]), "edge a->b need = -1"),
    (two_stages(need={"repeat": [2, 3], "step": 0}), "edge a->b need[2] = 2: allowed is at least 3"),
    (two_stages(need={"repeat": [1], "step": -1}), "edge a->b need.step = -1"),
    (two_stages(rel=[1, 2, 3, 5]), "edge a->b rel[3] = 5: allowed is at most need[3] = 4"),
    (two_stages(rel=[0, 0, 2, 1]), "edge a->b rel[3] = 1: allowed is at least 2"),
    (two_stages(rel={"repeat": [-1], "step": 1}), "edge a->b rel.repeat = -1"),
    (two_stages(need=np.array([1.0, 2, 3, 4])), "array of float64"),
    ({"tiles": 1, "stages": [{"name": "a" * 1000, "service": 0}]}, f"stage {'a' * 77}... service = 0"),
    (with_port({"order": []}), "resource order = []"),
    (with_port({"order": "ab"}), "resource order = 'ab'"),
    (with_port({"order": ["a", "a"]}), "names that appear once"),
    (with_port({"order": ["a", "c"]}), "resources[0].order = 'c'"),
    (with_port({"order": ["a"], "policy": "fair"}), "resource policy = 'fair'"),
    (with_port(*[{"order": ["a", "b"], "policy": "priority"}] * 2), "one priority port at most"),
]


@pytest.mark.parametrize(("values", "line"), REFUSED)
def test_refuses(values, line):
    with pytest.raises(InputError) as refusal:
        Pipeline.from_dict(values)
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_names_twice():
    with pytest.raises(InputError, match="stages = 'a': allowed is names that appear once each"):
        Pipeline(1, [Stage("a"), Stage("a")])


def test_firings_that_never_match():
    values = two_stages()
    values["stages"][1]["firings"] = 5
    with pytest.raises(InputError, match=r"firing 4 of b would wait for ever"):
        Pipeline.from_dict(values)


def test_the_cycle_is_named():
    stages = [Stage(n) for n in "sabct"]
    edges = [Edge(*pair, 1) for pair in ("sa", "ab", "bc", "ca", "ct")]
    with pytest.raises(InputError) as refusal:
        Pipeline(1, stages, edges)
    assert refusal.value.value in ("a -> b -> c -> a", "b -> c -> a -> b", "c -> a -> b -> c")


def test_large_files_end_in_one_line(tmp_path):
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(InputError, match="at most 64 MiB"):
        Pipeline.from_json(large)
    with pytest.raises(InputError, match="1000000 entries"):
        Pipeline.from_dict({"tiles": 1, "stages": [None] * 1_000_000})


def test_json_file(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(two_stages()))
    assert Pipeline.from_json(path) == Pipeline.from_dict(two_stages())
    path.write_text(json.dumps(two_stages())[:-1])
    with pytest.raises(InputError, match="does not parse"):
        Pipeline.from_json(path)


def test_round_trip_keeps_every_setting():
    pipeline = Pipeline(
        6,
        [
            Stage("a", {"repeat": [3, 1]}, mode="bbs", fork="eager"),
            Stage("b", np.arange(1, 7)),
            Stage("c", 2, firings=3),
        ],
        [
            Edge("a", "b", 3, latency=2, need=[3, 3, 3, 6, 6, 6], rel=[0, 0, 3, 3, 3, 6], release="end"),
            Edge("b", "c", 1, need={"repeat": [2], "step": 2}, rel={"repeat": [2], "step": 2}),
        ],
        [Resource(("a", "c"), "priority")],
    )
    plain = pipeline.to_dict()
    assert Pipeline.from_dict(json.loads(json.dumps(plain))) == pipeline
    assert plain["stages"][0]["service"] == [3, 1, 3, 1, 3, 1]
    assert plain["edges"][0]["need"] == [3, 3, 3, 6, 6, 6]
    assert plain["edges"][1]["need"] == [2, 4, 6]


def test_a_billion_tiles_stay_small():
    per_image = {"repeat": [64] * 64, "step": 64}
    values = two_stages(depth=128, need=per_image) | {"tiles": 64 * 10**7}
    pipeline = Pipeline.from_dict(values)
    assert pipeline.to_dict()["edges"][0]["need"] == per_image
    assert Pipeline.from_dict(pipeline.to_dict()) == pipeline


def test_a_window_may_start_below_zero():
    clipped = Pipeline.from_dict(two_stages(rel=[0, 0, 1, 2]))
    assert Pipeline.from_dict(two_stages(rel=[-1, 0, 1, 2])) == clipped


def test_with_depths():
    pipeline = Pipeline.from_dict(two_stages())
    assert pipeline.with_depths(np.array([7])).depths == (7,)
    assert pipeline.depths == (1,)
    with pytest.raises(InputError, match="1 numbers, one an edge"):
        pipeline.with_depths([1, 2])
    with pytest.raises(InputError, match="depth = 0"):
        pipeline.with_depths([0])


def test_order_is_topological():
    pipeline = Pipeline(1, [Stage(n) for n in "cab"], [Edge("a", "b", 1), Edge("b", "c", 1)])
    assert [pipeline.stages[i].name for i in pipeline.topological_order] == ["a", "b", "c"]


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=4), st.integers(1, 6), st.integers(0, 3), st.integers(0, 3))
def test_a_pattern_is_its_sequence(period, times, step, more):
    stop = len(period) * times + more
    whole = [value + step * i for i in range(times + 4) for value in period][:stop]
    written, repeated = Pattern(whole, written_out=True), Pattern(period, step)
    for pattern in (written, repeated):
        assert pattern.expand(stop).tolist() == whole
        assert [pattern.at(k) for k in range(stop)] == whole
        assert pattern.total(stop) == sum(whole)
    assert len(written.values) <= stop
    if stop >= 4 * len(repeated.values) + 2:
        assert written == repeated
        assert hash(written) == hash(repeated)


@given(st.integers(1, 60), st.integers(0, 5), st.integers(0, 5))
def test_clipped_windows_are_short(n, look, width):
    for window in ([min(n, k + 1 + look) for k in range(n)], [max(0, k + 1 - width) for k in range(n)]):
        pattern = Pattern(window, written_out=True)
        assert pattern.expand(n).tolist() == window
        assert [pattern.at(k) for k in range(n)] == window
        if n >= 4 * (look + width + 1):
            assert len(pattern.values) <= look + width + 1
