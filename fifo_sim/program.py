"""The order in which a pipeline's firings are gone through: found once, by counting tokens, and kept as its periods."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

import kernels.sim_layout as at
from fifo_sim.compile import ENDLESS, Layout, State, Words

MOST_PARTS = 64
LONGEST = 1 << 24  # firings written out in one order


@dataclass(frozen=True)
class Program:
    """An order of firings for all depths that are large enough.

    Attributes:
        rows, lengths: stage rows in the order of firing; how many stages fire one behind the other from there on.
        parts: (first, last, repeats) of stretches of `rows`, int64 of shape (n, 3).
        least: smallest depth of each FIFO, in edge order, with which this order may be followed.
        kinds: for each stage row, the word KIND that goes with it.
        handed: for each edge, the word HANDED that goes with it.
    """

    rows: npt.NDArray[np.uint32]
    lengths: npt.NDArray[np.uint32]
    parts: npt.NDArray[np.int64]
    least: Words
    kinds: Words
    handed: Words

    def fits(self, state: State) -> bool:
        """Whether the depths of a run allow this order."""
        return bool((state.edges[:, at.DEPTH] >= self.least).all())

    def prepare(self, state: State) -> None:
        """Tell a run's stages and edges what this order makes of them."""
        state.stages[:, at.KIND] = self.kinds
        state.edges[:, at.HANDED] = self.handed


def find_program(layout: Layout, depths: Words | None, longest: int) -> Program | None:
    """An order of firings written out in at most `longest` entries, for the given depths or for the smallest it can do
    with; None where there is none: too long, a port with priority, or firings that cannot be taken as a whole."""
    from kernels.sim_order import ORDERED, firing_order

    if layout.ports[:, at.PRIORITY].any():
        return None
    edges = layout.edges.copy()
    edges[:, at.DEPTH] = ENDLESS if depths is None else depths
    arrays = layout.stages.flatten(), edges.reshape(-1), layout.ports.flatten()
    then = np.empty(sum(array.size for array in arrays), np.uint64)
    least = np.ones(len(edges), np.uint64)
    order, parts = np.empty(longest, np.uint32), np.empty((MOST_PARTS, 3), np.int64)
    outcome, used, count = firing_order(*arrays, layout.links, layout.table, then, least, order, parts)
    if outcome != ORDERED:
        return None
    kinds, handed = _kinds(layout, least)
    rows, lengths, parts = _in_runs(order[:used], parts[:count], kinds, layout.stages)
    return Program(rows, lengths, parts, least, kinds, handed)


def _kinds(layout: Layout, least: Words) -> tuple[Words, Words]:
    """The words KIND of each stage and HANDED of each edge in this order of firings."""
    stages, edges = layout.stages, layout.edges
    plain = stages[:, at.KIND] & at.PLAIN != 0
    regular = (edges[:, [at.TAKES_ONE, at.GIVES_ONE]] == 1).all(axis=1) & (edges[:, at.AT_END] == 0)
    src, dst = edges[:, at.SRC].astype(np.int64), edges[:, at.DST].astype(np.int64)
    handed = regular & (least == 1) & plain[src] & plain[dst]
    ins, outs = stages[:, at.INPUT_COUNT], stages[:, at.OUTPUT_COUNT]
    few = plain & (ins >= 1) & (ins <= 2) & (outs >= 1) & (outs <= 3)
    quick, hands = few.copy(), few.copy()
    quick[dst[~regular]] = hands[src[~handed]] = hands[dst[~handed]] = False
    kinds = stages[:, at.KIND].copy()
    for chosen, kind in (
        (few, at.FEW),
        (quick, at.QUICK),
        (hands, at.HANDS),
        (hands & (ins == 1) & (outs == 1), at.LINE),
    ):
        kinds[chosen] |= kind
    return kinds, handed.astype(np.uint64)


def _in_runs(
    order: npt.NDArray[np.uint32], parts: npt.NDArray[np.int64], kinds: Words, stages: Words
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Rows, lengths and parts with neighbouring LINE stages that hand a token on taken together."""
    stage = order // np.uint32(at.STAGE_WORDS)
    line = kinds[stage] & at.LINE != 0
    handed_on = stages[stage[1:], at.IN_1] == stages[stage[:-1], at.OUT_1]
    joined = line[1:] & line[:-1] & (stage[1:] == stage[:-1] + 1) & handed_on
    begins = np.ones(len(order), bool)
    begins[1:] = ~joined
    begins[parts[:, 0]] = True
    first = np.flatnonzero(begins)
    lengths = np.diff(np.append(first, len(order)))
    entry = np.cumsum(begins) - 1
    moved = parts.copy()
    moved[:, 0] = entry[parts[:, 0]]
    moved[:, 1] = entry[parts[:, 1] - 1] + 1
    return order[first], lengths.astype(np.uint32), moved


def order_of(program: Program) -> npt.NDArray[np.uint32]:
    """The row of the stage of each firing, in the program's order, all repeats written out."""
    ends = np.cumsum(program.lengths, dtype=np.int64)
    within = np.arange(ends[-1], dtype=np.uint32) - np.repeat(ends - program.lengths, program.lengths).astype(np.uint32)
    rows = np.repeat(program.rows, program.lengths) + within * np.uint32(at.STAGE_WORDS)
    begins = np.concatenate([[0], ends])
    return np.concatenate([np.tile(rows[begins[a] : begins[b]], times) for a, b, times in program.parts.tolist()])
