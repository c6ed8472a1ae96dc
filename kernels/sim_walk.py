"""The simulator's walk: each stage is carried on as far as its FIFOs allow, until no stage moves.

The times obey (max,+) equations, so they do not depend on the order in which they are found. Only a port with priority
asks who comes first: it is granted when all else stands still, at the earliest request anywhere, since whatever is not
known by then happens later.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

import kernels.sim_layout as at

Words = NDArray[np.uint64]
Flags = NDArray[np.uint8]
Word = Any  # a np.uint64; mypy takes the numbers of a range for int
ZERO, ONE = np.uint64(0), np.uint64(1)
LIMIT = np.uint64(2**61)  # of a cycle count


@njit()
def _seen(edges: Words, slots: Words, e: Word) -> Word:
    """When the consumer's next firing sees the last token it needs on edge `e`."""
    return slots[edges[e + at.SLOTS] + ((edges[e + at.NEED] - ONE) & edges[e + at.MASK])]


@njit()
def _has_room(edges: Words, e: Word, k: Word) -> bool:
    """Whether it is known when token `k` finds room on edge `e`."""
    return bool(k < edges[e + at.RELEASED] + edges[e + at.DEPTH])


@njit()
def _room(edges: Words, slots: Words, e: Word, k: Word) -> Word:
    """The first cycle in which token `k` finds room on edge `e`."""
    depth = edges[e + at.DEPTH]
    if k < depth:
        return ZERO
    return slots[edges[e + at.SLOTS] + ((k - depth) & edges[e + at.MASK])]


@njit()
def _push(edges: Words, slots: Words, dirty: Flags, e: Word, k: Word, cycle: Word) -> None:
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


@njit()
def _take(edges: Words, table: Words, e: Word) -> None:
    """The consumer's next firing takes what it needs from edge `e`: on to the need of the firing after."""
    phase = edges[e + at.NEED_PHASE] + ONE
    if phase == edges[e + at.NEED_PERIOD]:
        phase = ZERO
        edges[e + at.NEED_BASE] += edges[e + at.NEED_STEP]
    edges[e + at.NEED_PHASE] = phase
    edges[e + at.NEEDED] = edges[e + at.NEED]
    edges[e + at.NEED] = table[edges[e + at.NEED_AT] + phase] + edges[e + at.NEED_BASE]


@njit()
def _give_back(edges: Words, slots: Words, table: Words, dirty: Flags, e: Word, cycle: Word) -> None:
    """The consumer's firing gives back its slots of edge `e` in `cycle`."""
    phase = edges[e + at.REL_PHASE]
    given = table[edges[e + at.REL_AT] + phase] + edges[e + at.REL_BASE]
    phase += ONE
    if phase == edges[e + at.REL_PERIOD]:
        phase = ZERO
        edges[e + at.REL_BASE] += edges[e + at.REL_STEP]
    edges[e + at.REL_PHASE] = phase
    token = edges[e + at.RELEASED]
    if given > token:
        base, mask = edges[e + at.SLOTS], edges[e + at.MASK]
        peak, pushed = edges[e + at.PEAK], edges[e + at.PUSHED]
        before = cycle + edges[e + at.LATENCY]
        while token + peak < pushed and slots[base + ((token + peak) & mask)] < before:
            peak += ONE
        edges[e + at.PEAK] = peak
        while token < given:
            slots[base + (token & mask)] = cycle + ONE
            token += ONE
        if pushed == edges[e + at.RELEASED] + edges[e + at.DEPTH]:
            dirty[edges[e + at.SRC]] = 1  # it was full: the producer may wait for room
        edges[e + at.RELEASED] = given


@njit()
def _hold(stages: Words, ports: Words, links: Words, dirty: Flags, s: Word, cycle: Word) -> None:
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


