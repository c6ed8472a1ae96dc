"""What a caller may hand over for a pipeline, and how its FIFOs and stages are called in tables and sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fifo_sim.pattern import Ints
from fifo_sim.pipeline import Pipeline
from vit.errors import InputError, require_int

if TYPE_CHECKING:
    from fifo_sim.lowering import Lowered

    Given = Pipeline | Mapping[str, Any] | Lowered

LARGEST_TOKEN = 1 << 32  # bytes; keeps totals within 64 bits for any depth that can be simulated


def pipeline_of(given: Given) -> Pipeline:
    """The pipeline in a Pipeline, in a dict of the kind `Pipeline.from_dict` reads, or in a network laid out.

    Raises:
        InputError: the dict is no pipeline, or it is none of these.
    """
    pipeline: Any = getattr(given, "pipeline", given)
    return pipeline if isinstance(pipeline, Pipeline) else Pipeline.from_dict(pipeline)


def slot_bytes(given: Given, token_bytes: int | Sequence[int] | None) -> Ints:
    """Bytes of one slot of each FIFO, int64 of shape (edges,).

    Args:
        token_bytes: one number for all or one for each; None means what a network laid out knows, otherwise 1.

    Raises:
        InputError: another number of FIFOs, or something else than whole numbers >= 1.
    """
    edges = len(pipeline_of(given).edges)
    if token_bytes is None:
        token_bytes = 1 if isinstance(given, (Pipeline, Mapping)) else given.token_bytes
    if isinstance(token_bytes, (int, np.integer)):
        token_bytes = [int(token_bytes)] * edges
    if not isinstance(token_bytes, (Sequence, np.ndarray)):
        raise InputError("token_bytes", token_bytes, "a whole number >= 1, or one for each FIFO")
    if len(token_bytes) != edges:
        raise InputError("token_bytes", f"{len(token_bytes)} numbers", f"one number, or {edges}, one a FIFO")
    sizes = [size.item() if isinstance(size, np.generic) else size for size in token_bytes]
    return np.array([require_int("token_bytes", size, 1, LARGEST_TOKEN) for size in sizes], dtype=np.int64)


def fifo_names(pipeline: Pipeline) -> list[str]:
    """Names of the FIFOs in edge order: "a->b", and "a->b #2" for the second between the same two stages."""
    seen: Counter[str] = Counter()
    names = []
    for edge in pipeline.edges:
        seen[edge.name] += 1
        names.append(edge.name if seen[edge.name] == 1 else f"{edge.name} #{seen[edge.name]}")
    return names


def port_names(pipeline: Pipeline) -> list[str]:
    """Names of the ports in order: "port 0 (a, b, c)", with at most three stages told."""
    names = []
    for p, resource in enumerate(pipeline.resources):
        shown = [*resource.order[:3], "..."] if len(resource.order) > 3 else resource.order
        names.append(f"port {p} ({', '.join(shown)})")
    return names


def unlimited_depths(pipeline: Pipeline) -> Ints:
    """Depths that hold all tokens ever written: no FIFO is ever full."""
    return np.array([pipeline.firings[pipeline.index[edge.src]] for edge in pipeline.edges], dtype=np.int64)


def without_priority(pipeline: Pipeline) -> Pipeline:
    """The same pipeline without its priority ports: no firing happens later, and deeper FIFOs never slow it down.

    That nothing is later holds because the schedule with the ports keeps all the other rules too.
    """
    kept = tuple(resource for resource in pipeline.resources if resource.policy != "priority")
    return pipeline if len(kept) == len(pipeline.resources) else replace(pipeline, resources=kept)
