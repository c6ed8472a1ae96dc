"""FIFO sizing of four-block Vision Transformers: time, bytes and open gap, beside what a designer does by hand.

    python benchmarks/sizing.py [--rounds 3] [--images 4] [--seconds 10]

By hand: each FIFO as deep as it ever was in a simulation with FIFOs without limit (for full speed; so do FINN's and
hls4ml's sizing runs). The columns: cycles, bytes of this tool, the gap to its lower bound (0: proven smallest), bytes
by hand, their ratio, and the seconds of the fastest round of either. The last lines are whole Pareto fronts. Graphs:
dim 128, 4 heads, 32x32 images in 65 tokens on a ZCU104 (54 stages), three kinds of attention, tiles of 8 and 4 tokens.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from fifo_sim import Lowered, lower, min_depths, pareto_depths, simulate
from vit.config import ViTConfig

Result = TypeVar("Result")


def main() -> None:
    """Print one line for each graph and target, then one for each front."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0, help="most time of one search")
    arguments = parser.parse_args()
    graphs = {
        f"{attention}, tile {tile}": lower(
            ViTConfig(depth=4), "zcu104", tile=tile, attention=attention, images=arguments.images
        )
        for attention in ("full", "window", "tile")
        for tile in (8, 4)
    }
    min_depths(next(iter(graphs.values())), "deadlock-free")  # kernels compile once, outside the timings
    print(f"{'graph':<16} {'target':<14} {'cycles':>9} {'bytes':>9} {'gap':>5} {'by hand':>9} {'ratio':>6}    seconds")
    for name, lowered in graphs.items():
        hand, hand_seconds = fastest(arguments.rounds, lambda lowered=lowered: by_hand(lowered))
        for target in ("full-speed", hand[1] * 11 // 10, hand[1] * 3 // 2, "deadlock-free"):
            found, seconds = fastest(
                arguments.rounds,
                lambda lowered=lowered, target=target: min_depths(lowered, target, seconds=arguments.seconds),
            )
            print(
                f"{name:<16} {target:<14} {found.cycles:>9} {found.total_bytes:>9} {found.gap:>5} {hand[0]:>9} "
                f"{hand[0] / found.total_bytes:>5.2f}x    {seconds:.3f} / {hand_seconds:.3f}"
            )
    for name, lowered in graphs.items():
        front, seconds = fastest(1, lambda lowered=lowered: pareto_depths(lowered, seconds=arguments.seconds))
        proven = sum(depths.proven for *_, depths in front)
        print(f"{name:<16} front: {len(front)} points, {proven} proven, whole: {front.proven}, {seconds:.2f} s")


def by_hand(lowered: Lowered) -> tuple[int, int]:
    """(bytes, cycles at full speed) with every FIFO one deeper than it ever was without limit."""
    pipeline = lowered.pipeline
    unlimited = [pipeline.firings[pipeline.index[edge.src]] for edge in pipeline.edges]
    result = simulate(pipeline.with_depths(unlimited), history=False)
    depths = np.array(result.max_occupancy) + 1
    cycles = simulate(pipeline.with_depths(depths), history=False).cycles
    assert cycles == result.cycles
    return int(depths @ np.array(lowered.token_bytes)), cycles


def fastest(rounds: int, call: Callable[[], Result]) -> tuple[Result, float]:
    """(the last result, seconds of the fastest round)."""
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        result = call()
        best = min(best, time.perf_counter() - began)
    return result, best


if __name__ == "__main__":
    main()
