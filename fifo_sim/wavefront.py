"""Chains of stages, which are run along their wavefront: all stages side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import kernels.sim_layout as at
from fifo_sim.compile import Layout, State
from fifo_sim.pipeline import Pipeline

FEWEST_STAGES, TILES_A_STAGE = 8, 4  # where less of a run is steps in which all stages fire, it is not worth it
MOST_RING_BYTES = 256 << 10  # beyond which slots are looked up in slower caches
LANES = 8  # of the shortest times


@dataclass(frozen=True)
class Wavefront:
    """What is the same in all runs of a chain, whatever its depths.

    Attributes:
        stages, tiles: how many.
        width: lanes: stages, and some more up to a whole number of vectors.
        row: places a step has in the ring.
        services: time of tile t - s of stage s at [t * stride + s].
        latencies: of the FIFO behind each stage, 0 in lanes without one.
        stride: of the services.
        edges: position among the FIFOs of the one behind each stage.
    """

    stages: int
    tiles: int
    width: int
    row: int
    services: npt.NDArray[Any]
    latencies: npt.NDArray[Any]
    stride: int
    edges: npt.NDArray[np.int64]


def wavefront_for(pipeline: Pipeline, layout: Layout, history: bool) -> Wavefront | None:
    """The pipeline's wavefront if it is a chain that is worth it and its ring is small; None otherwise.

    Without history a chain whose service times repeat themselves is left to the search for its steady state.
    """
    if "_wavefront" not in layout.__dict__:
        layout.__dict__["_wavefront"] = _wavefront(pipeline, layout)
    wave: Wavefront | None = layout.__dict__["_wavefront"]
    if wave is None or not (history or wave.stride):
        return None
    deepest = min(max(pipeline.depths), wave.tiles)
    return wave if _power_of_two(deepest) * wave.row * wave.services.itemsize <= MOST_RING_BYTES else None


def _wavefront(pipeline: Pipeline, layout: Layout) -> Wavefront | None:
    count, tiles = len(layout.stages), int(layout.stages[0, at.FIRINGS])
    if count < FEWEST_STAGES or tiles < TILES_A_STAGE * count or not _is_chain(layout):
        return None
    services = [pipeline.stages[s].service_pattern for s in pipeline.topological_order]
    if any(1 < len(pattern.values) < tiles for pattern in services):
        return None
    times = np.int32 if layout.longest < 2**31 - 1 else np.int64
    width = -(-count // LANES) * LANES
    steps = tiles + count - 1 if any(len(pattern.values) > 1 for pattern in services) else 1
    skewed, latencies = np.zeros((steps, width), times), np.zeros(width, times)
    for s, pattern in enumerate(services):
        if steps == 1 or len(pattern.values) == 1:
            skewed[:, s] = pattern.values[0]
        else:
            skewed[s : s + tiles, s] = pattern.values[:tiles]
    edges = (layout.stages[:-1, at.OUT_1] // at.EDGE_WORDS).astype(np.int64)
    latencies[: count - 1] = layout.edges[edges, at.LATENCY]
    stride = width if steps > 1 else 0
    return Wavefront(count, tiles, width, 1 << width.bit_length(), skewed.reshape(-1), latencies, stride, edges)


def _is_chain(layout: Layout) -> bool:
    """Whether the pipeline is one line of plain stages that hand every token on."""
    stages, edges = layout.stages, layout.edges
    one_in, one_out = np.ones(len(stages), np.uint64), np.ones(len(stages), np.uint64)
    one_in[0] = one_out[-1] = 0
    regular = (edges[:, at.TAKES_ONE] & edges[:, at.GIVES_ONE] & (1 - edges[:, at.AT_END])).all()
    return bool(
        regular
        and (stages[:, at.KIND] & at.PLAIN != 0).all()
        and (stages[:, at.INPUT_COUNT] == one_in).all()
        and (stages[:, at.OUTPUT_COUNT] == one_out).all()
        and (stages[1:, at.IN_1] == stages[:-1, at.OUT_1]).all()
        and (stages[:, at.FIRINGS] == stages[0, at.FIRINGS]).all()
    )


def _power_of_two(size: int) -> int:
    """The next one, size >= 1."""
    return 1 << (size - 1).bit_length()


def run_wavefront(wave: Wavefront, state: State) -> None:
    """Take a state to its end."""
    from kernels.sim_wavefront import wavefront_of

    times, lanes = wave.services.dtype, wave.width
    depths = state.edges[wave.edges, at.DEPTH]
    apart = np.full(lanes, wave.row, np.uint32)
    apart[: len(depths)] = depths * np.uint64(wave.row)
    free, blocked, arrivals = np.zeros(lanes, times), np.zeros(lanes, times), np.zeros(lanes + 1, times)
    ring = np.zeros(_power_of_two(int(depths.max())) * wave.row, times)
    peaks, rising = np.ones(len(depths), np.uint64), np.empty(len(depths), np.uint64)
    of_stages: tuple[Any, ...] = free, arrivals, blocked, wave.latencies, wave.services
    where = np.empty(4, np.uint64)
    counts = wave.stages, wave.tiles, wave.stride
    kernel = wavefront_of(times.itemsize * 8)
    kernel(*of_stages, ring, apart, peaks, rising, state.starts, state.ends, where, *counts)
    state.stages[:, at.FIRED] = state.edges[:, at.PUSHED] = state.edges[:, at.RELEASED] = wave.tiles
    state.stages[:, at.FREE], state.stages[:, at.BLOCKED] = free[: wave.stages], blocked[: wave.stages]
    state.edges[wave.edges, at.PEAK] = peaks
