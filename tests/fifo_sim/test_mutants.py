"""Deliberate faults in the simulator's kernels: each must be noticed by the comparison with the reference.

The kernels run as plain Python here, from their sources with one line changed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from types import ModuleType

import numpy as np
import pytest

import kernels
from fifo_sim import Edge, Pipeline, Resource, Stage, simulate
from fifo_sim.wavefront import FEWEST_STAGES, TILES_A_STAGE
from tests.fifo_sim.random_pipelines import KINDS, random_pipeline
from tests.fifo_sim.reference import step_through
from tests.fifo_sim.test_wavefront import random_chain

FAMILY = ("sim_moves", "sim_steady", "sim_order", "sim_walk", "sim_replay", "sim_wavefront")
WAVE = "wave"  # chains that are run along their wavefront
PLAIN = "plain"  # residual blocks without any extras, which the quick way of the simulator takes as they are
FOUND = ("cycles", "deadlock", "horizon", "starts", "ends", "max_occupancy", "stalls")
TRIES = 60  # pipelines of each kind that a fault may hide from

# A fault: the file it is in, the kind of pipelines that shows it, a line and what becomes of it.
FAULTS = {
    "a token is seen a cycle early": (
        "sim_moves",
        "dag",
        "slots[base + (k & mask)] = cycle + edges[e + at.LATENCY]",
        "slots[base + (k & mask)] = cycle + edges[e + at.LATENCY] - ONE",
    ),
    "a slot comes back a cycle late": (
        "sim_moves",
        "dag",
        "slots[base + (token & mask)] = cycle + ONE",
        "slots[base + (token & mask)] = cycle + ONE + ONE",
    ),
    "a slot comes back at once": (
        "sim_moves",
        "dag",
        "slots[base + (token & mask)] = cycle + ONE",
        "slots[base + (token & mask)] = cycle",
    ),
    "a FIFO holds a token more": (
        "sim_moves",
        "ports",
        "k < edges[e + at.RELEASED] + edges[e + at.DEPTH]",
        "k <= edges[e + at.RELEASED] + edges[e + at.DEPTH]",
    ),
    "blocking before service does not": ("sim_moves", "dag", "    if kind & at.BBS:", "    if False:"),
    "an eager fork is lazy": ("sim_moves", "dag", "    if stages[s + at.KIND] & at.EAGER:", "    if False:"),
    "slots come back at the start": ("sim_moves", "dag", "        if not edges[e + at.AT_END]:", "        if True:"),
    "turns go backwards": (
        "sim_moves",
        "ports",
        "            turn += ONE\n            if turn == count:\n                turn = ZERO",
        "            turn = count - ONE if turn == ZERO else turn - ONE",
    ),
    "turns go to those who are done": (
        "sim_moves",
        "ports",
        "if left > stages[row + at.AT_WORK]:",
        "if True:",
    ),
    "a port is free a cycle early": (
        "sim_moves",
        "ports",
        "cycle + table[stages[s + at.SERVICE_AT]])",
        "cycle + table[stages[s + at.SERVICE_AT]] - ONE)",
    ),
    "waiting counts a cycle more": (
        "sim_moves",
        "dag",
        "stages[s + at.BLOCKED] += end - done",
        "stages[s + at.BLOCKED] += end - done + ONE",
    ),
    "a slot given back still counts": (
        "sim_moves",
        "dag",
        "slots[base + ((k - peak) & mask)] > cycle + ONE:",
        "slots[base + ((k - peak) & mask)] > cycle:",
    ),
    "the last in order has priority": (
        "sim_walk",
        "ports",
        "                    winner = links[i]\n                    break",
        "                    winner = links[i]",
    ),
    "stages in line do not wait for themselves": (
        "sim_replay",
        PLAIN,
        "begun = max(stages[s + at.FREE], arrival)",
        "begun = arrival",
    ),
    "stages in line do not wait for room": (
        "sim_replay",
        "chain",
        "ended = max(done, slots[base + ((k - edges[e + at.DEPTH]) & mask)])",
        "ended = done",
    ),
    "a join gives one slot back too early": (
        "sim_replay",
        PLAIN,
        "slots[there] = begun + ONE",
        "slots[there] = begun",
    ),
    "a fork waits for one output alone": (
        "sim_replay",
        PLAIN,
        "        ended = max(ended, _room(edges, slots, second, k))\n",
        "",
    ),
    "a token handed on does not fill its FIFO": (
        "sim_replay",
        PLAIN,
        "edges[e + at.PEAK] = peak + ONE\n\n\n@inlined\ndef _hand_on",
        "edges[e + at.PEAK] = peak\n\n\n@inlined\ndef _hand_on",
    ),
    "a wavefront's stages do not wait for themselves": (
        "sim_wavefront",
        WAVE,
        "begun = max(free[s], arrivals[s])",
        "begun = arrivals[s]",
    ),
    "a wavefront's stages do not wait for room": (
        "sim_wavefront",
        WAVE,
        "ended = max(done, ring[((where[ROOMS] - np.uint64(apart[s])) & mask) + s + ONE])",
        "ended = done",
    ),
    "a wavefront's slots come back at once": ("sim_wavefront", WAVE, "+ s] = begun + 1", "+ s] = begun"),
    "a wavefront's FIFOs fill a token later": (
        "sim_wavefront",
        WAVE,
        "> free[s] + 1:",
        "> free[s] + 2:",
    ),
    "a wavefront keeps a row too few": (
        "sim_wavefront",
        WAVE,
        "(t * row) & mask, (t + ONE) * row",
        "(t * row) & mask, t * row",
    ),
    "an order looks at no depths": (
        "sim_order",
        "residual",
        "if not has_room(edges, links[i], stages[s + at.FIRED]):",
        "if False:",
    ),
    "an order looks at no tokens": (
        "sim_order",
        "chain",
        "if edges[links[i] + at.PUSHED] < edges[links[i] + at.NEED]:",
        "if False:",
    ),
}


@pytest.fixture
def kernels_with(monkeypatch):
    """Install the kernels as plain Python, one of them changed."""

    def install(file: str = "", old: str = "", new: str = "") -> None:
        plain = ModuleType("kernels.compiled")
        plain.entry = lambda *_, **__: lambda function: function
        plain.inlined = lambda function: function
        monkeypatch.setitem(sys.modules, "kernels.compiled", plain)
        for name in FAMILY:
            path = Path(kernels.__file__).with_name(f"{name}.py")
            source = path.read_text()
            if name == file:
                assert source.count(old) >= 1, f"{name} has no line {old!r} any more"
                source = source.replace(old, new)
            module = ModuleType(f"kernels.{name}")
            monkeypatch.setitem(sys.modules, module.__name__, module)
            exec(compile(source, str(path), "exec"), module.__dict__)
        module._all_stages = lambda *arguments: module._stages(*arguments[:10], 0, arguments[0].size)

    return install


def pipeline_of(kind: str, seed: int) -> Pipeline:
    """A pipeline of one of KINDS, or PLAIN, or WAVE."""
    rng = Random(f"{kind} {seed}")
    if kind == WAVE:
        return random_chain(rng, FEWEST_STAGES, TILES_A_STAGE * FEWEST_STAGES)
    if kind != PLAIN:
        return Pipeline.from_dict(random_pipeline(rng, kind, tiles=6))
    made = random_pipeline(rng, "residual", tiles=30)
    stages = [{"name": stage["name"], "service": stage["service"]} for stage in made["stages"]]
    edges = [{"src": edge["src"], "dst": edge["dst"], "depth": edge["depth"]} for edge in made["edges"]]
    return Pipeline.from_dict({"tiles": made["tiles"], "stages": stages, "edges": edges})


def first_difference(kind: str) -> str | None:
    """What the simulator gets wrong first on pipelines of this kind; None if nothing in so many of them."""
    with np.errstate(over="ignore"):
        for seed in range(TRIES):
            pipeline = pipeline_of(kind, seed)
            expected = step_through(pipeline)
            try:
                found = simulate(pipeline)
            except (IndexError, OverflowError) as error:
                return f"{kind} {seed}: {error}"
            for name in FOUND:
                if getattr(found, name) != getattr(expected, name):
                    return f"{kind} {seed}: {name}"
    return None


@pytest.mark.parametrize("kind", [*KINDS, PLAIN, WAVE])
def test_without_a_fault_nothing_differs(kind, kernels_with):
    kernels_with()
    assert first_difference(kind) is None


@pytest.mark.parametrize("fault", FAULTS)
def test_notices(fault, kernels_with):
    file, kind, old, new = FAULTS[fault]
    kernels_with(file, old, new)
    assert first_difference(kind) is not None


def test_notices_that_the_latest_request_is_granted_first(kernels_with):
    """Two ports with priority: what asks late at one must not be granted before the other lets its rival come."""
    services = {"late": 5, "a": 1, "b": 1, "rival": 10, "asks": 1}
    pipeline = Pipeline(
        1,
        [Stage(name, service) for name, service in services.items()],
        [Edge("late", "asks", 1), Edge("a", "rival", 1)],
        [Resource(("a", "b"), "priority"), Resource(("rival", "asks"), "priority")],
    )
    kernels_with()
    assert simulate(pipeline).starts == step_through(pipeline).starts
    kernels_with("sim_walk", "if cycle < earliest:", "if earliest == ~ZERO or cycle > earliest:")
    assert simulate(pipeline).starts != step_through(pipeline).starts
