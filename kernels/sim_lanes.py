"""Many runs of one pipeline side by side in vector lanes, each with its own FIFO depths.

The order of firings is the same for all, so what is counted is counted once; only times differ from lane to lane.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kernels.sim_layout as at
from kernels.compiled import entry, inlined
from kernels.sim_moves import ONE, Word, Words, given_back, serve, take
from kernels.sim_vector import OUTPUT_WORDS, quick_of_lanes, wait_for_room

Times = NDArray[Any]  # int32 or int64


@inlined
def _wait(times: Times, others: Times, base: Word, lanes: Word) -> None:
    """times = max(times, others[base])."""
    for lane in range(lanes):
        times[lane] = max(times[lane], others[base + lane])


@inlined
def _set(others: Times, base: Word, times: Times, more: Any, lanes: Word) -> None:
    """others[base] = times + more."""
    for lane in range(lanes):
        others[base + lane] = times[lane] + more


@inlined
def _give_back(edges: Words, slots: Times, table: Words, e: Word, k: Word, times: Times, one: Any, lanes: Word) -> None:
    """Firing `k` gives back its slots of edge `e` at these times."""
    token, given = k, k + ONE
    if not edges[e + at.GIVES_ONE]:
        token, given = edges[e + at.RELEASED], given_back(edges, table, e)
        edges[e + at.RELEASED] = given
    while token < given:
        _set(slots, (edges[e + at.SLOTS] + (token & edges[e + at.MASK])) * lanes, times, one, lanes)
        token += ONE


@inlined
def _room(edges: Words, slots: Times, shifts: NDArray[np.uint32], e: Word, k: Word, times: Times, lanes: Word) -> None:
    """times = max(times, when token `k` finds room on edge `e`)."""
    mask = np.uint32((edges[e + at.MASK] + ONE) * lanes - ONE)
    base, shift = edges[e + at.SLOTS] * lanes, (e // at.EDGE_WORDS) * lanes
    wait_for_room(times, slots, shifts, base, shift, np.uint32(k * lanes), mask, lanes)


_ONE_ONE, _ONE_TWO, _ONE_THREE = (quick_of_lanes[1, outputs] for outputs in (1, 2, 3))
_TWO_ONE, _TWO_TWO, _TWO_THREE = (quick_of_lanes[2, outputs] for outputs in (1, 2, 3))
TWO = np.uint64(2)


@inlined
def _quick(
    stages: Words,
    edges: Words,
    links: Words,
    slots: Times,
    shifts: NDArray[np.uint32],
    free: Times,
    where: Words,
    s: Word,
    service: Any,
    lanes: Word,
) -> None:
    """Fire a stage of kind QUICK."""
    k, inputs, outputs = stages[s + at.FIRED], stages[s + at.INPUT_COUNT], stages[s + at.OUTPUT_COUNT]
    where[0] = (s // at.STAGE_WORDS) * lanes
    for i in range(inputs):
        e = links[stages[s + at.INPUTS] + i]
        where[i + ONE] = (edges[e + at.SLOTS] + (k & edges[e + at.MASK])) * lanes
    w = inputs + ONE
    for i in range(outputs):
        e = links[stages[s + at.OUTPUTS] + i]
        base, mask = edges[e + at.SLOTS] * lanes, edges[e + at.MASK]
        where[w], where[w + ONE] = base, base + (k & mask) * lanes
        where[w + TWO], where[w + np.uint64(3)] = (e // at.EDGE_WORDS) * lanes, k * lanes
        where[w + np.uint64(4)], where[w + np.uint64(5)] = (mask + ONE) * lanes - ONE, edges[e + at.LATENCY]
        w += np.uint64(OUTPUT_WORDS)
    if inputs == ONE:
        if outputs == ONE:
            _ONE_ONE(free, slots, shifts, where, service, lanes)
        elif outputs == TWO:
            _ONE_TWO(free, slots, shifts, where, service, lanes)
        else:
            _ONE_THREE(free, slots, shifts, where, service, lanes)
    elif outputs == ONE:
        _TWO_ONE(free, slots, shifts, where, service, lanes)
    elif outputs == TWO:
        _TWO_TWO(free, slots, shifts, where, service, lanes)
    else:
        _TWO_THREE(free, slots, shifts, where, service, lanes)


@inlined
def _any(
    stages: Words,
    edges: Words,
    links: Words,
    table: Words,
    slots: Times,
    shifts: NDArray[np.uint32],
    free: Times,
    ports: Times,
    begun: Times,
    ended: Times,
    s: Word,
    service: Any,
    lanes: Word,
) -> None:
    """Fire a stage of any kind but those at ports with priority."""
    k, stage = stages[s + at.FIRED], (s // at.STAGE_WORDS) * lanes
    kind, one = stages[s + at.KIND], free.dtype.type(1)
    first_in, last_in = stages[s + at.INPUTS], stages[s + at.INPUTS] + stages[s + at.INPUT_COUNT]
    first_out, last_out = stages[s + at.OUTPUTS], stages[s + at.OUTPUTS] + stages[s + at.OUTPUT_COUNT]
    first_port, last_port = stages[s + at.PORTS], stages[s + at.PORTS] + stages[s + at.PORT_COUNT]
    for lane in range(lanes):
        begun[lane] = free[stage + lane]
    for i in range(first_in, last_in):
        e = links[i]
        token = k
        if not edges[e + at.TAKES_ONE]:
            fresh, token = edges[e + at.NEED] > edges[e + at.NEEDED], edges[e + at.NEED] - ONE
            take(edges, table, e)
            if not fresh:
                continue
        _wait(begun, slots, (edges[e + at.SLOTS] + (token & edges[e + at.MASK])) * lanes, lanes)
    if kind & at.BBS:
        for i in range(first_out, last_out):
            _room(edges, slots, shifts, links[i], k, begun, lanes)
    for i in range(first_port, last_port):
        _wait(begun, ports, (links[i] // at.PORT_WORDS) * lanes, lanes)
    for i in range(first_port, last_port):
        _set(ports, (links[i] // at.PORT_WORDS) * lanes, begun, service, lanes)
    for i in range(first_in, last_in):
        if not edges[links[i] + at.AT_END]:
            _give_back(edges, slots, table, links[i], k, begun, one, lanes)
    for lane in range(lanes):
        ended[lane] = begun[lane] + service
        begun[lane] = ended[lane]
    for i in range(first_out, last_out):
        e = links[i]
        if kind & at.EAGER:
            for lane in range(lanes):
                free[stage + lane] = begun[lane]
            _room(edges, slots, shifts, e, k, begun, lanes)
            there = (edges[e + at.SLOTS] + (k & edges[e + at.MASK])) * lanes
            _set(slots, there, begun, free.dtype.type(edges[e + at.LATENCY]), lanes)
            for lane in range(lanes):
                ended[lane] = max(ended[lane], begun[lane])
                begun[lane] = free[stage + lane]
        elif not kind & at.BBS:
            _room(edges, slots, shifts, e, k, ended, lanes)
    if not kind & at.EAGER:
        for i in range(first_out, last_out):
            e = links[i]
            there = (edges[e + at.SLOTS] + (k & edges[e + at.MASK])) * lanes
            _set(slots, there, ended, free.dtype.type(edges[e + at.LATENCY]), lanes)
    for i in range(first_in, last_in):
        if edges[links[i] + at.AT_END]:
            _give_back(edges, slots, table, links[i], k, ended, one, lanes)
    for lane in range(lanes):
        free[stage + lane] = ended[lane]


def _lanes(
    stages: Words,
    edges: Words,
    links: Words,
    table: Words,
    rows: NDArray[np.uint32],
    lengths: NDArray[np.uint32],
    parts: NDArray[np.int64],
    shifts: NDArray[np.uint32],
    free: Times,
    slots: Times,
    ports: Times,
    scratch: Times,
    where: Words,
    lanes: Word,
) -> None:
    """Run a pipeline in every lane, in the order of `sim_order.firing_order`, which every lane's depths allow.

    Args:
        stages, edges: rows in their first state, with slots for the deepest FIFO of any lane; changed.
        links, table, rows, lengths, parts: as for `sim_replay.replay`.
        shifts: lane - depth * lanes (mod 2^32), for each edge and lane.
        free, slots, ports: zeros for each stage, slot and port, and lane; `free` ends as the end of each stage.
        scratch: two times a lane.
        where: scratch of 32 words.
        lanes: how many; a power of two.
    """
    begun, ended = scratch[:lanes], scratch[lanes:]
    for part in range(parts.shape[0]):
        first, last = np.uint64(parts[part, 0]), np.uint64(parts[part, 1])
        for _ in range(parts[part, 2]):
            for x in range(first, last):
                s = np.uint64(rows[x])
                for _ in range(lengths[x]):
                    service = free.dtype.type(serve(stages, table, s))
                    if stages[s + at.KIND] & at.QUICK:
                        _quick(stages, edges, links, slots, shifts, free, where, s, service, lanes)
                    else:
                        _any(stages, edges, links, table, slots, shifts, free, ports, begun, ended, s, service, lanes)
                    stages[s + at.FIRED] += ONE
                    s += at.STAGE_WORDS


@cache
def lanes_of(bits: int) -> Any:
    """The kernel for times of 32 or 64 bits."""
    times = f"int{bits}[::1]"
    words = ", ".join(["uint64[::1]"] * 4)
    order = "uint32[::1], uint32[::1], int64[:, ::1], uint32[::1]"
    return entry(f"void({words}, {order}, {', '.join([times] * 4)}, uint64[::1], uint64)", family="sim_")(_lanes)
