"""What a stage does in the simulator: start a firing, end it; with the FIFOs and ports it touches.

A move is made as soon as it is known when it happens, which says nothing about when other stages move.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import kernels.sim_layout as at
from kernels.compiled import inlined

Words = NDArray[np.uint64]
Flags = NDArray[np.uint8]
Word = Any  # a np.uint64; mypy takes the numbers of a range for int
ZERO, ONE = np.uint64(0), np.uint64(1)
LIMIT = np.uint64(2**61)  # of a cycle count


@inlined
def serve(stages: Words, table: Words, s: Word) -> Word:
    """The service time of the stage's next firing; on to the one after."""
    place = stages[s + at.SERVICE_AT]
    service = table[place]
    place += stages[s + at.SERVICE_STRIDE]
    stages[s + at.SERVICE_AT] = stages[s + at.SERVICE] if place == stages[s + at.SERVICE_END] else place
    return service


@inlined
def seen(edges: Words, slots: Words, e: Word) -> Word:
    """When the consumer's next firing sees the last token it needs on edge `e`."""
    return slots[edges[e + at.SLOTS] + ((edges[e + at.NEED] - ONE) & edges[e + at.MASK])]


@inlined
def has_room(edges: Words, e: Word, k: Word) -> bool:
    """Whether it is known when token `k` finds room on edge `e`."""
    return bool(k < edges[e + at.RELEASED] + edges[e + at.DEPTH])


@inlined
def room(edges: Words, slots: Words, e: Word, k: Word) -> Word:
    """The first cycle in which token `k` finds room on edge `e`."""
    depth = edges[e + at.DEPTH]
    if k < depth:
        return ZERO
    return slots[edges[e + at.SLOTS] + ((k - depth) & edges[e + at.MASK])]


@inlined
def push(edges: Words, slots: Words, dirty: Flags, e: Word, k: Word, cycle: Word) -> None:
    """Write token `k` to edge `e` in `cycle`."""
    base, mask = edges[e + at.SLOTS], edges[e + at.MASK]
    peak, released = edges[e + at.PEAK], edges[e + at.RELEASED]
    while k >= peak and k - peak < released and slots[base + ((k - peak) & mask)] > cycle + ONE:
        peak += ONE
    edges[e + at.PEAK] = peak
    slots[base + (k & mask)] = cycle + edges[e + at.LATENCY]
    edges[e + at.PUSHED] = k + ONE
    if k + ONE >= edges[e + at.NEED]:
        dirty[edges[e + at.DST]] = 1


@inlined
def take(edges: Words, table: Words, e: Word) -> None:
    """The consumer's next firing takes what it needs from edge `e`: on to the need of the firing after."""
    phase = edges[e + at.NEED_PHASE] + ONE
    if phase == edges[e + at.NEED_LAST] and edges[e + at.NEED_LEFT]:
        phase = edges[e + at.NEED_FIRST]
        edges[e + at.NEED_LEFT] -= ONE
        edges[e + at.NEED_BASE] += edges[e + at.NEED_STEP]
    edges[e + at.NEED_PHASE] = phase
    edges[e + at.NEEDED] = edges[e + at.NEED]
    edges[e + at.NEED] = table[edges[e + at.NEED_AT] + phase] + edges[e + at.NEED_BASE]


@inlined
def given_back(edges: Words, table: Words, e: Word) -> Word:
    """Tokens of edge `e` given back in all once the consumer's next firing has; on to the firing after."""
    phase = edges[e + at.REL_PHASE]
    given = table[edges[e + at.REL_AT] + phase] + edges[e + at.REL_BASE]
    phase += ONE
    if phase == edges[e + at.REL_LAST] and edges[e + at.REL_LEFT]:
        phase = edges[e + at.REL_FIRST]
        edges[e + at.REL_LEFT] -= ONE
        edges[e + at.REL_BASE] += edges[e + at.REL_STEP]
    edges[e + at.REL_PHASE] = phase
    return given


@inlined
def give_slots_back(edges: Words, slots: Words, table: Words, e: Word, cycle: Word) -> None:
    """The consumer's next firing gives back its slots of edge `e` in `cycle`."""
    base, mask, peak = edges[e + at.SLOTS], edges[e + at.MASK], edges[e + at.PEAK]
    token, given = edges[e + at.RELEASED], given_back(edges, table, e)
    if token == given:
        return
    pushed, before = edges[e + at.PUSHED], cycle + edges[e + at.LATENCY]
    while token + peak < pushed and slots[base + ((token + peak) & mask)] < before:
        peak += ONE
        edges[e + at.PEAK] = peak
    while token < given:
        slots[base + (token & mask)] = cycle + ONE
        token += ONE
    edges[e + at.RELEASED] = given


@inlined
def give_back(edges: Words, slots: Words, table: Words, dirty: Flags, e: Word, cycle: Word) -> None:
    """The same, and tell the producer if it may have waited for room."""
    before = edges[e + at.RELEASED]
    give_slots_back(edges, slots, table, e, cycle)
    if edges[e + at.RELEASED] > before and edges[e + at.PUSHED] == before + edges[e + at.DEPTH]:
        dirty[edges[e + at.SRC]] = 1


