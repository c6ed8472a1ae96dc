"""When every token was written and every slot came free in a simulated run, worked out from its starts and ends."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from fifo_sim.pattern import Ints
from fifo_sim.pipeline import Pipeline
from fifo_sim.result import SimResult
from vit.errors import InputError

MOST_FIRINGS = 1 << 22  # of all stages together, in a run that is looked at firing by firing
NEVER = 1 << 62  # the time of what does not happen; adding a service time or latency does not wrap


class Wiring:
    """What firings, tokens and slots have to do with one another, whatever the depths.

    Attributes:
        src, dst: stage positions by edge.
        inputs, outputs: edge positions by stage.
        ports: port positions by stage.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.src = [pipeline.index[edge.src] for edge in pipeline.edges]
        self.dst = [pipeline.index[edge.dst] for edge in pipeline.edges]
        self.inputs: list[list[int]] = [[] for _ in pipeline.stages]
        self.outputs: list[list[int]] = [[] for _ in pipeline.stages]
        self.ports: list[list[int]] = [[] for _ in pipeline.stages]
        for e, (src, dst) in enumerate(zip(self.src, self.dst, strict=True)):
            self.outputs[src].append(e)
            self.inputs[dst].append(e)
        for p, resource in enumerate(pipeline.resources):
            for name in resource.order:
                self.ports[pipeline.index[name]].append(p)
        self._services: dict[int, Ints] = {}
        self._needs: dict[int, Ints] = {}
        self._freeing: dict[int, Ints] = {}

    def services(self, s: int) -> Ints:
        """Service time of each firing of stage `s`."""
        if s not in self._services:
            self._services[s] = self.pipeline.stages[s].service_pattern.expand(self.pipeline.firings[s])
        return self._services[s]

    def needs(self, e: int) -> Ints:
        """For each firing of the reader of FIFO `e`, the tokens that must have been written before."""
        if e not in self._needs:
            self._needs[e] = self.pipeline.edges[e].need_pattern.expand(self.pipeline.firings[self.dst[e]])
        return self._needs[e]

    def freeing(self, e: int) -> Ints:
        """For each token of FIFO `e`, the firing of its reader that gives its slot back; past the last: never."""
        if e not in self._freeing:
            given = self.pipeline.edges[e].rel_pattern.expand(self.pipeline.firings[self.dst[e]])
            tokens = np.arange(self.pipeline.firings[self.src[e]], dtype=np.int64)
            self._freeing[e] = np.searchsorted(given, tokens, side="right")
        return self._freeing[e]

    def turn_before(self, p: int, s: int, k: int) -> tuple[int, int] | None:
        """(stage, firing) that starts at rotating port `p` right before firing k of stage `s`; None if it is first."""
        members = [self.pipeline.index[name] for name in self.pipeline.resources[p].order]
        ahead = members[: members.index(s)]
        for firing, row in ((k, ahead), (k - 1, members)):
            for other in reversed(row):
                if 0 <= firing < self.pipeline.firings[other]:
                    return other, firing
        return None


