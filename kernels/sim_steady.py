"""The simulator's steady state: once all times have moved on alike, whole periods are skipped in one step.

What is to come depends on the times of stages, ports and slots relative to one another only. Where these come back to
what they were a number of periods before, everything since repeats itself, shifted. A time that can hold nobody up any
more (a slot free before its writer is, a token seen before its reader is free) counts as no time at all.

`words` is the one array of `sim_replay.replay`, `bounds` says where in it what begins.
"""

from __future__ import annotations

import numpy as np

import kernels.sim_layout as at
from kernels.compiled import inlined
from kernels.sim_moves import LIMIT, ONE, ZERO, Word, Words

EDGES, PORTS, LINKS = np.uint64(0), np.uint64(1), np.uint64(2)  # of the bounds; stages come first


@inlined
def note(words: Words, then: Words) -> None:
    """Copy the state to `then`."""
    for i in range(np.uint64(words.size)):
        then[i] = words[i]


@inlined
def _released(words: Words, e: Word) -> Word:
    """Tokens given back on edge `e`, between firings."""
    if words[e + at.GIVES_ONE]:
        return words[words[e + at.DST] * at.STAGE_WORDS + at.FIRED]
    return words[e + at.RELEASED]


@inlined
def _ports_alike(words: Words, bounds: Words, then: Words) -> bool:
    """Whether every port has moved on as its members have."""
    for p in range(bounds[PORTS], bounds[LINKS], at.PORT_WORDS):
        shift = words[p + at.FREE_AT] - then[p + at.FREE_AT]
        for i in range(words[p + at.MEMBERS], words[p + at.MEMBERS] + words[p + at.MEMBER_COUNT]):
            s = words[i] * at.STAGE_WORDS
            if words[s + at.FIRED] > then[s + at.FIRED] and words[s + at.FREE] - then[s + at.FREE] != shift:
                return False
    return True


@inlined
def alike(words: Words, bounds: Words, then: Words) -> bool:
    """Whether the state is the state `then`, all times moved on; the counts are known to have."""
    for s in range(ZERO, bounds[EDGES], at.STAGE_WORDS):
        if words[s + at.SERVICE_AT] != then[s + at.SERVICE_AT]:
            return False
    for e in range(bounds[EDGES], bounds[PORTS], at.EDGE_WORDS):
        src, dst = words[e + at.SRC] * at.STAGE_WORDS, words[e + at.DST] * at.STAGE_WORDS
        pushed, pushed_then = words[src + at.FIRED], then[src + at.FIRED]
        if pushed == pushed_then:
            continue
        writer, reader = words[src + at.FREE], words[dst + at.FREE]
        shift = writer - then[src + at.FREE]
        if reader - then[dst + at.FREE] != shift:
            return False
        base, mask = words[e + at.SLOTS], words[e + at.MASK]
        given_back = _released(words, e)
        for back in range(ONE, min(words[e + at.DEPTH], pushed) + ONE):
            bound = writer if pushed - back < given_back else reader
            time = max(bound, words[base + ((pushed - back) & mask)])
            before = bound - shift
            if back <= pushed_then:
                before = max(before, then[base + ((pushed_then - back) & mask)])
            if time - shift != before:
                return False
    return bool(_ports_alike(words, bounds, then))


@inlined
def skip(words: Words, bounds: Words, then: Words, times: Word) -> bool:
    """Move the state on by `times` times what has changed since `then`; False where a time would pass the limit."""
    for s in range(ZERO, bounds[EDGES], at.STAGE_WORDS):
        shift = words[s + at.FREE] - then[s + at.FREE]
        if shift and times > (LIMIT - words[s + at.FREE]) // shift:
            return False
    for e in range(bounds[EDGES], bounds[PORTS], at.EDGE_WORDS):
        src = words[e + at.SRC] * at.STAGE_WORDS
        base, mask, pushed = words[e + at.SLOTS], words[e + at.MASK], words[src + at.FIRED]
        moved, shift = times * (pushed - then[src + at.FIRED]), times * (words[src + at.FREE] - then[src + at.FREE])
        if moved:
            for i in range(base, base + mask + ONE):
                then[i] = words[i]
            for back in range(ONE, min(mask + ONE, pushed) + ONE):
                words[base + ((pushed + moved - back) & mask)] = then[base + ((pushed - back) & mask)] + shift
        for field in at.COUNTS:
            words[e + field] += times * (words[e + field] - then[e + field])
    for s in range(ZERO, bounds[EDGES], at.STAGE_WORDS):
        for field in (at.FIRED, at.FREE, at.BLOCKED, at.WAITED):
            words[s + field] += times * (words[s + field] - then[s + field])
    for p in range(bounds[PORTS], bounds[LINKS], at.PORT_WORDS):
        words[p + at.FREE_AT] += times * (words[p + at.FREE_AT] - then[p + at.FREE_AT])
    return True
