"""One FIFO gets another depth: only the firings whose times that moves are computed again.

Each firing's start and end follow from a few others', and in the order of firings those come before it. So firings to
look at are marked and taken in that order; where a time has changed, they mark those that follow from them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

import kernels.sim_layout as at
from kernels.compiled import entry, inlined
from kernels.sim_moves import ONE, ZERO, Word, Words

NONE = ~ZERO
IN_WORD, TO_WORD = np.uint64(63), np.uint64(6)
UPDATED, TOO_MANY = 0, 1  # outcomes, besides at.OVERFLOW
LIMIT = np.uint64(2**61)

# where in `tokens` the sequences of an edge begin
LOOK_WORDS = np.uint64(4)
TOKEN_OF = np.uint64(0)  # by firing of the consumer: the last token it needs; NONE if it needs no new one
USER_OF = np.uint64(1)  # by token: the firing of the consumer for which it is that one, or NONE
GIVER_OF = np.uint64(2)  # by token: the firing of the consumer that gives it back, or NONE
GIVEN_BY = np.uint64(3)  # by firing of the consumer: tokens given back in all before it; one entry more, at the end


@intrinsic
def _count_trailing_zeros(context: Any, word: Any) -> Any:
    """Number of the lowest bit that is set."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.cttz(values[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate


_lowest_bit: Any = _count_trailing_zeros


@inlined
def _look(looks: Words, e: Word, what: Word) -> Word:
    """Where a sequence of edge `e` begins."""
    return looks[(e // at.EDGE_WORDS) * LOOK_WORDS + what]


@inlined
def _mark(marks: Words, places: NDArray[np.uint32], firing: Word) -> None:
    """Mark a firing, by its number in starts and ends."""
    place = np.uint64(places[firing])
    marks[place >> TO_WORD] |= ONE << (place & IN_WORD)


@inlined
def _room(
    stages: Words, edges: Words, tokens: Words, looks: Words, starts: Words, ends: Words, e: Word, k: Word
) -> Word:
    """The first cycle in which token `k` finds room on edge `e`."""
    depth = edges[e + at.DEPTH]
    if k < depth:
        return ZERO
    giver = tokens[_look(looks, e, GIVER_OF) + k - depth]
    firing = stages[edges[e + at.DST] * at.STAGE_WORDS + at.HISTORY] + giver
    return ONE + (ends[firing] if edges[e + at.AT_END] else starts[firing])


@inlined
def _service(stages: Words, table: Words, s: Word, k: Word) -> Word:
    """The service time of firing `k`."""
    first = stages[s + at.SERVICE]
    return table[first + (k * stages[s + at.SERVICE_STRIDE]) % (stages[s + at.SERVICE_END] - first)]


@inlined
def _compute(
    stages: Words,
    edges: Words,
    links: Words,
    table: Words,
    tokens: Words,
    looks: Words,
    starts: Words,
    ends: Words,
    places: NDArray[np.uint32],
    marks: Words,
    s: Word,
    k: Word,
) -> bool:
    """Compute firing `k` of the stage at row `s` again and mark what follows from what moved; False on overflow."""
    first = stages[s + at.HISTORY]
    bbs = stages[s + at.KIND] & at.BBS
    first_in, last_in = stages[s + at.INPUTS], stages[s + at.INPUTS] + stages[s + at.INPUT_COUNT]
    first_out, last_out = stages[s + at.OUTPUTS], stages[s + at.OUTPUTS] + stages[s + at.OUTPUT_COUNT]
    begun = ends[first + k - ONE] if k else ZERO
    for i in range(first_in, last_in):
        e = links[i]
        token = tokens[_look(looks, e, TOKEN_OF) + k]
        if token != NONE:
            written = ends[stages[edges[e + at.SRC] * at.STAGE_WORDS + at.HISTORY] + token]
            begun = max(begun, written + edges[e + at.LATENCY])
    room = ZERO
    for i in range(first_out, last_out):
        room = max(room, _room(stages, edges, tokens, looks, starts, ends, links[i], k))
    if bbs:
        begun = max(begun, room)
    ended = max(begun + _service(stages, table, s, k), room)
    start_moved, end_moved = begun != starts[first + k], ended != ends[first + k]
    starts[first + k], ends[first + k] = begun, ended
    if end_moved:
        if k + ONE < stages[s + at.FIRINGS]:
            _mark(marks, places, first + k + ONE)
        for i in range(first_out, last_out):
            e = links[i]
            user = tokens[_look(looks, e, USER_OF) + k]
            if user != NONE:
                _mark(marks, places, stages[edges[e + at.DST] * at.STAGE_WORDS + at.HISTORY] + user)
    for i in range(first_in, last_in):
        e = links[i]
        if end_moved if edges[e + at.AT_END] else start_moved:
            src = edges[e + at.SRC] * at.STAGE_WORDS
            given = _look(looks, e, GIVEN_BY) + k
            for token in range(tokens[given], tokens[given + ONE]):
                writer = token + edges[e + at.DEPTH]
                if writer < stages[src + at.FIRINGS]:
                    _mark(marks, places, stages[src + at.HISTORY] + writer)
    return bool(ended <= LIMIT)


_WORDS = "uint64[::1]"


@entry(
    f"UniTuple(int64, 2)({', '.join([_WORDS] * 8)}, {', '.join(['uint32[::1]'] * 3)}, {_WORDS}, uint64, uint64)", "sim_"
)
def update(
    stages: Words,
    edges: Words,
    links: Words,
    table: Words,
    tokens: Words,
    looks: Words,
    starts: Words,
    ends: Words,
    places: NDArray[np.uint32],
    rows: NDArray[np.uint32],
    numbers: NDArray[np.uint32],
    marks: Words,
    changed: Word,
    most: Word,
) -> tuple[int, int]:
    """Bring the times of a run up to date after the depth of one FIFO has changed.

    Args:
        stages, edges, links, table: as for `sim_replay.replay`; only what a run leaves as it is is read.
        tokens, looks: for each edge, what the constants above say.
        starts, ends: times under the depths before; those under the new ones when it is done.
        places: place of each firing in an order that the new depths allow, by its number in starts and ends.
        rows, numbers: row and number of the firing at each place.
        marks: a bit for each place; all 0, and so again afterwards.
        changed: row of the edge whose depth changed.
        most: firings to compute at most.

    Returns:
        UPDATED, TOO_MANY (more than `most`: the times are of no use now) or OVERFLOW (a time beyond 2^61); how many
        firings were computed.
    """
    src = edges[changed + at.SRC] * at.STAGE_WORDS
    first = stages[src + at.HISTORY]
    for k in range(stages[src + at.FIRINGS]):
        room = _room(stages, edges, tokens, looks, starts, ends, changed, k)
        begun = starts[first + k]
        waits = ends[first + k] > begun + _service(stages, table, src, k) or stages[src + at.KIND] & at.BBS
        if waits or room > ends[first + k]:
            _mark(marks, places, first + k)
    done, outcome = ZERO, UPDATED
    for word in range(np.uint64(marks.size)):
        while marks[word]:
            place = (word << TO_WORD) + _lowest_bit(marks[word])
            marks[word] &= marks[word] - ONE
            if outcome != UPDATED:
                continue
            done += ONE
            if done > most:
                outcome = TOO_MANY
            elif not _compute(
                stages,
                edges,
                links,
                table,
                tokens,
                looks,
                starts,
                ends,
                places,
                marks,
                np.uint64(rows[place]),
                np.uint64(numbers[place]),
            ):
                outcome = at.OVERFLOW
    return outcome, np.int64(done)  # type: ignore[return-value]
