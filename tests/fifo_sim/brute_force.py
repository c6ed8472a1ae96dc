"""The cheapest FIFO depths and the Pareto front by trying all there are: for graphs with few and short FIFOs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from fifo_sim import Pipeline, simulate_many


class AllDepths:
    """Every setting from `lower` up to depths that hold all tokens, with its bytes and its cycles (-1: deadlock)."""

    def __init__(self, pipeline: Pipeline, token_bytes: Sequence[int], lower: Sequence[int] | None = None) -> None:
        lowest = [1] * len(pipeline.edges) if lower is None else lower
        self.depths = np.array(list(product(*map(range, lowest, _ends(pipeline, lowest)))), dtype=np.int64)
        self.bytes = self.depths @ np.array(token_bytes, dtype=np.int64)
        self.cycles = simulate_many(pipeline, self.depths)

    @staticmethod
    def count(pipeline: Pipeline, lower: Sequence[int] | None = None) -> int:
        """How many settings there are to try."""
        lowest = [1] * len(pipeline.edges) if lower is None else lower
        return int(np.prod([end - low for low, end in zip(lowest, _ends(pipeline, lowest), strict=True)], dtype=float))

    def least_bytes(self, limit: int | None = None) -> int:
        """Of all settings that finish, within `limit` cycles if that is given."""
        fine = self.cycles >= 0
        if limit is not None:
            fine &= self.cycles <= limit
        return int(self.bytes[fine].min())

    def pareto(self) -> list[tuple[int, int]]:
        """(bytes, cycles) of which none is better in both, by growing bytes."""
        front: list[tuple[int, int]] = []
        for total, cycles in sorted(zip(self.bytes.tolist(), self.cycles.tolist(), strict=True)):
            if cycles >= 0 and (not front or cycles < front[-1][1]):
                front.append((total, cycles))
        return front


def _ends(pipeline: Pipeline, lowest: Sequence[int]) -> list[int]:
    writes = [pipeline.firings[pipeline.index[edge.src]] for edge in pipeline.edges]
    return [max(low, all_tokens) + 1 for low, all_tokens in zip(lowest, writes, strict=True)]