class Replay:
    """A run as arrays of cycles, one entry a firing.

    Args:
        pipeline: what was simulated.
        result: `simulate(pipeline)`, with its history.
        wiring: of a pipeline that differs in depths at most, where there are many runs; made if absent.

    Attributes:
        deadlock, horizon: of the result.
        starts, ends: of each stage, int64 of shape (started,) and (ended,); a deadlock may have left one under way.
        asked: of each stage, the firings that started, and the one that waits for ever if the stage is free.
    """

    def __init__(self, pipeline: Pipeline, result: SimResult, wiring: Wiring | None = None) -> None:
        if result.start_times is None or result.end_times is None:
            raise InputError("history", False, "a result simulated with history=True")
        self.pipeline, self.wiring = pipeline, wiring or Wiring(pipeline)
        self.deadlock, self.horizon = result.deadlock, result.horizon
        self.starts = [result.start_times[stage.name] for stage in pipeline.stages]
        self.ends = [result.end_times[stage.name] for stage in pipeline.stages]
        self.asked = [min(len(ends) + 1, most) for ends, most in zip(self.ends, pipeline.firings, strict=True)]
        self._room: dict[int, Ints] = {}

    def ready(self, s: int) -> Ints:
        """The cycle in which each started firing of stage `s` has computed."""
        return self.starts[s] + self.wiring.services(s)[: len(self.starts[s])]

    def free_before(self, s: int) -> Ints:
        """For each asked firing of stage `s`, the end of the one before; 0 at first."""
        return np.concatenate([np.zeros(1, np.int64), self.ends[s]])[: self.asked[s]]

    def room(self, e: int) -> Ints:
        """For each asked firing of the writer of FIFO `e`, the first cycle with room for its token, or NEVER."""
        if e not in self._room:
            edge, asked = self.pipeline.edges[e], self.asked[self.wiring.src[e]]
            released = (self.ends if edge.release == "end" else self.starts)[self.wiring.dst[e]]
            room = np.zeros(asked, np.int64)
            if asked > edge.depth:
                by = self.wiring.freeing(e)[: asked - edge.depth]
                room[edge.depth :] = np.append(released + 1, NEVER)[np.minimum(by, len(released))]
            self._room[e] = room
        return self._room[e]

    def pushes(self, e: int) -> Ints:
        """The cycle in which each token of FIFO `e` was written."""
        src = self.wiring.src[e]
        if self.pipeline.stages[src].fork == "lazy":
            return self.ends[src]
        written = np.maximum(self.ready(src), self.room(e)[: len(self.starts[src])])
        return written[written < NEVER]

    def arrivals(self, e: int) -> Ints:
        """For each asked firing of the reader of FIFO `e`, when the last token it needs is visible, or NEVER."""
        pushes = self.pushes(e)
        visible = np.concatenate([np.zeros(1, np.int64), pushes + self.pipeline.edges[e].latency, [NEVER]])
        return visible[np.minimum(self.wiring.needs(e)[: self.asked[self.wiring.dst[e]]], len(pushes) + 1)]

    @cached_property
    def port_holders(self) -> list[tuple[Ints, Ints]]:
        """For each port, (stage, firing) of everything that held it, in the order of its starts."""
        holders = []
        for resource in self.pipeline.resources:
            members = [self.pipeline.index[name] for name in resource.order]
            counts = [len(self.starts[s]) for s in members]
            order = np.argsort(np.concatenate([self.starts[s] for s in members]), kind="stable")
            stages = np.repeat(members, counts)[order]
            firings = np.concatenate([np.arange(n, dtype=np.int64) for n in counts])[order]
            holders.append((stages, firings))
        return holders

    def port_before(self, p: int, s: int) -> tuple[Ints, Ints]:
        """For each started firing of stage `s`, (stage, firing) that held port `p` before it; -1 for the first."""
        stages, firings = self.port_holders[p]
        before = np.flatnonzero(stages == s) - 1
        return np.where(before < 0, -1, stages[before]), np.where(before < 0, -1, firings[before])

    def port_free(self, p: int, s: int) -> Ints:
        """For each asked firing of stage `s`, when port `p` is free of the one before; NEVER if its turn never came."""
        stages, firings = self.port_before(p, s)
        free = np.zeros(self.asked[s], np.int64)
        for other in set(stages.tolist()) - {-1}:
            here = np.flatnonzero(stages == other)
            free[here] = self.ready(other)[firings[here]]
        if self.asked[s] > len(stages) and self.pipeline.resources[p].policy == "rotate":
            before = self.wiring.turn_before(p, s, len(stages))
            if before is not None:
                other, firing = before
                free[-1] = self.ready(other)[firing] if firing < len(self.starts[other]) else NEVER
        return free


def refuse_long_runs(pipeline: Pipeline, purpose: str) -> None:
    """An InputError if the pipeline fires too often to be looked at firing by firing."""
    firings = sum(pipeline.firings)
    if firings > MOST_FIRINGS:
        raise InputError(
            "tiles", firings, f"at most {MOST_FIRINGS} firings in all for {purpose}", "a shorter run shows the same"
        )
