"""Explanations: causes that sum to the ledger, and proposals that hold when they are simulated."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from fifo_sim import Pipeline, explain, lower, simulate
from fifo_sim.given import unlimited_depths, without_priority
from tests.fifo_sim.random_pipelines import KINDS, random_pipeline
from vit.config import ViTConfig
from vit.errors import InputError


@pytest.mark.parametrize("kind", KINDS)
def test_rows_sum_to_the_ledger_and_remedies_hold(kind):
    for seed in range(15):
        pipeline = Pipeline.from_dict(random_pipeline(Random(f"explain {kind} {seed}"), kind, tiles=20))
        result, told = simulate(pipeline), explain(pipeline, seconds=0.5)
        assert (told.cycles, told.horizon) == (result.cycles, result.horizon)
        sums: Counter[tuple[str, str]] = Counter()
        for row in told.rows:
            assert row.cycles > 0
            assert row.waits > 0
            assert (row.cause == "") == (row.state in ("busy", "drained")) == (row.index < 0)
            sums[row.stage, row.state] += row.cycles
        for stage, ledger in result.stalls.items():
            assert {state: sums[stage, state] for state in ledger} == ledger
        assert (told.deadlock is not None) == result.deadlock
        json.dumps(told.to_dict())
        str(told)
        if not result.deadlock:
            _check_remedies(pipeline, told)


def _check_remedies(pipeline, told):
    full_speed = simulate(pipeline.with_depths(unlimited_depths(pipeline)), history=False).cycles
    for remedy in told.remedies:
        assert remedy.cycles < told.cycles
        changed = pipeline
        if remedy.depths:
            depths = list(pipeline.depths)
            for change in remedy.depths:
                assert depths[change.edge] == change.before < change.after
                assert change.fifo in remedy.sentence
                depths[change.edge] = change.after
            changed = pipeline.with_depths(depths)
        else:
            assert full_speed >= told.cycles
            stages = [
                replace(s, service=np.maximum(s.service_pattern.expand(n) - 1, 1)) if s.name in remedy.stages else s
                for s, n in zip(pipeline.stages, pipeline.firings, strict=True)
            ]
            changed = replace(pipeline, stages=tuple(stages))
        assert simulate(changed, history=False).cycles == remedy.cycles
    if without_priority(pipeline) is pipeline and full_speed < told.cycles:
        assert told.remedies[-1].cycles == full_speed
        first = told.remedies[0]
        assert {change.edge for change in first.depths} & set(told.path.fifos())


def test_a_fifo_that_limits_a_residual():
    told = explain(_residual(depth=1))
    assert told.cycles == 8 * 100 + 1
    assert [row.cause for row in told.stalls() if row.stage == "fork"] == ["fork->join"]
    assert told.cycle is not None
    assert (told.cycle.cycles_per_token, told.cycle.fifos()) == (8, [3])
    assert [(c.fifo, c.after) for c in told.remedies[0].depths] == [("fork->join", 2)]
    assert told.remedies[0].cycles == 8 * 50 + 3
    assert [(c.fifo, c.after) for c in told.remedies[1].depths] == [("fork->join", 4)]
    assert "deepen fork->join from 1 to 2 (1 bytes more)" in str(told)


def test_a_stage_that_limits_a_chain():
    told = explain(_residual(depth=9, slow=5))
    assert told.cycle is not None
    assert (told.cycle.cycles, told.cycle.tokens, [part.name for part in told.cycle.parts]) == (5, 1, ["b"])
    assert [remedy.stages for remedy in told.remedies] == [("b",)]
    assert told.remedies[0].cycles == told.cycles - 100
    assert "no FIFO depth helps; make b faster" in str(told)


def test_two_stages_that_limit_together():
    told = explain({"tiles": 100, "stages": _stages(a=3, b=3), "edges": [{"src": "a", "dst": "b", "depth": 2}]})
    assert [set(remedy.stages) for remedy in told.remedies] == [{"a", "b"}]
    assert told.remedies[0].cycles == told.cycles - 101


def test_a_port_that_limits():
    pipeline = {
        "tiles": 100,
        "stages": _stages(a=3, b=2),
        "edges": [{"src": "a", "dst": "b", "depth": 2}],
        "resources": [{"order": ["a", "b"]}],
    }
    told = explain(pipeline)
    assert [row.cause for row in told.rows if row.state == "resource"] == ["port 0 (a, b)"]
    assert told.cycle is not None
    assert {part.kind for part in told.cycle.parts} >= {"port", "service"}
    assert "relieve port 0 (a, b)" in told.remedies[0].sentence


def test_two_fifos_between_the_same_stages_have_names_of_their_own():
    edges = [{"src": "a", "dst": "b", "depth": 3}, {"src": "a", "dst": "b", "depth": 1}]
    told = explain({"tiles": 9, "stages": _stages(a=1, b=3), "edges": edges})
    assert [row.cause for row in told.rows if row.state == "blocked"] == ["a->b #2"]


def test_deadlock_is_explained():
    told = explain(
        {
            "tiles": 3,
            "stages": _stages(a=1, b=1),
            "edges": [{"src": "a", "dst": "b", "depth": 1, "need": [2, 2, 3]}],
        }
    )
    assert told.cycles is told.path is told.cycle is None
    assert told.deadlock is not None
    assert "depth 1 -> 2" in str(told)


def test_lowered_vit_is_priced_in_its_bytes():
    lowered = lower(ViTConfig(depth=2), "zcu104", fifo=1, images=2)
    told = explain(lowered)
    assert told.cycles is not None
    extra = sum((c.after - c.before) * lowered.token_bytes[c.edge] for c in told.remedies[-1].depths)
    assert f"({extra} bytes more)" in told.remedies[-1].sentence


def test_refuses_a_run_that_is_too_long():
    with pytest.raises(InputError, match="for an explanation"):
        explain({"tiles": 10**9, "stages": _stages(a=1)})


def _stages(**services):
    return [{"name": name, "service": service} for name, service in services.items()]


def _residual(depth, slow=2):
    joins = (("fork", "a", 4), ("a", "b", 4), ("b", "join", 4), ("fork", "join", depth))
    edges = [{"src": src, "dst": dst, "depth": slots} for src, dst, slots in joins]
    return {"tiles": 100, "stages": _stages(fork=1, a=2, b=slow, join=1), "edges": edges}