@inlined
def hold(stages: Words, ports: Words, links: Words, dirty: Flags, s: Word, cycle: Word) -> None:
    """The stage at row `s` holds its ports until `cycle`; rotating ones go to the next in order then."""
    if stages[s + at.PRIORITY_PORT]:
        ports[stages[s + at.PRIORITY_PORT] - ONE + at.FREE_AT] = cycle
    for i in range(stages[s + at.PORTS], stages[s + at.PORTS] + stages[s + at.PORT_COUNT]):
        p = links[i]
        ports[p + at.FREE_AT] = cycle
        members, count, turn = ports[p + at.MEMBERS], ports[p + at.MEMBER_COUNT], ports[p + at.TURN]
        for _ in range(count):
            turn += ONE
            if turn == count:
                turn = ZERO
            other = links[members + turn]
            row = other * at.STAGE_WORDS
            left = stages[row + at.FIRINGS] - stages[row + at.FIRED]
            if left > stages[row + at.AT_WORK]:
                dirty[other] = 1
                break
        ports[p + at.TURN] = turn


@inlined
def start(
    stages: Words,
    edges: Words,
    ports: Words,
    slots: Words,
    links: Words,
    table: Words,
    dirty: Flags,
    stage: Word,
) -> bool:
    """Start the next firing of a stage if it is known when; True if it did."""
    s = stage * at.STAGE_WORDS
    k = stages[s + at.FIRED]
    cycle = stages[s + at.FREE]
    first_in, last_in = stages[s + at.INPUTS], stages[s + at.INPUTS] + stages[s + at.INPUT_COUNT]
    first_out, last_out = stages[s + at.OUTPUTS], stages[s + at.OUTPUTS] + stages[s + at.OUTPUT_COUNT]
    kind = stages[s + at.KIND]
    for i in range(first_in, last_in):
        e = links[i]
        if edges[e + at.PUSHED] < edges[e + at.NEED]:
            return False
        if edges[e + at.NEED] > edges[e + at.NEEDED]:
            cycle = max(cycle, seen(edges, slots, e))
    wait = ZERO
    if kind & at.BBS:
        ready = cycle
        for i in range(first_out, last_out):
            if not has_room(edges, links[i], k):
                return False
        for i in range(first_out, last_out):
            cycle = max(cycle, room(edges, slots, links[i], k))
        wait = cycle - ready
    if kind & at.PORT:
        ready = cycle
        for i in range(stages[s + at.PORTS], stages[s + at.PORTS] + stages[s + at.PORT_COUNT]):
            p = links[i]
            if links[ports[p + at.MEMBERS] + ports[p + at.TURN]] != stage:
                return False
            cycle = max(cycle, ports[p + at.FREE_AT])
        if stages[s + at.PRIORITY_PORT]:
            if not stages[s + at.GRANTED]:
                stages[s + at.ASKED] = cycle + ONE
                return False
            cycle = stages[s + at.GRANTED] - ONE
            stages[s + at.GRANTED] = stages[s + at.ASKED] = ZERO
        stages[s + at.WAITED] += cycle - ready
    stages[s + at.BLOCKED] += wait
    stages[s + at.START] = cycle
    stages[s + at.AT_WORK] = ONE
    for i in range(first_in, last_in):
        e = links[i]
        take(edges, table, e)
        if not edges[e + at.AT_END]:
            give_back(edges, slots, table, dirty, e, cycle)
    if kind & at.PORT:
        hold(stages, ports, links, dirty, s, cycle + table[stages[s + at.SERVICE_AT]])
    return True


@inlined
def end(stages: Words, edges: Words, slots: Words, links: Words, table: Words, dirty: Flags, stage: Word) -> int:
    """End the firing at work in a stage if it is known when. Returns STILL, MOVED or OVERFLOW."""
    s = stage * at.STAGE_WORDS
    k = stages[s + at.FIRED]
    first_out, last_out = stages[s + at.OUTPUTS], stages[s + at.OUTPUTS] + stages[s + at.OUTPUT_COUNT]
    done = stages[s + at.START] + table[stages[s + at.SERVICE_AT]]
    if done > LIMIT:
        return at.OVERFLOW
    end = done
    if stages[s + at.KIND] & at.EAGER:
        end = max(end, stages[s + at.PUSHED_LAST])
        waits = False
        for i in range(first_out, last_out):
            e = links[i]
            if edges[e + at.PUSHED] == k:
                if has_room(edges, e, k):
                    cycle = max(done, room(edges, slots, e, k))
                    push(edges, slots, dirty, e, k, cycle)
                    end = max(end, cycle)
                else:
                    waits = True
        stages[s + at.PUSHED_LAST] = end
        if waits:
            return at.STILL
    else:
        for i in range(first_out, last_out):
            if not has_room(edges, links[i], k):
                return at.STILL
        for i in range(first_out, last_out):
            end = max(end, room(edges, slots, links[i], k))
        for i in range(first_out, last_out):
            push(edges, slots, dirty, links[i], k, end)
    for i in range(stages[s + at.INPUTS], stages[s + at.INPUTS] + stages[s + at.INPUT_COUNT]):
        e = links[i]
        if edges[e + at.AT_END]:
            give_back(edges, slots, table, dirty, e, end)
    serve(stages, table, s)
    stages[s + at.BLOCKED] += end - done
    stages[s + at.FREE] = end
    stages[s + at.AT_WORK] = ZERO
    stages[s + at.FIRED] = k + ONE
    return at.MOVED
