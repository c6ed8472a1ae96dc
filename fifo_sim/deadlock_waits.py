"""Who waits for whom when a pipeline has stopped: full FIFOs, empty FIFOs, turns at a port."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from fifo_sim.replay import NEVER, Replay
from fifo_sim.sizing_cuts import Shifts, Step, back

FULL, EMPTY, TURN = "full", "empty", "turn"


@dataclass(frozen=True)
class StuckWait:
    """One reason why a stage stands still for ever.

    Attributes:
        stage: position of the stage that waits.
        firing: its firing that waits.
        kind: "full" (a FIFO has no room for its token), "empty" (a FIFO lacks a token it needs) or "turn" (another
            stage has to use a port before).
        index: position of the FIFO or port.
        on: position of the stage it waits for.
        event: firing of that stage which would end the wait; its number of firings if none would.
    """

    stage: int
    firing: int
    kind: str
    index: int
    on: int
    event: int


def stuck_waits(replay: Replay) -> dict[int, list[StuckWait]]:
    """What each stage that has not finished waits for, by stage; empty where the run came to its end."""
    waits = {}
    for s, firings in enumerate(replay.pipeline.firings):
        started, ended = len(replay.starts[s]), len(replay.ends[s])
        if started > ended:
            waits[s] = [_full(replay, e, s, ended) for e in replay.wiring.outputs[s] if replay.room(e)[ended] == NEVER]
        elif ended < firings:
            waits[s] = _before_start(replay, s, ended)
    return waits


def blocking_waits(replay: Replay) -> list[StuckWait]:
    """Why nothing moves: a shortest circular wait, each waiting for the next and the last for the first.

    Where no circle exists, a stage waits for slots that a stage which has finished never gave back: that wait alone.
    """
    waits = stuck_waits(replay)
    behind = {wait: _behind(replay, waits, wait) for row in waits.values() for wait in row}
    circles = [circle for wait in behind if (circle := _circle_through(behind, wait))]
    if circles:
        return min(circles, key=len)
    return [next(wait for row in waits.values() for wait in row if wait.on not in waits)]


def steps_of_waits(replay: Replay, shifts: Shifts, waits: list[StuckWait]) -> list[Step]:
    """The blocking waits as a way back through firings, for the cut that follows from them."""
    firings = replay.pipeline.firings
    steps: list[Step] = []
    for place, wait in enumerate(waits):
        if wait.kind == FULL:
            room = shifts.full(wait.index, wait.firing - replay.pipeline.edges[wait.index].depth)
            steps += room if wait.event < firings[wait.on] else room[:1]
        elif wait.kind == EMPTY:
            steps.append(shifts.token(wait.index, wait.firing))
        else:
            steps.append(Step(down=0, up=0))
        following = waits[(place + 1) % len(waits)]
        if following.stage == wait.on:
            steps.append(back(wait.event, wait.event - following.firing))
    return steps


def _full(replay: Replay, e: int, s: int, k: int) -> StuckWait:
    freeing = replay.wiring.freeing(e)[k - replay.pipeline.edges[e].depth]
    return StuckWait(s, k, FULL, e, replay.wiring.dst[e], int(freeing))


def _before_start(replay: Replay, s: int, k: int) -> list[StuckWait]:
    pipeline, waits = replay.pipeline, []
    for e in replay.wiring.inputs[s]:
        if replay.arrivals(e)[k] == NEVER:
            token = pipeline.edges[e].need_pattern.at(k) - 1
            waits.append(StuckWait(s, k, EMPTY, e, replay.wiring.src[e], token))
    if pipeline.stages[s].mode == "bbs":
        waits += [_full(replay, e, s, k) for e in replay.wiring.outputs[s] if replay.room(e)[k] == NEVER]
    for p in replay.wiring.ports[s]:
        before = replay.wiring.turn_before(p, s, k)
        if before is not None and replay.port_free(p, s)[k] == NEVER:
            waits.append(StuckWait(s, k, TURN, p, *before))
    return waits


def _behind(replay: Replay, waits: dict[int, list[StuckWait]], wait: StuckWait) -> list[StuckWait]:
    """What keeps the event that a wait is for from happening."""
    row = waits.get(wait.on, [])
    eager = replay.pipeline.stages[wait.on].fork == "eager" and len(replay.starts[wait.on]) > len(replay.ends[wait.on])
    if wait.kind == EMPTY and eager and wait.event == len(replay.ends[wait.on]):
        return [full for full in row if full.index == wait.index]  # what else is full does not keep this token back
    return row


def _circle_through(behind: dict[StuckWait, list[StuckWait]], first: StuckWait) -> list[StuckWait]:
    """A shortest chain of waits from one back to itself, or nothing."""
    came: dict[StuckWait, StuckWait] = {}
    queue = deque([first])
    while queue and first not in came:
        at = queue.popleft()
        for wait in behind[at]:
            if wait not in came:
                came[wait] = at
                queue.append(wait)
    if first not in came:
        return []
    chain = [first]
    while came[chain[-1]] != first:
        chain.append(came[chain[-1]])
    return chain[::-1]
