"""How fast pipelines are simulated: nanoseconds a firing, sweeps, the steady state, and changes of one depth.

    python benchmarks/simulator.py [--seconds 2] [--only chain simpy vit many steady change]

Each figure is the best of many calls, both sides of a comparison in this one process. A firing is one stage working on
one tile. Single thread, but for sweeps (all processors). SimPy comes with the extra `bench`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from fifo_sim import Edge, Hardware, Incremental, Pipeline, Stage, lower, simulate, simulate_many
from vit import ViTConfig

STAGES, TILES, DEPTH = 40, 4096, 4
SIMPY_TILES = 256  # of the same chain: SimPy takes as long for each firing, however many there are
SETTINGS = 10_000


def best(function: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest call among those of about so many seconds; three calls at least."""
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return min(times)


def chain(tiles: int = TILES, each_its_own: bool = False) -> Pipeline:
    """A chain of 40 stages; service times of 1 to 19 cycles, the same for all firings or drawn for each."""
    rng = np.random.default_rng(0)
    size = tiles if each_its_own else None
    stages = [Stage(f"s{i}", rng.integers(1, 20, size)) for i in range(STAGES)]
    return Pipeline(tiles, stages, [Edge(f"s{i}", f"s{i + 1}", DEPTH) for i in range(STAGES - 1)])


def vit() -> Pipeline:
    """The streaming machine of a ViT of 4 blocks with windowed attention, 65 tokens an image, 50 images."""
    return lower(ViTConfig(depth=4), Hardware.preset("zcu104"), tile=1, fifo=4, attention="window", images=50).pipeline


def show(what: str, figure: str) -> None:
    print(f"{what:<66} {figure}", flush=True)


def run_chain(seconds: float) -> None:
    for name, pipeline in (("one service time a stage", chain()), ("one a firing", chain(each_its_own=True))):
        firings = sum(pipeline.firings)
        for history, told in ((False, "cycles, stalls, peaks"), (True, "and all times")):
            took = best(lambda p=pipeline, h=history: simulate(p, h), seconds)  # type: ignore[misc]
            show(f"chain of {STAGES} x {TILES}, {name}: {told}", f"{took / firings * 1e9:.2f} ns a firing")


def run_simpy(seconds: float) -> None:
    pipeline, short = chain(each_its_own=True), chain(SIMPY_TILES, each_its_own=True)
    ours = best(lambda: simulate(pipeline), seconds) / sum(pipeline.firings)
    theirs = best(lambda: simpy_chain(short), seconds) / sum(short.firings)
    show("the same chain with all times, against SimPy", f"{theirs / ours:.0f} times as fast ({theirs * 1e9:.0f} ns)")


def simpy_chain(pipeline: Pipeline) -> float:
    """The chain in SimPy: a process a stage, a Store a FIFO; the time of its end."""
    import simpy

    env = simpy.Environment()
    stores = [simpy.Store(env, capacity=edge.depth) for edge in pipeline.edges]

    def work(i: int):  # type: ignore[no-untyped-def]
        for service in pipeline.stages[i].service_pattern.expand(pipeline.firings[i]).tolist():
            if i:
                yield stores[i - 1].get()
            yield env.timeout(service)
            if i < len(stores):
                yield stores[i].put(None)

    for i in range(len(pipeline.stages)):
        env.process(work(i))
    env.run()
    return float(env.now)


def run_vit(seconds: float) -> None:
    pipeline = vit()
    firings, stages = sum(pipeline.firings), len(pipeline.stages)
    for history, told in ((False, "cycles, stalls, peaks"), (True, "and all times")):
        took = best(lambda h=history: simulate(pipeline, h), seconds)  # type: ignore[misc]
        show(f"ViT of 4 blocks, {stages} stages: {told}", f"{took / firings * 1e9:.2f} ns a firing")


def run_many(seconds: float) -> None:
    for name, pipeline in (("chain", chain(each_its_own=True)), ("ViT", vit())):
        rng = np.random.default_rng(1)
        least = np.array([1] * len(pipeline.edges) if name == "chain" else pipeline.depths)
        settings = least + rng.integers(0, 8, (SETTINGS, len(pipeline.edges)))
        took = best(lambda p=pipeline, s=settings: simulate_many(p, s), seconds)  # type: ignore[misc]
        rate = SETTINGS * sum(pipeline.firings) / took / 1e9
        show(f"{SETTINGS} depth settings of the {name}", f"{took:.2f} s, {rate:.2f} G firings a second")


def run_steady(seconds: float) -> None:
    pipeline = chain(10**9)
    show("chain of 40 x 10^9 tiles", f"{best(lambda: simulate(pipeline, False), seconds) * 1e3:.2f} ms")


def run_change(seconds: float) -> None:
    run = Incremental(vit())
    full = best(lambda: simulate(run.pipeline), seconds)
    shares = []
    for e, depth in enumerate(run.pipeline.depths):
        times = []
        for _ in range(9):
            begin = time.perf_counter()
            run.set_depth(e, depth + 1)
            times.append(time.perf_counter() - begin)
            run.set_depth(e, depth)
        shares.append(min(times) / full)
    show(
        "ViT, one FIFO one slot deeper",
        f"{statistics.median(shares):.1%} of a run at the median, {max(shares):.1%} at most",
    )


RUNS = {
    "chain": run_chain,
    "simpy": run_simpy,
    "vit": run_vit,
    "many": run_many,
    "steady": run_steady,
    "change": run_change,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2, help="for each figure")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    arguments = parser.parse_args()
    simulate(chain(8))  # compiled or loaded before the first clock starts
    simulate_many(chain(8), np.ones((16, STAGES - 1), int))
    for name in arguments.only:
        RUNS[name](arguments.seconds)


if __name__ == "__main__":
    main()
