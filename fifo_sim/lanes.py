"""Runs side by side in vector lanes: one order of firings, each lane with its own FIFO depths."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

import kernels.sim_layout as at
from fifo_sim.compile import Layout, Words
from fifo_sim.program import Program
from kernels.sim_vector import VECTOR_BITS

STATE_BYTES = 320 << 10  # what the lanes of one block may hold: it stays in the second-level cache
MOST_LANES, FEWEST_LANES = 128, VECTOR_BITS // 32
WORDS_OF_WHERE = 32
Settings = npt.NDArray[np.int64]
Awaited = tuple[int, int | None]  # a stage; and the one output of an eager fork whose token is awaited


def threads() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_lanes(layout: Layout, program: Program, settings: Settings, bits: int) -> Settings:
    """Cycles under each setting of depths, all of which allow the program's order; times of 32 or 64 bits."""
    from kernels.sim_lanes import lanes_of

    kernel = lanes_of(bits)
    deepest = layout.state(settings.max(axis=0), history=False)
    program.prepare(deepest)
    cells = (len(deepest.slots) + len(layout.stages)) * bits // 8
    lanes = MOST_LANES
    while lanes > FEWEST_LANES and (lanes * cells > STATE_BYTES or lanes * threads() >= 2 * len(settings)):
        lanes //= 2

    def run_block(first: int) -> Settings:
        depths = settings[first : first + lanes]
        depths = np.concatenate([depths, np.repeat(depths[-1:], lanes - len(depths), axis=0)])
        shifts = (np.arange(lanes) - depths.T * lanes).astype(np.uint32)  # modulo 2^32
        times = np.dtype(f"int{bits}")
        free = np.zeros((len(layout.stages), lanes), times)
        kernel(
            deepest.stages.flatten(),
            deepest.edges.flatten(),
            layout.links,
            layout.table,
            program.rows,
            program.lengths,
            program.parts,
            shifts.reshape(-1),
            free.reshape(-1),
            np.zeros(len(deepest.slots) * lanes, times),
            np.zeros(len(layout.ports) * lanes, times),
            np.empty(2 * lanes, times),
            np.empty(WORDS_OF_WHERE, np.uint64),
            np.uint64(lanes),
        )
        ends: Settings = free.max(axis=0).astype(np.int64)
        return ends

    with ThreadPoolExecutor(threads()) as pool:
        blocks = list(pool.map(run_block, range(0, len(settings), lanes)))
    return np.concatenate(blocks)[: len(settings)]


def blocking_edges(layout: Layout, stages: Words, edges: Words, ports: Words) -> list[int]:
    """FIFOs that alone hold a run in the deadlock that its rows show, in edge order.

    They are the full ones round a circle of stages each of which waits for the next. With these no deeper, every
    setting ends in a deadlock, whatever the other depths: the circle is one of the (max,+) equations.
    """
    chain: dict[Awaited, int | None] = {}
    awaited: Awaited = int(np.flatnonzero(stages[:, at.FIRED] < stages[:, at.FIRINGS])[0]), None
    while awaited not in chain:
        following, full = _waits_for(layout, stages, edges, ports, awaited)
        if stages[following[0], at.FIRED] == stages[following[0], at.FIRINGS]:
            return [full] if full is not None else []  # a reader that is done never makes room
        chain[awaited] = full
        awaited = following
    circle = list(chain)[list(chain).index(awaited) :]
    return sorted({full for full in map(chain.get, circle) if full is not None})


def _waits_for(
    layout: Layout, stages: Words, edges: Words, ports: Words, waiting: Awaited
) -> tuple[Awaited, int | None]:
    """What a waiting stage waits for, and the full FIFO between them if it is room it lacks."""
    stage, only = waiting
    row = stages[stage]

    def linked(first: np.uint64, count: np.uint64) -> Iterator[int]:
        yield from layout.links[int(row[first]) : int(row[first] + row[count])].tolist()

    if not row[at.AT_WORK]:
        for e in linked(at.INPUTS, at.INPUT_COUNT):
            edge = edges[e // int(at.EDGE_WORDS)]
            if edge[at.PUSHED] < edge[at.NEED]:
                writer = stages[int(edge[at.SRC])]
                by_itself = writer[at.KIND] & at.EAGER and writer[at.AT_WORK] and edge[at.NEED] == writer[at.FIRED] + 1
                return (int(edge[at.SRC]), e if by_itself else None), None
    for e in [only] if only is not None else linked(at.OUTPUTS, at.OUTPUT_COUNT):
        edge = edges[e // int(at.EDGE_WORDS)]
        wants = (row[at.AT_WORK] or row[at.KIND] & at.BBS) and edge[at.PUSHED] == row[at.FIRED]
        if wants and row[at.FIRED] >= edge[at.RELEASED] + edge[at.DEPTH]:
            return (int(edge[at.DST]), None), e // int(at.EDGE_WORDS)
    for p in linked(at.PORTS, at.PORT_COUNT):
        port = ports[p // int(at.PORT_WORDS)]
        holder = int(layout.links[int(port[at.MEMBERS] + port[at.TURN])])
        if holder != stage:
            return (holder, None), None
    raise AssertionError("a stage that waits for nothing")
