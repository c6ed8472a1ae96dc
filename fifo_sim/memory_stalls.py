"""How long each stage waits for DRAM and for nothing else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fifo_sim.graph import TRANSFERS
from fifo_sim.lowering import Lowered
from fifo_sim.result import SimResult


def memory_stalls(lowered: Lowered, result: SimResult) -> dict[str, int]:
    """Cycles in which a stage lacks nothing but weights or pixels that are still on their way from DRAM.

    They are a part of its starved cycles: for each firing, the time from when all its other inputs are there and the
    stage is free until the last transfer has arrived.

    Args:
        result: of simulating `lowered.pipeline`, with history.

    Returns:
        {stage: cycles}, for the stages that read a transfer.
    """
    assert result.start_times is not None
    assert result.end_times is not None
    transfers = {op.name for op in lowered.graph.of_kind(*TRANSFERS)}
    ready: dict[str, dict[bool, npt.NDArray[np.int64]]] = {}
    for edge in lowered.pipeline.edges:
        firings = len(result.start_times[edge.dst])
        need = edge.need_pattern.expand(firings)
        ends = result.end_times[edge.src]
        arrival = np.zeros(firings, dtype=np.int64)
        arrival[need > 0] = ends[need[need > 0] - 1] + edge.latency
        from_dram = edge.src in transfers
        reader = ready.setdefault(edge.dst, {kind: np.zeros(firings, dtype=np.int64) for kind in (False, True)})
        reader[from_dram] = np.maximum(reader[from_dram], arrival)
    stalls = {}
    for name in {edge.dst for edge in lowered.pipeline.edges if edge.src in transfers}:
        free = np.concatenate([[0], result.end_times[name]])[: len(result.start_times[name])]
        waited = ready[name][True] - np.maximum(free, ready[name][False])
        stalls[name] = int(np.maximum(waited, 0).sum())
    return stalls
