"""The simulator's steady state: once all times have moved on alike, whole periods are skipped in one step.

What is to come depends on the times of stages, ports and slots relative to one another only. Where these come back to
what they were a number of periods before, everything since repeats itself, shifted. A time that can hold nobody up any
more (a slot free before its writer is, a token seen before its reader is free) counts as no time at all.
"""

from __future__ import annotations

import numpy as np

import kernels.sim_layout as at
from kernels.compiled import inlined
from kernels.sim_moves import LIMIT, ONE, ZERO, Word, Words


@inlined
def note(stages: Words, edges: Words, ports: Words, slots: Words, then: Words) -> None:
    """Copy the state to `then`, one array after another."""
    where = ZERO
    for words in (stages, edges, ports, slots):
        for i in range(np.uint64(words.size)):
            then[where] = words[i]
            where += ONE


@inlined
def _released(stages: Words, edges: Words, e: Word) -> Word:
    """Tokens given back on edge `e`, between firings."""
    if edges[e + at.GIVES_ONE]:
        return stages[edges[e + at.DST] * at.STAGE_WORDS + at.FIRED]
    return edges[e + at.RELEASED]


@inlined
def _ports_alike(stages: Words, ports: Words, links: Words, then: Words, old_ports: Word) -> bool:
    """Whether every port has moved on as its members have."""
    for p in range(ZERO, np.uint64(ports.size), at.PORT_WORDS):
        shift = ports[p + at.FREE_AT] - then[old_ports + p + at.FREE_AT]
        for i in range(ports[p + at.MEMBERS], ports[p + at.MEMBERS] + ports[p + at.MEMBER_COUNT]):
            s = links[i] * at.STAGE_WORDS
            if stages[s + at.FIRED] > then[s + at.FIRED] and stages[s + at.FREE] - then[s + at.FREE] != shift:
                return False
    return True


@inlined
def alike(stages: Words, edges: Words, ports: Words, slots: Words, links: Words, then: Words) -> bool:
    """Whether the state is the state `then`, all times moved on; the counts are known to have."""
    old_edges = np.uint64(stages.size)
    old_ports = old_edges + np.uint64(edges.size)
    old_slots = old_ports + np.uint64(ports.size)
    for s in range(ZERO, np.uint64(stages.size), at.STAGE_WORDS):
        if stages[s + at.SERVICE_PHASE] != then[s + at.SERVICE_PHASE]:
            return False
    for e in range(ZERO, np.uint64(edges.size), at.EDGE_WORDS):
        src, dst = edges[e + at.SRC] * at.STAGE_WORDS, edges[e + at.DST] * at.STAGE_WORDS
        pushed, pushed_then = stages[src + at.FIRED], then[src + at.FIRED]
        if pushed == pushed_then:
            continue
        writer, reader = stages[src + at.FREE], stages[dst + at.FREE]
        shift = writer - then[src + at.FREE]
        if reader - then[dst + at.FREE] != shift:
            return False
        base, mask = edges[e + at.SLOTS], edges[e + at.MASK]
        given_back = _released(stages, edges, e)
        for back in range(ONE, min(edges[e + at.DEPTH], pushed) + ONE):
            bound = writer if pushed - back < given_back else reader
            time = max(bound, slots[base + ((pushed - back) & mask)])
            before = bound - shift
            if back <= pushed_then:
                before = max(before, then[old_slots + base + ((pushed_then - back) & mask)])
            if time - shift != before:
                return False
    return bool(_ports_alike(stages, ports, links, then, old_ports))


@inlined
def skip(stages: Words, edges: Words, ports: Words, slots: Words, then: Words, times: Word) -> bool:
    """Move the state on by `times` times what has changed since `then`; False where a time would pass the limit."""
    old_edges = np.uint64(stages.size)
    old_ports = old_edges + np.uint64(edges.size)
    old_slots = old_ports + np.uint64(ports.size)
    for s in range(ZERO, np.uint64(stages.size), at.STAGE_WORDS):
        shift = stages[s + at.FREE] - then[s + at.FREE]
        if shift and times > (LIMIT - stages[s + at.FREE]) // shift:
            return False
    for e in range(ZERO, np.uint64(edges.size), at.EDGE_WORDS):
        src = edges[e + at.SRC] * at.STAGE_WORDS
        base, mask, pushed = edges[e + at.SLOTS], edges[e + at.MASK], stages[src + at.FIRED]
        moved, shift = times * (pushed - then[src + at.FIRED]), times * (stages[src + at.FREE] - then[src + at.FREE])
        if moved:
            for i in range(base, base + mask + ONE):
                then[old_slots + i] = slots[i]
            for back in range(ONE, min(mask + ONE, pushed) + ONE):
                slots[base + ((pushed + moved - back) & mask)] = (
                    then[old_slots + base + ((pushed - back) & mask)] + shift
                )
        for field in (
            at.PUSHED,
            at.RELEASED,
            at.NEEDED,
            at.NEED,
            at.NEED_BASE,
            at.REL_BASE,
            at.NEED_LEFT,
            at.REL_LEFT,
        ):
            edges[e + field] += times * (edges[e + field] - then[old_edges + e + field])
    for s in range(ZERO, np.uint64(stages.size), at.STAGE_WORDS):
        for field in (at.FIRED, at.FREE, at.BLOCKED, at.WAITED):
            stages[s + field] += times * (stages[s + field] - then[s + field])
    for p in range(ZERO, np.uint64(ports.size), at.PORT_WORDS):
        ports[p + at.FREE_AT] += times * (ports[p + at.FREE_AT] - then[old_ports + p + at.FREE_AT])
    return True
