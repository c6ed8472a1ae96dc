"""Deadlocks explained by name, and resolved by the smallest change, against brute force."""

from __future__ import annotations

import json
from itertools import pairwise
from random import Random

import numpy as np
import pytest

from fifo_sim import Pipeline, explain_deadlock, simulate
from tests.fifo_sim.brute_force import AllDepths
from tests.fifo_sim.random_pipelines import KINDS, random_pipeline
from vit.errors import InputError


@pytest.mark.parametrize("kind", KINDS)
def test_smallest_change_equals_brute_force(kind):
    compared = 0
    for seed in range(60):
        rng = Random(f"deadlock {kind} {seed}")
        pipeline = Pipeline.from_dict(random_pipeline(rng, kind, tiles=8))
        token_bytes = [rng.randint(1, 9) for _ in pipeline.edges]
        told = explain_deadlock(pipeline, token_bytes)
        result = simulate(pipeline)
        assert told.deadlock == result.deadlock
        if not told.deadlock:
            assert (told.waits, told.changes, str(told)) == ((), (), "no deadlock")
            continue
        _check_waits(pipeline, told, result)
        if told.depths is None:
            assert simulate(pipeline.with_depths([10**6] * len(pipeline.edges)), history=False).deadlock
            continue
        assert not simulate(pipeline.with_depths(told.depths), history=False).deadlock
        grown = np.array(told.depths) - np.array(pipeline.depths)
        assert (grown >= 0).all()
        assert told.extra_slots == grown.sum()
        assert told.extra_bytes == grown @ np.array(token_bytes)
        assert [(c.edge, c.after - c.before) for c in told.changes] == [(e, n) for e, n in enumerate(grown) if n]
        if AllDepths.count(pipeline, pipeline.depths) <= 3000:
            every = AllDepths(pipeline, token_bytes, pipeline.depths)
            assert told.proven
            assert told.extra_bytes == every.least_bytes() - int(np.dot(pipeline.depths, token_bytes))
            compared += 1
    assert compared >= (1 if kind in ("chain", "ports") else 5)


def test_residual_around_attention_by_name():
    tiles, image = 8, 4
    need = [image * (k // image + 1) for k in range(tiles)]
    rel = [image * ((k + 1) // image) for k in range(tiles)]
    pipeline = {
        "tiles": tiles,
        "stages": [{"name": name, "service": 2} for name in ("norm", "qkv", "attention", "add")],
        "edges": [
            {"src": "norm", "dst": "qkv", "depth": 2},
            {"src": "qkv", "dst": "attention", "depth": 4, "need": need, "rel": rel, "release": "end"},
            {"src": "attention", "dst": "add", "depth": 2},
            {"src": "norm", "dst": "add", "depth": 2},
        ],
    }
    told = explain_deadlock(pipeline)
    links = {(wait.stage, wait.kind, wait.what) for wait in told.waits}
    assert links == {
        ("norm", "full", "norm->add"),
        ("add", "empty", "attention->add"),
        ("attention", "empty", "qkv->attention"),
        ("qkv", "empty", "norm->qkv"),
    }
    assert [(c.fifo, c.before, c.after) for c in told.changes] == [("norm->add", 2, 4)]
    text = str(told)
    assert "norm (firing 2) waits: FIFO norm->add is full (2 of 2 slots)" in text
    assert "attention (firing 0) waits: FIFO qkv->attention is empty: it needs 4 tokens in all and 2 were" in text
    assert "FIFO norm->add: depth 2 -> 4" in text
    json.dumps(told.to_dict())


def test_an_eager_fork_is_held_by_the_output_whose_token_is_awaited():
    """Both FIFOs are full, but the second one alone keeps back the token that y needs."""
    pipeline = {
        "tiles": 4,
        "stages": [{"name": "x", "service": 1, "fork": "eager"}, {"name": "y", "service": 1}],
        "edges": [
            {"src": "x", "dst": "y", "depth": 3},
            {"src": "x", "dst": "y", "depth": 3, "need": [4] * 4, "rel": [0, 0, 0, 4]},
        ],
    }
    told = explain_deadlock(pipeline)
    assert {(wait.kind, wait.what) for wait in told.waits} == {("empty", "x->y #2"), ("full", "x->y #2")}
    assert told.depths == (3, 4)


def test_slots_that_are_never_given_back():
    told = explain_deadlock(
        {
            "tiles": 4,
            "stages": [{"name": "a", "service": 1}, {"name": "b", "service": 1, "firings": 2}],
            "edges": [{"src": "a", "dst": "b", "depth": 1}],
        }
    )
    assert [(wait.stage, wait.kind, wait.on) for wait in told.waits] == [("a", "full", "b")]
    assert "b, at its end, keeps them" in str(told)
    assert told.depths == (2,)


def test_turns_that_no_depth_changes():
    told = explain_deadlock(
        {
            "tiles": 4,
            "stages": [{"name": "a", "service": 1}, {"name": "b", "service": 1}],
            "edges": [{"src": "a", "dst": "b", "depth": 1}],
            "resources": [{"order": ["b", "a"]}],
        }
    )
    assert {(wait.stage, wait.kind, wait.on) for wait in told.waits} == {("a", "turn", "b"), ("b", "empty", "a")}
    assert told.depths is None
    assert "no FIFO depths resolve it" in str(told)


def test_refuses_token_bytes_of_other_fifos():
    with pytest.raises(InputError, match="token_bytes"):
        explain_deadlock({"tiles": 1, "stages": [{"name": "a", "service": 1}]}, token_bytes=[1])


@pytest.mark.parametrize("given", [None, 3, "residual_block.json", [1]])
def test_refuses_what_is_no_pipeline(given):
    with pytest.raises(InputError, match=r"pipeline = .* a table with tiles, stages and edges"):
        explain_deadlock(given)


@pytest.mark.parametrize("seconds", [0, -1, "long", float("nan")])
def test_refuses_seconds(seconds):
    with pytest.raises(InputError, match="seconds"):
        explain_deadlock({"tiles": 1, "stages": [{"name": "a", "service": 1}]}, seconds=seconds)


def _check_waits(pipeline, told, result):
    """Each wait is true at the end of the run, and each waits for the next."""
    edges = {}
    for e, edge in enumerate(pipeline.edges):
        name = edge.name
        while name in edges:
            name = f"{edge.name} #{int(name.partition('#')[2] or 1) + 1}"
        edges[name] = e
    ended = {name: len(times) for name, times in result.end_times.items()}
    started = {name: len(times) for name, times in result.start_times.items()}
    for wait in told.waits:
        assert wait.firing == ended[wait.stage] < pipeline.firings[pipeline.index[wait.stage]]
        if wait.kind == "turn":
            assert any(wait.stage in port.order and wait.on in port.order for port in pipeline.resources)
            continue
        edge = pipeline.edges[edges[wait.what]]
        if wait.kind == "full":
            assert (edge.src, edge.dst) == (wait.stage, wait.on)
            reads = (ended if edge.release == "end" else started)[edge.dst]
            given_back = edge.rel_pattern.at(reads - 1) if reads else 0
            assert wait.firing - given_back >= edge.depth
        else:
            assert (edge.src, edge.dst) == (wait.on, wait.stage)
            assert edge.need_pattern.at(wait.firing) > ended[edge.src]
    if len(told.waits) > 1:
        assert all(a.on == b.stage for a, b in pairwise([*told.waits, told.waits[0]]))
