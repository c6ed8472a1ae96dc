"""The simulator's quick way: firings in an order known beforehand, so that none has to ask whether it may happen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import kernels.sim_layout as at
from kernels.compiled import entry, inlined
from kernels.sim_moves import ONE, ZERO, Flags, Word, Words, end, give_slots_back, seen, serve, start, take
from kernels.sim_steady import EDGES, PORTS, alike, note, skip

TWO = np.uint64(2)


@inlined
def _run_of_lines(
    stages: Words, edges: Words, slots: Words, table: Words, starts: Words, ends: Words, s: Word, length: Word
) -> None:
    """Fire stages of kind LINE, `length` one behind the other from row `s` on; a token goes through them all."""
    history = starts.size > 0
    k = stages[s + at.FIRED]
    along = k * stages[s + at.HISTORY_STRIDE]
    here = _slot(edges, stages[s + at.IN_1], k)
    arrival = slots[here]
    for _ in range(length):
        begun = max(stages[s + at.FREE], arrival)
        slots[here] = begun + ONE
        done = begun + serve(stages, table, s)
        e = stages[s + at.OUT_1]
        base, mask = edges[e + at.SLOTS], edges[e + at.MASK]
        ended = max(done, slots[base + ((k - edges[e + at.DEPTH]) & mask)])
        stages[s + at.BLOCKED] += ended - done
        _rise(edges, slots, e, k, ended)
        here = base + (k & mask)
        arrival = ended + edges[e + at.LATENCY]
        stages[s + at.FREE] = ended
        stages[s + at.FIRED] = k + ONE
        if history:
            where = stages[s + at.HISTORY] + along
            starts[where] = begun
            ends[where] = ended
        s += at.STAGE_WORDS
    slots[here] = arrival


@inlined
def _slot(edges: Words, e: Word, k: Word) -> Word:
    """Where token `k` of edge `e` is."""
    return edges[e + at.SLOTS] + (k & edges[e + at.MASK])


@inlined
def _room(edges: Words, slots: Words, e: Word, k: Word) -> Word:
    """When token `k` finds room on edge `e`; the slots of tokens before the first are 0."""
    return slots[edges[e + at.SLOTS] + ((k - edges[e + at.DEPTH]) & edges[e + at.MASK])]


@inlined
def _rise(edges: Words, slots: Words, e: Word, k: Word, cycle: Word) -> None:
    """Note the occupancy of a HANDED edge when token `k` is written in `cycle`: one more at most."""
    peak = edges[e + at.PEAK]
    if slots[edges[e + at.SLOTS] + ((k - peak) & edges[e + at.MASK])] > cycle + ONE:
        edges[e + at.PEAK] = peak + ONE


@inlined
def _hand_on(edges: Words, slots: Words, e: Word, k: Word, cycle: Word) -> None:
    """Write token `k` to a HANDED edge in `cycle`."""
    _rise(edges, slots, e, k, cycle)
    slots[_slot(edges, e, k)] = cycle + edges[e + at.LATENCY]


@inlined
def _return_one(edges: Words, slots: Words, e: Word, k: Word, cycle: Word) -> None:
    """Give token `k` of edge `e` back in `cycle`."""
    base, mask, peak = edges[e + at.SLOTS], edges[e + at.MASK], edges[e + at.PEAK]
    while (k + peak < edges[e + at.PUSHED]) & (slots[base + ((k + peak) & mask)] < cycle + edges[e + at.LATENCY]):
        peak += ONE
        edges[e + at.PEAK] = peak
    slots[base + (k & mask)] = cycle + ONE
    edges[e + at.RELEASED] = k + ONE


@inlined
def _there(edges: Words, slots: Words, table: Words, e: Word, k: Word) -> Word:
    """When firing `k` sees what it needs on edge `e`; on to the need of the firing after."""
    if edges[e + at.TAKES_ONE]:
        return slots[_slot(edges, e, k)]
    time = seen(edges, slots, e) if edges[e + at.NEED] > edges[e + at.NEEDED] else ZERO
    take(edges, table, e)
    return time


@inlined
def _return(edges: Words, slots: Words, table: Words, e: Word, k: Word, begun: Word, ended: Word) -> None:
    """Give back what firing `k` gives back on edge `e`."""
    if edges[e + at.HANDED]:
        slots[_slot(edges, e, k)] = begun + ONE
        return
    given = ended if edges[e + at.AT_END] else begun
    if edges[e + at.GIVES_ONE]:
        _return_one(edges, slots, e, k, given)
    else:
        give_slots_back(edges, slots, table, e, given)


@inlined
def _fill(edges: Words, slots: Words, e: Word, k: Word, cycle: Word, handed: bool) -> None:
    """Write token `k` to edge `e` in `cycle`; `handed` if it is known to be HANDED."""
    if handed or edges[e + at.HANDED]:
        _hand_on(edges, slots, e, k, cycle)
        return
    base, mask, peak = edges[e + at.SLOTS], edges[e + at.MASK], edges[e + at.PEAK]
    while (k - peak < edges[e + at.RELEASED]) & (slots[base + ((k - peak) & mask)] > cycle + ONE):
        peak += ONE
        edges[e + at.PEAK] = peak
    slots[base + (k & mask)] = cycle + edges[e + at.LATENCY]
    edges[e + at.PUSHED] = k + ONE


@inlined
def _end_few(stages: Words, edges: Words, slots: Words, s: Word, k: Word, done: Word, handed: bool) -> Word:
    """End firing `k` of a stage of kind FEW, ready at `done`; its end. `handed` if all its outputs are HANDED."""
    outs, first = stages[s + at.OUTPUT_COUNT], stages[s + at.OUT_1]
    ended = max(done, _room(edges, slots, first, k))
    if outs > ONE:
        second = stages[s + at.OUT_2]
        ended = max(ended, _room(edges, slots, second, k))
        if outs > TWO:
            third = stages[s + at.OUT_3]
            ended = max(ended, _room(edges, slots, third, k))
            _fill(edges, slots, third, k, ended, handed)
        _fill(edges, slots, second, k, ended, handed)
    _fill(edges, slots, first, k, ended, handed)
    stages[s + at.BLOCKED] += ended - done
    stages[s + at.FREE] = ended
    stages[s + at.FIRED] = k + ONE
    return ended


@inlined
def _hands(stages: Words, edges: Words, slots: Words, table: Words, s: Word) -> Word:
    """Fire a stage of kind HANDS; its start."""
    k = stages[s + at.FIRED]
    here = _slot(edges, stages[s + at.IN_1], k)
    begun = max(stages[s + at.FREE], slots[here])
    if stages[s + at.INPUT_COUNT] > ONE:
        there = _slot(edges, stages[s + at.IN_2], k)
        begun = max(begun, slots[there])
        slots[there] = begun + ONE
    slots[here] = begun + ONE
    done = begun + serve(stages, table, s)
    _end_few(stages, edges, slots, s, k, done, True)
    return begun


@inlined
def _few(stages: Words, edges: Words, slots: Words, table: Words, s: Word) -> Word:
    """Fire a stage of kind FEW; its start."""
    k = stages[s + at.FIRED]
    two_in = stages[s + at.INPUT_COUNT] > ONE
    here, there = stages[s + at.IN_1], stages[s + at.IN_2]
    begun = max(stages[s + at.FREE], _there(edges, slots, table, here, k))
    if two_in:
        begun = max(begun, _there(edges, slots, table, there, k))
    done = begun + serve(stages, table, s)
    ended = _end_few(stages, edges, slots, s, k, done, False)
    _return(edges, slots, table, here, k, begun, ended)
    if two_in:
        _return(edges, slots, table, there, k, begun, ended)
    return begun


@inlined
def _plain(stages: Words, edges: Words, slots: Words, links: Words, table: Words, s: Word) -> Word:
    """Fire a stage of kind PLAIN; its start."""
    k = stages[s + at.FIRED]
    first_in, last_in = stages[s + at.INPUTS], stages[s + at.INPUTS] + stages[s + at.INPUT_COUNT]
    first_out, last_out = stages[s + at.OUTPUTS], stages[s + at.OUTPUTS] + stages[s + at.OUTPUT_COUNT]
    begun = stages[s + at.FREE]
    for i in range(first_in, last_in):
        begun = max(begun, _there(edges, slots, table, links[i], k))
    done = begun + serve(stages, table, s)
    ended = done
    for i in range(first_out, last_out):
        e = links[i]
        ended = max(ended, _room(edges, slots, e, k))
    stages[s + at.BLOCKED] += ended - done
    for i in range(first_in, last_in):
        _return(edges, slots, table, links[i], k, begun, ended)
    for i in range(first_out, last_out):
        _fill(edges, slots, links[i], k, ended, False)
    stages[s + at.FREE] = ended
    stages[s + at.FIRED] = k + ONE
    return begun


@inlined
def _settle(words: Words, bounds: Words) -> None:
    """Bring the counts of edges up to date that the quick ways have left behind."""
    for e in range(bounds[EDGES], bounds[PORTS], at.EDGE_WORDS):
        taken = words[words[e + at.DST] * at.STAGE_WORDS + at.FIRED]
        words[e + at.PUSHED] = words[words[e + at.SRC] * at.STAGE_WORDS + at.FIRED]
        if words[e + at.TAKES_ONE]:
            words[e + at.NEEDED] = words[e + at.NEED_BASE] = taken
            words[e + at.NEED] = taken + ONE
        if words[e + at.GIVES_ONE]:
            words[e + at.RELEASED] = words[e + at.REL_BASE] = taken


@inlined
def _between_looks(words: Words, bounds: Words, firings: Word) -> Word:
    """Periods of so many firings to let pass from one look at all slots to the next, lest looking costs more."""
    depth = ZERO
    for e in range(bounds[EDGES], bounds[PORTS], at.EDGE_WORDS):
        depth += words[e + at.DEPTH]
    return ONE + depth // (np.uint64(8) * firings)


_WORDS = "uint64[::1]"


@entry(
    f"int64({', '.join([_WORDS] * 5)}, uint8[::1], uint32[::1], uint32[::1], int64[:, ::1], {_WORDS})", family="sim_"
)
def replay(
    words: Words,
    bounds: Words,
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
        words: stages, edges, ports, links and slots one behind the other, all offsets counted from its beginning: one
            array leaves the compiled loop with registers for other things.
        bounds: where edges, ports and links begin.
        rows, lengths: stage rows in the order in which they fire; for stages of kind LINE, how many of them in a row.
        parts: (first, last, repeats) of stretches of `rows`, shape (n, 3).
        then: scratch as long as `words`, for finding the steady state and skipping what repeats itself; of length 0 if
            every firing is to be gone through.
    """
    history = starts.size > 0
    for part in range(parts.shape[0]):
        first, last, repeats = np.uint64(parts[part, 0]), np.uint64(parts[part, 1]), np.uint64(parts[part, 2])
        done = since = next_note = ZERO
        looks = then.size > 0 and repeats > ONE
        every = _between_looks(words, bounds, last - first)
        while done < repeats:
            if looks and since % every == ZERO:
                if since > ZERO and alike(words, bounds, then):
                    times = (repeats - done) // since
                    if not skip(words, bounds, then, times):
                        return at.OVERFLOW
                    done += times * since
                    looks = False
                    continue
                if since >= next_note:
                    note(words, then)
                    next_note = since + max(since, every)
                    since = ZERO
            for x in range(first, last):
                s = np.uint64(rows[x])
                kind = words[s + at.KIND]
                if kind & at.LINE:
                    _run_of_lines(words, words, words, table, starts, ends, s, np.uint64(lengths[x]))
                    continue
                if kind & at.HANDS:
                    begun = _hands(words, words, words, table, s)
                elif kind & at.FEW:
                    begun = _few(words, words, words, table, s)
                elif kind & at.PLAIN:
                    begun = _plain(words, words, words, words, table, s)
                else:
                    stage = s // at.STAGE_WORDS
                    start(words, words, words, words, words, table, dirty, stage)
                    begun = words[s + at.START]
                    if end(words, words, words, words, table, dirty, stage) == at.OVERFLOW:
                        return at.OVERFLOW
                if history:
                    where = words[s + at.HISTORY] + (words[s + at.FIRED] - ONE) * words[s + at.HISTORY_STRIDE]
                    starts[where] = begun
                    ends[where] = words[s + at.FREE]
            done += ONE
            since += ONE
    _settle(words, bounds)
    return at.STILL
