"""The simulator's walk: each stage is carried on as far as its FIFOs allow, until no stage moves.

The times obey (max,+) equations, so they do not depend on the order in which they are found. Only a port with priority
asks who comes first: it is granted when all else stands still, at the earliest request anywhere, since whatever is not
known by then happens later.
"""

from __future__ import annotations

import numpy as np

import kernels.sim_layout as at
from kernels.compiled import entry, inlined
from kernels.sim_moves import ONE, ZERO, Flags, Words, end, start


@inlined
def _sweep(
    stages: Words,
    edges: Words,
    ports: Words,
    slots: Words,
    links: Words,
    table: Words,
    starts: Words,
    ends: Words,
    dirty: Flags,
) -> int:
    """Carry every stage that may move as far as it goes. Returns STILL, MOVED or OVERFLOW."""
    result = at.STILL
    for stage in range(np.uint64(dirty.size)):
        if not dirty[stage]:
            continue
        dirty[stage] = 0
        s = stage * at.STAGE_WORDS
        while stages[s + at.FIRED] < stages[s + at.FIRINGS]:
            where = stages[s + at.HISTORY] + stages[s + at.FIRED] * stages[s + at.HISTORY_STRIDE]
            if not stages[s + at.AT_WORK]:
                if not start(stages, edges, ports, slots, links, table, dirty, stage):
                    break
                result = at.MOVED
                if starts.size:
                    starts[where] = stages[s + at.START]
            outcome = end(stages, edges, slots, links, table, dirty, stage)
            if outcome == at.OVERFLOW:
                return at.OVERFLOW
            if outcome == at.STILL:
                break
            result = at.MOVED
            if ends.size:
                ends[where] = stages[s + at.FREE]
    return result


@inlined
def _grant(stages: Words, ports: Words, links: Words, dirty: Flags) -> bool:
    """Grant the port with priority that is asked for earliest; False if none is."""
    earliest, winner = ~ZERO, ~ZERO
    for p in range(ZERO, np.uint64(ports.size), at.PORT_WORDS):
        if not ports[p + at.PRIORITY]:
            continue
        members = range(ports[p + at.MEMBERS], ports[p + at.MEMBERS] + ports[p + at.MEMBER_COUNT])
        cycle = ~ZERO
        for i in members:
            asked = stages[links[i] * at.STAGE_WORDS + at.ASKED]
            if asked:
                cycle = min(cycle, asked - ONE)
        if cycle == ~ZERO:
            continue
        cycle = max(cycle, ports[p + at.FREE_AT])
        if cycle < earliest:
            earliest = cycle
            for i in members:
                asked = stages[links[i] * at.STAGE_WORDS + at.ASKED]
                if asked and asked - ONE <= cycle:
                    winner = links[i]
                    break
    if winner == ~ZERO:
        return False
    stages[winner * at.STAGE_WORDS + at.GRANTED] = earliest + ONE
    dirty[winner] = 1
    return True


_WORDS = "uint64[::1]"


@entry(f"int64({', '.join([_WORDS] * 8)}, uint8[::1])", family="sim_")
def walk(
    stages: Words,
    edges: Words,
    ports: Words,
    slots: Words,
    links: Words,
    table: Words,
    starts: Words,
    ends: Words,
    dirty: Flags,
) -> int:
    """Run a pipeline laid out as in `sim_layout` until nothing can happen.

    Args:
        stages, edges, ports: rows; left as they stand at the end.
        slots: for each edge, a ring with one word a slot: when the token in it is seen, or, once it is given back,
            when the slot may be written.
        links: who is joined to whom.
        table: the periods of all patterns.
        starts, ends: filled with the times of each firing; of length 0 if they are not wanted.
        dirty: one flag a stage, set where it may move.

    Returns:
        STILL, or OVERFLOW where a cycle count passes 2^61.
    """
    while True:
        outcome = _sweep(stages, edges, ports, slots, links, table, starts, ends, dirty)
        if outcome == at.OVERFLOW:
            return at.OVERFLOW
        if outcome == at.STILL and not _grant(stages, ports, links, dirty):
            return at.STILL
