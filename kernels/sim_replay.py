"""The simulator's quick way: firings in an order known beforehand, so that none has to ask whether it may happen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import kernels.sim_layout as at
from kernels.compiled import entry, inlined
from kernels.sim_moves import ONE, ZERO, Flags, Word, Words, end, give_back, seen, start, take
from kernels.sim_steady import alike, note, skip

TWO = np.uint64(2)


@inlined
def _run_of_lines(
    stages: Words, edges: Words, slots: Words, table: Words, starts: Words, ends: Words, s: Word, length: Word
) -> None:
    """Fire stages of kind LINE, `length` one behind the other from row `s` on; a token goes through them all."""
    history = starts.size > 0
    k = stages[s + at.FIRED]
    i = stages[s + at.ONLY_INPUT]
    here = edges[i + at.SLOTS] + (k & edges[i + at.MASK])
    arrival = slots[here]
    edges[i + at.RELEASED] = k + ONE
    for _ in range(length):
        begun = max(stages[s + at.FREE], arrival)
        slots[here] = begun + ONE
        phase = stages[s + at.SERVICE_PHASE]
        done = begun + table[stages[s + at.SERVICE] + phase]
        phase += stages[s + at.SERVICE_STRIDE]
        stages[s + at.SERVICE_PHASE] = ZERO if phase == stages[s + at.SERVICE_PERIOD] else phase
        i = stages[s + at.ONLY_OUTPUT]
        base, mask, peak = edges[i + at.SLOTS], edges[i + at.MASK], edges[i + at.PEAK]
        ended = max(done, slots[base + ((k - edges[i + at.DEPTH]) & mask)])
        stages[s + at.BLOCKED] += ended - done
        if k >= peak and slots[base + ((k - peak) & mask)] > ended + ONE:
            edges[i + at.PEAK] = peak + ONE
        here = base + (k & mask)
        arrival = ended + edges[i + at.LATENCY]
        stages[s + at.FREE] = ended
        stages[s + at.FIRED] = k + ONE
        if history:
            where = stages[s + at.HISTORY] + k
            starts[where] = begun
            ends[where] = ended
        s += at.STAGE_WORDS
    slots[here] = arrival
    edges[i + at.PUSHED] = k + ONE


@inlined
def _slot(edges: Words, e: Word, k: Word) -> Word:
    """Where token `k` of edge `e` is."""
    return edges[e + at.SLOTS] + (k & edges[e + at.MASK])


@inlined
def _fill(edges: Words, slots: Words, e: Word, k: Word, cycle: Word) -> None:
    """Write token `k` to edge `e`, single, in `cycle`."""
    base, mask, peak = edges[e + at.SLOTS], edges[e + at.MASK], edges[e + at.PEAK]
    if k >= peak and slots[base + ((k - peak) & mask)] > cycle + ONE:
        edges[e + at.PEAK] = peak + ONE
    slots[base + (k & mask)] = cycle + edges[e + at.LATENCY]


@inlined
def _quick(stages: Words, edges: Words, slots: Words, links: Words, table: Words, s: Word) -> Word:
    """Fire a stage of kind QUICK; its start."""
    k = stages[s + at.FIRED]
    inputs, outputs = stages[s + at.INPUTS], stages[s + at.OUTPUTS]
    two_in, outs = stages[s + at.INPUT_COUNT] > ONE, stages[s + at.OUTPUT_COUNT]
    here = _slot(edges, links[inputs], k)
    begun = max(stages[s + at.FREE], slots[here])
    if two_in:
        there = _slot(edges, links[inputs + ONE], k)
        begun = max(begun, slots[there])
        slots[there] = begun + ONE
    slots[here] = begun + ONE
    phase = stages[s + at.SERVICE_PHASE]
    done = begun + table[stages[s + at.SERVICE] + phase]
    phase += stages[s + at.SERVICE_STRIDE]
    stages[s + at.SERVICE_PHASE] = ZERO if phase == stages[s + at.SERVICE_PERIOD] else phase
    first = links[outputs]
    ended = max(done, slots[_slot(edges, first, k - edges[first + at.DEPTH])])
    if outs > ONE:
        second = links[outputs + ONE]
        third = links[outputs + outs - ONE]
        ended = max(ended, slots[_slot(edges, second, k - edges[second + at.DEPTH])])
        ended = max(ended, slots[_slot(edges, third, k - edges[third + at.DEPTH])])
        _fill(edges, slots, second, k, ended)
        if outs > TWO:
            _fill(edges, slots, third, k, ended)
    _fill(edges, slots, first, k, ended)
    stages[s + at.BLOCKED] += ended - done
    stages[s + at.FREE] = ended
    stages[s + at.FIRED] = k + ONE
    return begun


@inlined
def _plain(stages: Words, edges: Words, slots: Words, links: Words, table: Words, dirty: Flags, s: Word) -> Word:
    """Fire a stage of kind PLAIN; its start."""
    k = stages[s + at.FIRED]
    first_in, last_in = stages[s + at.INPUTS], stages[s + at.INPUTS] + stages[s + at.INPUT_COUNT]
    first_out, last_out = stages[s + at.OUTPUTS], stages[s + at.OUTPUTS] + stages[s + at.OUTPUT_COUNT]
    begun = stages[s + at.FREE]
    for i in range(first_in, last_in):
        e = links[i]
        if edges[e + at.TAKES_ONE]:
            begun = max(begun, slots[edges[e + at.SLOTS] + (k & edges[e + at.MASK])])
        elif edges[e + at.NEED] > edges[e + at.NEEDED]:
            begun = max(begun, seen(edges, slots, e))
    phase = stages[s + at.SERVICE_PHASE]
    done = begun + table[stages[s + at.SERVICE] + phase]
    phase += stages[s + at.SERVICE_STRIDE]
    stages[s + at.SERVICE_PHASE] = ZERO if phase == stages[s + at.SERVICE_PERIOD] else phase
    ended = done
    for i in range(first_out, last_out):
        e = links[i]
        ended = max(ended, slots[edges[e + at.SLOTS] + ((k - edges[e + at.DEPTH]) & edges[e + at.MASK])])
    stages[s + at.BLOCKED] += ended - done
    for i in range(first_in, last_in):
        e = links[i]
        if not edges[e + at.TAKES_ONE]:
            take(edges, table, e)
        given = ended if edges[e + at.AT_END] else begun
        if edges[e + at.GIVES_ONE]:
            base, mask = edges[e + at.SLOTS], edges[e + at.MASK]
            peak, before = edges[e + at.PEAK], given + edges[e + at.LATENCY]
            while k + peak < edges[e + at.PUSHED] and slots[base + ((k + peak) & mask)] < before:
                peak += ONE
                edges[e + at.PEAK] = peak
            slots[base + (k & mask)] = given + ONE
            edges[e + at.RELEASED] = k + ONE
        else:
            give_back(edges, slots, table, dirty, e, given)
    for i in range(first_out, last_out):
        e = links[i]
        base, mask, peak = edges[e + at.SLOTS], edges[e + at.MASK], edges[e + at.PEAK]
        known = edges[e + at.RELEASED] | (edges[e + at.SINGLE] * k)
        while k >= peak and k - peak < known and slots[base + ((k - peak) & mask)] > ended + ONE:
            peak += ONE
            edges[e + at.PEAK] = peak
        slots[base + (k & mask)] = ended + edges[e + at.LATENCY]
        edges[e + at.PUSHED] = k + ONE
    stages[s + at.FREE] = ended
    stages[s + at.FIRED] = k + ONE
    return begun


@inlined
def _settle(stages: Words, edges: Words) -> None:
    """Bring the counts of edges up to date that the quick ways have left behind."""
    for e in range(ZERO, np.uint64(edges.size), at.EDGE_WORDS):
        taken = stages[edges[e + at.DST] * at.STAGE_WORDS + at.FIRED]
        edges[e + at.PUSHED] = stages[edges[e + at.SRC] * at.STAGE_WORDS + at.FIRED]
        if edges[e + at.TAKES_ONE]:
            edges[e + at.NEEDED] = edges[e + at.NEED_BASE] = taken
            edges[e + at.NEED] = taken + ONE
        if edges[e + at.GIVES_ONE]:
            edges[e + at.RELEASED] = edges[e + at.REL_BASE] = taken


@inlined
def _between_looks(edges: Words, firings: Word) -> Word:
    """Periods of so many firings to let pass from one look at all slots to the next, lest looking costs more."""
    words = ZERO
    for e in range(ZERO, np.uint64(edges.size), at.EDGE_WORDS):
        words += edges[e + at.DEPTH]
    return ONE + words // (np.uint64(8) * firings)


_WORDS = "uint64[::1]"


@entry(
    f"int64({', '.join([_WORDS] * 8)}, uint8[::1], uint32[::1], uint32[::1], int64[:, ::1], {_WORDS})", family="sim_"
)
def replay(
    stages: Words,
    edges: Words,
    ports: Words,
    slots: Words,
    links: Words,
    table: Words,
    starts: Words,
    ends: Words,
    dirty: Flags,
    rows: NDArray[np.uint32],
    lengths: NDArray[np.uint32],
    parts: NDArray[np.int64],
    then: Words,
) -> int:
    """Run a pipeline whose order of firings is known; see `sim_walk.walk` for what is not told here.

    Args:
        rows, lengths: stage rows in the order in which they fire; for stages of kind LINE, how many of them in a row.
        parts: (first, last, repeats) of stretches of `rows`, shape (n, 3).
        then: scratch as long as stages, edges, ports and slots together, for finding the steady state and skipping
            what repeats itself; of length 0 if every firing is to be gone through.
    """
    history = starts.size > 0
    for part in range(parts.shape[0]):
        first, last, repeats = np.uint64(parts[part, 0]), np.uint64(parts[part, 1]), np.uint64(parts[part, 2])
        done = since = next_note = ZERO
        looks = then.size > 0 and repeats > ONE
        every = _between_looks(edges, last - first)
        while done < repeats:
            if looks and since % every == ZERO:
                if since > ZERO and alike(stages, edges, ports, slots, links, then):
                    times = (repeats - done) // since
                    if not skip(stages, edges, ports, slots, then, times):
                        return at.OVERFLOW
                    done += times * since
                    looks = False
                    continue
                if since >= next_note:
                    note(stages, edges, ports, slots, then)
                    next_note = since + max(since, every)
                    since = ZERO
            for x in range(first, last):
                s = np.uint64(rows[x])
                kind = stages[s + at.KIND]
                if kind & at.LINE:
                    _run_of_lines(stages, edges, slots, table, starts, ends, s, np.uint64(lengths[x]))
                    continue
                if kind & at.QUICK:
                    begun = _quick(stages, edges, slots, links, table, s)
                elif kind & at.PLAIN:
                    begun = _plain(stages, edges, slots, links, table, dirty, s)
                else:
                    stage = s // at.STAGE_WORDS
                    start(stages, edges, ports, slots, links, table, dirty, stage)
                    begun = stages[s + at.START]
                    if end(stages, edges, slots, links, table, dirty, stage) == at.OVERFLOW:
                        return at.OVERFLOW
                if history:
                    where = stages[s + at.HISTORY] + stages[s + at.FIRED] - ONE
                    starts[where] = begun
                    ends[where] = stages[s + at.FREE]
            done += ONE
            since += ONE
    _settle(stages, edges)
    return at.STILL