@njit()
def _start(
    stages: Words,
    edges: Words,
    ports: Words,
    slots: Words,
    links: Words,
    table: Words,
    dirty: Flags,
    stage: Word,
    half: bool,
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
            cycle = max(cycle, _seen(edges, slots, e))
    if kind & at.BBS != ZERO or not half:
        for i in range(first_out, last_out):
            if not _has_room(edges, links[i], k):
                return False
    wait = ZERO
    if kind & at.BBS != ZERO:
        ready = cycle
        for i in range(first_out, last_out):
            cycle = max(cycle, _room(edges, slots, links[i], k))
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
        _take(edges, table, e)
        if not edges[e + at.AT_END]:
            _give_back(edges, slots, table, dirty, e, cycle)
    if kind & at.PORT:
        service = table[stages[s + at.SERVICE] + stages[s + at.SERVICE_PHASE]]
        _hold(stages, ports, links, dirty, s, cycle + service)
    return True


@njit()
def _end(stages: Words, edges: Words, slots: Words, links: Words, table: Words, dirty: Flags, stage: Word) -> int:
    """End the firing at work in a stage if it is known when. Returns STILL, MOVED or OVERFLOW."""
    s = stage * at.STAGE_WORDS
    k = stages[s + at.FIRED]
    first_out, last_out = stages[s + at.OUTPUTS], stages[s + at.OUTPUTS] + stages[s + at.OUTPUT_COUNT]
    done = stages[s + at.START] + table[stages[s + at.SERVICE] + stages[s + at.SERVICE_PHASE]]
    if done > LIMIT:
        return at.OVERFLOW
    end = done
    if stages[s + at.KIND] & at.EAGER:
        end = max(end, stages[s + at.PUSHED_LAST])
        waits = False
        for i in range(first_out, last_out):
            e = links[i]
            if edges[e + at.PUSHED] == k:
                if _has_room(edges, e, k):
                    cycle = max(done, _room(edges, slots, e, k))
                    _push(edges, slots, dirty, e, k, cycle)
                    end = max(end, cycle)
                else:
                    waits = True
        stages[s + at.PUSHED_LAST] = end
        if waits:
            return at.STILL
    else:
        for i in range(first_out, last_out):
            if not _has_room(edges, links[i], k):
                return at.STILL
        for i in range(first_out, last_out):
            end = max(end, _room(edges, slots, links[i], k))
        for i in range(first_out, last_out):
            _push(edges, slots, dirty, links[i], k, end)
    for i in range(stages[s + at.INPUTS], stages[s + at.INPUTS] + stages[s + at.INPUT_COUNT]):
        e = links[i]
        if edges[e + at.AT_END]:
            _give_back(edges, slots, table, dirty, e, end)
    phase = stages[s + at.SERVICE_PHASE] + ONE
    stages[s + at.SERVICE_PHASE] = ZERO if phase == stages[s + at.SERVICE_PERIOD] else phase
    stages[s + at.BLOCKED] += end - done
    stages[s + at.FREE] = end
    stages[s + at.AT_WORK] = ZERO
    stages[s + at.FIRED] = k + ONE
    return at.MOVED


@njit()
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
    half: bool,
) -> int:
    """Carry every stage that may move as far as it goes. Returns STILL, MOVED or OVERFLOW."""
    result = at.STILL
    for stage in range(np.uint64(dirty.size)):
        if not dirty[stage]:
            continue
        dirty[stage] = 0
        s = stage * at.STAGE_WORDS
        while stages[s + at.FIRED] < stages[s + at.FIRINGS]:
            where = stages[s + at.HISTORY] + stages[s + at.FIRED]
            if not stages[s + at.AT_WORK]:
                if not _start(stages, edges, ports, slots, links, table, dirty, stage, half):
                    break
                result = at.MOVED
                if starts.size:
                    starts[where] = stages[s + at.START]
            outcome = _end(stages, edges, slots, links, table, dirty, stage)
            if outcome == at.OVERFLOW:
                return at.OVERFLOW
            if outcome == at.STILL:
                break
            result = at.MOVED
            if ends.size:
                ends[where] = stages[s + at.FREE]
    return result


@njit()
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


@njit(f"int64({', '.join([_WORDS] * 8)}, uint8[::1])", cache=True, nogil=True, error_model="numpy")
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
        outcome = _sweep(stages, edges, ports, slots, links, table, starts, ends, dirty, True)
        if outcome == at.OVERFLOW:
            return at.OVERFLOW
        if outcome == at.STILL and not _grant(stages, ports, links, dirty):
            return at.STILL
