"""Random pipelines with every feature, for comparisons of one simulator with another."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Any

KINDS = ("chain", "residual", "attention", "ports", "dag")


def random_pipeline(rng: Random, kind: str | None = None, tiles: int = 12) -> dict[str, Any]:
    """A pipeline as a dict: a chain, residual blocks, attention over windows or images, shared ports, or any DAG.

    About a third of those with windows or forks deadlock. `tiles` bounds the firings of a stage, roughly.
    """
    kind = kind or rng.choice(KINDS)
    n = rng.randint(1, tiles)
    make = {"chain": _chain, "residual": _residual, "attention": _attention, "ports": _chain, "dag": _dag}[kind]
    names, joins = make(rng)
    firings = _firings(rng, names, n) if kind in ("chain", "ports", "dag") and rng.random() < 0.5 else {}
    pipeline: dict[str, Any] = {
        "tiles": n,
        "stages": [_stage(rng, name, firings.get(name, n)) for name in names],
        "edges": [_edge(rng, kind, src, dst, firings.get(src, n), firings.get(dst, n)) for src, dst in joins],
    }
    for stage in pipeline["stages"]:
        if firings.get(stage["name"], n) != n:
            stage["firings"] = firings[stage["name"]]
    if kind == "ports" or rng.random() < 0.2:
        pipeline["resources"] = _ports(rng, names)
    if rng.random() < 0.3:
        rng.shuffle(pipeline["stages"])
    return pipeline


def _chain(rng: Random) -> tuple[list[str], list[tuple[str, str]]]:
    names = [f"s{i}" for i in range(rng.randint(1, 7))]
    return names, list(pairwise(names))


def _residual(rng: Random) -> tuple[list[str], list[tuple[str, str]]]:
    names, joins = ["in"], []
    for block in range(rng.randint(1, 3)):
        branch = [names[-1]] + [f"b{block}_{i}" for i in range(rng.randint(1, 3))]
        join = f"add{block}"
        joins += [*pairwise(branch), (branch[-1], join), (branch[0], join)]
        names += [*branch[1:], join]
    return names, joins


def _attention(rng: Random) -> tuple[list[str], list[tuple[str, str]]]:
    names = ["in", "qkv", "scores", "context", "add", "out"]
    joins = [("in", "qkv"), ("in", "add"), ("qkv", "scores"), ("qkv", "context"), ("scores", "context")]
    return names, [*joins, ("context", "add"), ("add", "out")]


def _dag(rng: Random) -> tuple[list[str], list[tuple[str, str]]]:
    names = [f"n{i}" for i in range(rng.randint(2, 8))]
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    joins = rng.sample(pairs, min(len(pairs), rng.randint(1, 2 * len(names))))
    if rng.random() < 0.2:
        joins.append(rng.choice(joins))  # two FIFOs side by side
    return names, sorted(joins)


def _firings(rng: Random, names: list[str], n: int) -> dict[str, int]:
    return {name: rng.choice((n, n, 2 * n, max(1, n // 2), rng.randint(1, n))) for name in names}


def _stage(rng: Random, name: str, firings: int) -> dict[str, Any]:
    slow = rng.choice((1, 2, 5, 9))
    service: Any = rng.randint(1, slow)
    if rng.random() < 0.4:
        service = [rng.randint(1, slow) for _ in range(firings)]
    stage = {"name": name, "service": service}
    if rng.random() < 0.3:
        stage["mode"] = "bbs"
    if rng.random() < 0.4:
        stage["fork"] = "eager"
    return stage


def _edge(rng: Random, kind: str, src: str, dst: str, writes: int, reads: int) -> dict[str, Any]:
    edge: dict[str, Any] = {"src": src, "dst": dst, "depth": rng.choice((1, 1, 2, 3, 4, rng.randint(1, 2 * writes)))}
    if rng.random() < 0.3:
        edge["latency"] = rng.randint(2, 5)
    if rng.random() < 0.3:
        edge["release"] = "end"
    if kind == "attention" and dst in ("scores", "context"):
        edge |= _image(rng, reads) if rng.random() < 0.5 else _window(rng, reads)
        if rng.random() < 0.7:
            edge["depth"] = rng.randint(max(1, writes - 1), 2 * writes)
    elif reads != writes or rng.random() < 0.2:
        edge |= _uneven(rng, writes, reads)
    return edge


def _image(rng: Random, n: int) -> dict[str, Any]:
    """Full attention over images of some tiles, the slots given back at an image's end."""
    image = rng.randint(1, n)
    need = [min(n, image * (k // image + 1)) for k in range(n)]
    rel = [min(n, (k + 1) // image * image) if k < n - 1 else n for k in range(n)]
    return {"need": need, "rel": rel}


def _window(rng: Random, n: int) -> dict[str, Any]:
    look, width = rng.randint(0, 3), rng.randint(0, 3)
    return {"need": [min(n, k + 1 + look) for k in range(n)], "rel": [k + 1 - width for k in range(n)]}


def _uneven(rng: Random, writes: int, reads: int) -> dict[str, Any]:
    """Any non-decreasing need, and a rel that keeps below it."""
    need = sorted(rng.randint(0, writes) for _ in range(reads))
    if rng.random() < 0.5:
        need = [writes * (k + 1) // reads for k in range(reads)]
    rel, given = [], 0
    for wanted in need:
        given = wanted if rng.random() < 0.6 else rng.randint(given, wanted)
        rel.append(given)
    if rng.random() < 0.8:
        rel[-1] = need[-1]
    return {"need": need, "rel": rel}


def _ports(rng: Random, names: list[str]) -> list[dict[str, Any]]:
    """Ports among stages in an order of their own; each stage has one priority port at most."""
    ports, ranked = [], set()
    for _ in range(rng.randint(1, 2)):
        order = rng.sample(names, rng.randint(1, len(names)))
        policy = rng.choice(("rotate", "priority"))
        if policy == "rotate" and rng.random() < 0.7:
            order = [name for name in names if name in order]
        if policy == "priority":
            order = [name for name in order if name not in ranked]
            ranked.update(order)
        if order:
            ports.append({"order": order, "policy": policy})
    return ports
