"""What to change so that a pipeline gets faster; every proposal is simulated before it is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fifo_sim.critical import PORT, SERVICE, Arc, critical_arcs
from fifo_sim.deadlock import DepthChange, depth_changes
from fifo_sim.given import port_names, unlimited_depths
from fifo_sim.pattern import Ints, Pattern
from fifo_sim.pipeline import Pipeline
from fifo_sim.replay import Replay
from fifo_sim.simulator import simulate
from fifo_sim.sizing import cheapest

MOST_STAGES = 8  # that are made faster together in search of a change that shows


@dataclass(frozen=True)
class Remedy:
    """One change and what it brings.

    Attributes:
        sentence: the change in words.
        depths: FIFOs to make deeper, if it is about depths.
        stages: stages to make faster, if it is about those: by one cycle a firing.
        cycles: of the pipeline after the change.
    """

    sentence: str
    depths: tuple[DepthChange, ...]
    stages: tuple[str, ...]
    cycles: int


def remedies(pipeline: Pipeline, weights: Ints, arcs: Sequence[Arc], cycles: int, seconds: float) -> list[Remedy]:
    """The cheapest deepening that lifts what limits the run, the cheapest to full speed; or the stages that limit it.

    Args:
        weights: bytes of a slot of each FIFO.
        arcs: the critical path of the run.
        cycles: of the run.
        seconds: about how long to search.
    """
    full_speed = simulate(pipeline.with_depths(_roomy(pipeline)), history=False).cycles
    if full_speed is None or full_speed >= cycles:
        return list(_faster_stages(pipeline, arcs, cycles))
    first = _deeper(pipeline, weights, cycles, cycles - 1, seconds / 2)
    if first.cycles == full_speed:
        return [first]
    return [first, _deeper(pipeline, weights, cycles, full_speed, seconds / 2)]


def _roomy(pipeline: Pipeline) -> Ints:
    return np.maximum(unlimited_depths(pipeline), np.array(pipeline.depths, dtype=np.int64))


def _deeper(pipeline: Pipeline, weights: Ints, cycles: int, limit: int, seconds: float) -> Remedy:
    before: Ints = np.array(pipeline.depths, dtype=np.int64)
    found = cheapest(pipeline, weights, before, limit, seconds)
    after = simulate(pipeline.with_depths(found.depths), history=False).cycles
    assert after is not None
    changes = depth_changes(pipeline, found.depths)
    told = ", ".join(f"{change.fifo} from {change.before} to {change.after}" for change in changes)
    extra = int(weights @ (found.depths - before))
    sentence = f"deepen {told} ({extra} bytes more): {cycles} -> {after} cycles"
    return Remedy(sentence, changes, (), after)


def _faster_stages(pipeline: Pipeline, arcs: Sequence[Arc], cycles: int) -> Iterator[Remedy]:
    """Stages that limit the run together: each the one most on the critical path that is left without it.

    Enough are taken that a cycle less a firing shows in at least half of the firings on the path, if any number do.
    """
    held = Counter(arc.which for arc in arcs if arc.kind == PORT).most_common(1)
    port = f"; or relieve {port_names(pipeline)[held[0][0]]}" if held else ""
    chosen: list[int] = []
    best: Remedy | None = None
    faster = pipeline
    for _ in range(MOST_STAGES):
        times = Counter(arc.which for arc in arcs if arc.kind == SERVICE and arc.cycles > 1 and arc.which not in chosen)
        if not times:
            break
        chosen.append(times.most_common(1)[0][0])
        faster = _with_faster(pipeline, chosen)
        result = simulate(faster)
        if result.cycles is None:
            break
        if result.cycles < (cycles if best is None else best.cycles):
            names = tuple(pipeline.stages[s].name for s in chosen)
            told = f"no FIFO depth helps; make {_listed(names)} faster: one cycle less a firing gives "
            best = Remedy(f"{told}{cycles} -> {result.cycles} cycles{port}", (), names, result.cycles)
        if 2 * (cycles - result.cycles) >= times.most_common(1)[0][1]:
            break
        arcs = critical_arcs(Replay(faster, result))
    if best is not None:
        yield best


def _with_faster(pipeline: Pipeline, chosen: Sequence[int]) -> Pipeline:
    def faster(service: Pattern) -> Pattern:
        return Pattern(np.maximum(service.values - 1, 1), 0)

    stages = [
        replace(stage, service=faster(stage.service_pattern)) if s in chosen else stage
        for s, stage in enumerate(pipeline.stages)
    ]
    return replace(pipeline, stages=tuple(stages))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
