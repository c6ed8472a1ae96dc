"""An order of firings in which each finds its tokens written and its room free, found by counting; no times.

The stage furthest downstream that can fire and whose tokens are wanted goes first, so FIFOs hold as little as they can.
Any run whose FIFOs are at least that deep may be simulated in this order without asking who may move. Where the counts
come back to what they were, the stretch between is a period and is noted once with a number of repeats.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import kernels.sim_layout as at
from kernels.compiled import entry, inlined
from kernels.sim_moves import ONE, ZERO, Word, Words, given_back, has_room, take

STUCK, FULL, ORDERED = 0, 1, 2  # outcomes


@inlined
def _fireable(stages: Words, edges: Words, ports: Words, links: Words, stage: Word) -> bool:
    """Whether the stage's next firing has its tokens, room in its outputs, and its turn on every rotating port."""
    s = stage * at.STAGE_WORDS
    if stages[s + at.FIRED] == stages[s + at.FIRINGS]:
        return False
    for i in range(stages[s + at.INPUTS], stages[s + at.INPUTS] + stages[s + at.INPUT_COUNT]):
        if edges[links[i] + at.PUSHED] < edges[links[i] + at.NEED]:
            return False
    for i in range(stages[s + at.OUTPUTS], stages[s + at.OUTPUTS] + stages[s + at.OUTPUT_COUNT]):
        if not has_room(edges, links[i], stages[s + at.FIRED]):
            return False
    for i in range(stages[s + at.PORTS], stages[s + at.PORTS] + stages[s + at.PORT_COUNT]):
        if links[ports[links[i] + at.MEMBERS] + ports[links[i] + at.TURN]] != stage:
            return False
    return True


@inlined
def _wanted(stages: Words, edges: Words, links: Words, stage: Word) -> bool:
    """Whether some consumer waits for the stage's next token, or waits for nothing more."""
    s = stage * at.STAGE_WORDS
    if stages[s + at.OUTPUT_COUNT] == ZERO:
        return True
    for i in range(stages[s + at.OUTPUTS], stages[s + at.OUTPUTS] + stages[s + at.OUTPUT_COUNT]):
        e = links[i]
        d = edges[e + at.DST] * at.STAGE_WORDS
        if edges[e + at.PUSHED] < edges[e + at.NEED] or stages[d + at.FIRED] == stages[d + at.FIRINGS]:
            return True
    return False


@inlined
def _count_firing(
    stages: Words, edges: Words, ports: Words, links: Words, table: Words, least: Words, stage: Word
) -> Word:
    """Move the counts by one firing; the last stage that it may have made fireable."""
    s = stage * at.STAGE_WORDS
    stages[s + at.FIRED] += ONE
    furthest = stage
    for i in range(stages[s + at.INPUTS], stages[s + at.INPUTS] + stages[s + at.INPUT_COUNT]):
        e = links[i]
        take(edges, table, e)
        edges[e + at.RELEASED] = given_back(edges, table, e)
    for i in range(stages[s + at.OUTPUTS], stages[s + at.OUTPUTS] + stages[s + at.OUTPUT_COUNT]):
        e = links[i]
        edges[e + at.PUSHED] += ONE
        number = e // at.EDGE_WORDS
        least[number] = max(least[number], edges[e + at.PUSHED] - edges[e + at.RELEASED])
        furthest = max(furthest, edges[e + at.DST])
    for i in range(stages[s + at.PORTS], stages[s + at.PORTS] + stages[s + at.PORT_COUNT]):
        p = links[i]
        members, count, turn = ports[p + at.MEMBERS], ports[p + at.MEMBER_COUNT], ports[p + at.TURN]
        for _ in range(count):
            turn = ZERO if turn + ONE == count else turn + ONE
            row = links[members + turn] * at.STAGE_WORDS
            if stages[row + at.FIRED] < stages[row + at.FIRINGS]:
                break
        ports[p + at.TURN] = turn
        furthest = max(furthest, links[members + turn])
    return furthest


