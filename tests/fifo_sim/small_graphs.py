"""Very small random pipelines with any need and rel at all: where two rules meet by chance, mistakes show."""

from __future__ import annotations

from random import Random
from typing import Any


def small_graph(rng: Random) -> dict[str, Any]:
    """Up to six stages, up to eight firings each, every option with a fair chance of being set."""
    count, tiles, uneven = rng.randint(1, 6), rng.randint(1, 8), rng.random() < 0.3
    stages = [_stage(rng, f"s{i}", uneven) for i in range(count)]
    firings = [stage.get("firings", tiles) for stage in stages]
    for stage, n in zip(stages, firings, strict=True):
        if rng.random() < 0.4:
            stage["service"] = [rng.randint(1, 6) for _ in range(n)]
    edges = [
        _edge(rng, i, j, firings[i], firings[j])
        for j in range(1, count)
        for i in range(j)
        if rng.random() < 0.45 or (i == j - 1 and rng.random() < 0.7)
    ]
    graph: dict[str, Any] = {"tiles": tiles, "stages": stages, "edges": edges}
    if rng.random() < 0.4 and count >= 2:
        names = [stage["name"] for stage in stages]
        rng.shuffle(names)
        graph["resources"] = [{"order": names[: rng.randint(2, count)], "policy": rng.choice(["rotate", "priority"])}]
    return graph


def _stage(rng: Random, name: str, uneven: bool) -> dict[str, Any]:
    stage: dict[str, Any] = {"name": name, "service": rng.randint(1, 5)}
    if uneven and rng.random() < 0.5:
        stage["firings"] = rng.randint(1, 8)
    if rng.random() < 0.3:
        stage["mode"] = "bbs"
    if rng.random() < 0.3:
        stage["fork"] = "eager"
    return stage


def _edge(rng: Random, i: int, j: int, writes: int, reads: int) -> dict[str, Any]:
    edge: dict[str, Any] = {"src": f"s{i}", "dst": f"s{j}", "depth": rng.randint(1, 4)}
    if rng.random() < 0.3:
        edge["latency"] = rng.randint(1, 4)
    if rng.random() < 0.3:
        edge["release"] = "end"
    if writes < reads or rng.random() < 0.4:
        edge["need"] = sorted(rng.randint(0, writes) for _ in range(reads))
        wished = sorted(rng.randint(0, writes) for _ in range(reads))
        edge["rel"] = [min(pair) for pair in zip(wished, edge["need"], strict=True)]
    return edge
