"""Why a run takes as long as it does: the chain of events, each waiting for the next, back to cycle 0.

In the (max,+) equations every start and end equals one term of a maximum. Following those terms back from the last end
gives the critical path, whose waits sum to the makespan. Where it repeats itself it goes round the critical cycle: its
time for each token on it is what the throughput cannot beat (Baccelli et al., Synchronization and Linearity, 1992).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fifo_sim.pattern import Ints
from fifo_sim.replay import Replay

NEXT, SERVICE, TOKEN, ROOM, PORT = "next", "service", "token", "room", "port"
SOURCE = 0  # codes of what a start waited for; edges and ports follow
OWN = 1
FIRST = 2


class Arc(NamedTuple):
    """One wait on the critical path.

    Attributes:
        kind: "service" (a stage computes), "next" (a stage ends its firing before), "token" (a token comes through a
            FIFO), "room" (a FIFO is full) or "port" (another stage holds a port).
        which: position of the stage, FIFO or port.
        stage, firing: who waits, for the service its own.
        cycles: how long: the service time, the latency, 1 for a slot to become writable, 0 for "next".
    """

    kind: str
    which: int
    stage: int
    firing: int
    cycles: int


class _Causes:
    """For each start and end of a stage, the term that set it. Waits that no FIFO depth can mend come first."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.edges, self.ports = len(replay.pipeline.edges), len(replay.pipeline.resources)
        self._start: dict[int, list[int]] = {}
        self._end: dict[int, list[int]] = {}
        self._port: dict[tuple[int, int], tuple[Ints, Ints]] = {}

    def start(self, s: int) -> list[int]:
        """Codes of the starts of stage `s`: SOURCE, OWN, then tokens by edge, ports, room by edge."""
        if s not in self._start:
            replay = self.replay
            terms = [(FIRST + e, replay.arrivals(e)) for e in replay.wiring.inputs[s]]
            terms += [(FIRST + self.edges + p, replay.port_free(p, s)) for p in replay.wiring.ports[s]]
            if replay.pipeline.stages[s].mode == "bbs":
                terms += [(FIRST + self.edges + self.ports + e, replay.room(e)) for e in replay.wiring.outputs[s]]
            code = np.full(replay.asked[s], OWN, np.int64)
            latest = replay.free_before(s)
            for number, times in terms:
                code[times > latest] = number
                latest = np.maximum(latest, times)
            code[latest == 0] = SOURCE
            self._start[s] = code.tolist()
        return self._start[s]

    def end(self, s: int) -> list[int]:
        """For each end of stage `s`, the FIFO whose room it waited for, or -1 where it only computed."""
        if s not in self._end:
            ended = len(self.replay.ends[s])
            code = np.full(ended, -1, np.int64)
            latest = self.replay.ready(s)[:ended]
            for e in self.replay.wiring.outputs[s]:
                room = self.replay.room(e)[:ended]
                code[room > latest] = e
                latest = np.maximum(latest, room)
            self._end[s] = code.tolist()
        return self._end[s]

    def full_output(self, s: int, k: int, written: int) -> int:
        """The FIFO whose room end `k` waited for, or -1; of the FIFO `written` alone if that is one."""
        if written < 0:
            return self.end(s)[k]
        ready = int(self.replay.starts[s][k] + self.replay.wiring.services(s)[k])
        return written if int(self.replay.room(written)[k]) > ready else -1

    def port_before(self, p: int, s: int) -> tuple[Ints, Ints]:
        """As in Replay, kept."""
        if (p, s) not in self._port:
            self._port[p, s] = self.replay.port_before(p, s)
        return self._port[p, s]


def critical_arcs(replay: Replay) -> list[Arc]:
    """The critical path from the last end back to cycle 0; the cycles of its arcs sum to the makespan.

    The run must not have deadlocked. Where several paths are equally long, services and tokens go before full FIFOs.
    """
    s = max(range(len(replay.ends)), key=lambda stage: int(replay.ends[stage][-1]))
    k, written, at_start = len(replay.ends[s]) - 1, -1, False  # an event: a start, an end, or the writing to one FIFO
    causes, wiring = _Causes(replay), replay.wiring
    edges, ports = replay.pipeline.edges, len(replay.pipeline.resources)
    eager = [stage.fork == "eager" for stage in replay.pipeline.stages]
    arcs: list[Arc] = []
    while True:
        code = causes.start(s)[k] - FIRST if at_start else causes.full_output(s, k, written)
        if at_start and code == SOURCE - FIRST:
            return arcs
        if at_start and code == OWN - FIRST:
            arcs.append(Arc(NEXT, s, s, k, 0))
            k, written, at_start = k - 1, -1, False
        elif at_start and code < len(edges):
            arcs.append(Arc(TOKEN, code, s, k, edges[code].latency))
            k, s = int(wiring.needs(code)[k]) - 1, wiring.src[code]
            written, at_start = code if eager[s] else -1, False
        elif at_start and code < len(edges) + ports:
            holder = causes.port_before(code - len(edges), s)
            before, firing = int(holder[0][k]), int(holder[1][k])
            arcs.append(Arc(PORT, code - len(edges), s, k, int(wiring.services(before)[firing])))
            s, k = before, firing
        elif code < 0:
            arcs.append(Arc(SERVICE, s, s, k, int(wiring.services(s)[k])))
            at_start = True
        else:
            e = code - len(edges) - ports if at_start else code
            arcs.append(Arc(ROOM, e, s, k, 1))
            k, s = int(wiring.freeing(e)[k - edges[e].depth]), wiring.dst[e]
            written, at_start = -1, edges[e].release == "start"