@inlined
def _repeats(stages: Words, edges: Words, ports: Words, then: Words) -> Word:
    """How often the stretch since the counts `then` may be repeated; 0 where they differ in more than their size.

    `then` holds the rows of stages, edges and ports, one after another.
    """
    number = ~ZERO
    for p in range(ZERO, np.uint64(ports.size), at.PORT_WORDS):
        if ports[p + at.TURN] != then[np.uint64(stages.size) + np.uint64(edges.size) + p + at.TURN]:
            return ZERO
    for e in range(ZERO, np.uint64(edges.size), at.EDGE_WORDS):
        a = np.uint64(stages.size) + e
        if edges[e + at.PUSHED] - edges[e + at.RELEASED] != then[a + at.PUSHED] - then[a + at.RELEASED]:
            return ZERO
        if edges[e + at.PUSHED] - edges[e + at.NEED] != then[a + at.PUSHED] - then[a + at.NEED]:
            return ZERO
        if edges[e + at.NEED_PHASE] != then[a + at.NEED_PHASE] or edges[e + at.REL_PHASE] != then[a + at.REL_PHASE]:
            return ZERO
        # the counts of the last firing too: they may still be those of the entries before the period
        if edges[e + at.RELEASED] - edges[e + at.REL_BASE] != then[a + at.RELEASED] - then[a + at.REL_BASE]:
            return ZERO
        if edges[e + at.NEEDED] - edges[e + at.NEED_BASE] != then[a + at.NEEDED] - then[a + at.NEED_BASE]:
            return ZERO
        for left in (at.NEED_LEFT, at.REL_LEFT):
            if edges[e + left] < then[a + left]:
                number = min(number, edges[e + left] // (then[a + left] - edges[e + left]))
    for s in range(ZERO, np.uint64(stages.size), at.STAGE_WORDS):
        fired = stages[s + at.FIRED] - then[s + at.FIRED]
        if fired:
            number = min(number, (stages[s + at.FIRINGS] - stages[s + at.FIRED]) // fired)
    return ZERO if number == ~ZERO else number


@inlined
def _repeat(stages: Words, edges: Words, then: Words, number: Word) -> None:
    """Move the counts on by `number` times what they have moved since `then`."""
    for s in range(ZERO, np.uint64(stages.size), at.STAGE_WORDS):
        stages[s + at.FIRED] += number * (stages[s + at.FIRED] - then[s + at.FIRED])
    for e in range(ZERO, np.uint64(edges.size), at.EDGE_WORDS):
        a = np.uint64(stages.size) + e
        for field in at.COUNTS:
            edges[e + field] += number * (edges[e + field] - then[a + field])


@inlined
def _note(stages: Words, edges: Words, ports: Words, then: Words) -> None:
    """Copy the counts to `then`."""
    where = ZERO
    for rows in (stages, edges, ports):
        for i in range(np.uint64(rows.size)):
            then[where] = rows[i]
            where += ONE


_WORDS = "uint64[::1]"


@entry(f"UniTuple(int64, 3)({', '.join([_WORDS] * 7)}, uint32[::1], int64[:, ::1])", family="sim_")
def firing_order(
    stages: Words,
    edges: Words,
    ports: Words,
    links: Words,
    table: Words,
    then: Words,
    least: Words,
    order: NDArray[np.uint32],
    parts: NDArray[np.int64],
) -> tuple[int, int, int]:
    """Fill `order` with stage rows, in parts of which each is repeated.

    Args:
        stages, edges, ports: rows in their first state; changed. Depths are respected.
        links, table: as for the walk.
        then: scratch, as long as the three together.
        least: filled with the depth of each FIFO that the order makes use of.
        order: filled with the row of the stage that fires, for each firing.
        parts: filled with (first, last, repeats) of stretches of `order`, shape (n, 3).

    Returns:
        STUCK (no stage can fire as a whole, its start and end at once), FULL (`order` is too short) or ORDERED; the
        length of the order; the number of parts.
    """
    last_stage = np.uint64(stages.size) // at.STAGE_WORDS - ONE
    stage, lowest = last_stage, ZERO
    used = part = first = then_used = 0
    seen, next_note = 0, 1
    _note(stages, edges, ports, then)
    while True:
        fires = _fireable(stages, edges, ports, links, stage) and _wanted(stages, edges, links, stage)
        if not fires and stage > lowest:
            stage -= ONE
            continue
        while lowest <= last_stage and (
            stages[lowest * at.STAGE_WORDS + at.FIRED] == stages[lowest * at.STAGE_WORDS + at.FIRINGS]
        ):
            lowest += ONE
        if lowest > last_stage:
            break
        if not fires:
            if stage < lowest:
                stage = last_stage
                continue
            stage = last_stage + ONE
            while stage > lowest and not fires:
                stage -= ONE
                fires = _fireable(stages, edges, ports, links, stage)
            if not fires:
                return STUCK, used, part
        if stage == lowest:
            if used > then_used:
                repeats = _repeats(stages, edges, ports, then)
                if repeats > ZERO and part + 3 < parts.shape[0]:
                    if then_used > first:
                        parts[part, 0], parts[part, 1], parts[part, 2] = first, then_used, 1
                        part += 1
                    parts[part, 0], parts[part, 1], parts[part, 2] = then_used, used, np.int64(repeats) + 1
                    part += 1
                    _repeat(stages, edges, then, repeats)
                    first = used
                    seen, next_note = 0, 1
                    _note(stages, edges, ports, then)
                    then_used = used
                    stage = last_stage
                    continue
            seen += 1
            if seen == next_note:
                seen, next_note = 0, 2 * next_note
                _note(stages, edges, ports, then)
                then_used = used
        if used == order.size:
            return FULL, used, part
        order[used] = np.uint32(stage * at.STAGE_WORDS)
        used += 1
        stage = _count_firing(stages, edges, ports, links, table, least, stage)
    if used > first:
        parts[part, 0], parts[part, 1], parts[part, 2] = first, used, 1
        part += 1
    return ORDERED, used, part
