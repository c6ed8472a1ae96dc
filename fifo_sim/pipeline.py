"""A streaming pipeline: stages joined by FIFOs, as a validated value. Needs no numba.

What one clock does with it is written in `fifo_sim.simulator`; here stands what may be asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from fifo_sim.parts import (
    EACH_ITS_OWN,
    Edge,
    Resource,
    Stage,
    belonging,
    check_length,
    check_sequences,
    edge_dict,
    refuse_twice,
    stage_dict,
)
from fifo_sim.pattern import LARGEST, whole_number
from vit.errors import InputError, did_you_mean, require_int, require_known_keys
from vit.files import read_json

__all__ = ["Edge", "Pipeline", "Resource", "Stage"]

LARGEST_FILE_MIB = 64
MOST_PARTS = 200_000  # stages or edges in a dict or file
MOST_NAMES_COMPARED = 10_000  # for "did you mean"
LONGEST_LIST = 1 << 24  # entries that to_dict writes out before it turns to the repeating form


@dataclass(frozen=True)
class Pipeline:
    """Stages, the FIFOs that join them without a cycle, and the ports they share.

    Attributes:
        tiles: default number of firings of every stage; may be None if each stage has its own.
        stages, edges, resources: any number of each (one stage at least).

    Raises:
        InputError: a part is wrong, or the parts do not fit: names twice or unknown, a cycle, sequences of the wrong
            length, decreasing, giving back more than was needed, or needing more than is ever written.
    """

    tiles: int | None
    stages: tuple[Stage, ...]
    edges: tuple[Edge, ...] = ()
    resources: tuple[Resource, ...] = ()

    def __post_init__(self) -> None:
        if self.tiles is not None:
            object.__setattr__(self, "tiles", require_int("tiles", whole_number(self.tiles), 1, LARGEST))
        for name, kind in (("stages", Stage), ("edges", Edge), ("resources", Resource)):
            object.__setattr__(self, name, _all_of(name, getattr(self, name), kind))
        if not self.stages:
            raise InputError("stages", [], "at least one stage")
        refuse_twice("stages", [stage.name for stage in self.stages])
        for stage in self.stages:
            if stage.firings is None and self.tiles is None:
                raise InputError("tiles", None, "a whole number >= 1", f"stage {stage.name} has no firings of its own")
        self._check_names()
        self._check_sequences()
        self._check_ports()
        _ = self.topological_order

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each stage by name."""
        return {stage.name: i for i, stage in enumerate(self.stages)}

    @cached_property
    def firings(self) -> tuple[int, ...]:
        """Firings of each stage, in stage order."""
        return tuple(self.tiles if stage.firings is None else stage.firings for stage in self.stages)  # type: ignore[misc]

    @property
    def depths(self) -> tuple[int, ...]:
        """Depth of each FIFO, in edge order."""
        return tuple(edge.depth for edge in self.edges)

    @cached_property
    def topological_order(self) -> tuple[int, ...]:
        """Stage positions such that every FIFO leads from an earlier to a later one; the given order if it is one."""
        ends = [(self.index[edge.src], self.index[edge.dst]) for edge in self.edges]
        if all(src < dst for src, dst in ends):
            return tuple(range(len(self.stages)))
        followers: list[list[int]] = [[] for _ in self.stages]
        missing = [0] * len(self.stages)
        for src, dst in ends:
            followers[src].append(dst)
            missing[dst] += 1
        order = [i for i, count in enumerate(missing) if not count]
        for i in order:  # grows while it is walked
            for dst in followers[i]:
                missing[dst] -= 1
                if not missing[dst]:
                    order.append(dst)
        if len(order) < len(self.stages):
            names = [self.stages[i].name for i in _some_cycle(followers, missing)]
            raise InputError("edges", " -> ".join(names), "a graph without cycles", "take out one of these edges")
        return tuple(order)

    def with_depths(self, depths: Sequence[int] | npt.NDArray[np.integer[Any]]) -> Pipeline:
        """The same pipeline with these FIFO depths, in edge order."""
        count = len(depths) if hasattr(depths, "__len__") else None
        if count != len(self.edges):
            raise InputError("depths", depths if count is None else count, f"{len(self.edges)} numbers, one an edge")
        edges = tuple(
            edge if edge.depth == depth else replace(edge, depth=depth)
            for edge, depth in zip(self.edges, depths, strict=True)
        )
        changed = object.__new__(Pipeline)  # all but the depths was checked when self was made
        changed.__dict__.update(self.__dict__, edges=edges)
        return changed

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Pipeline:
        """The pipeline in a mapping as `to_dict` gives it: tiles, stages, edges, resources.

        Raises:
            InputError: an unknown key (the nearest known one is suggested), or anything the classes refuse.
        """
        if not isinstance(values, Mapping):
            raise InputError("pipeline", values, "a table with tiles, stages and edges")
        require_known_keys("pipeline", values, ["tiles", "stages", "edges", "resources"])
        return cls(
            values.get("tiles"),
            tuple(_parts("stages", values.get("stages"), Stage)),
            tuple(_parts("edges", values.get("edges", []), Edge)),
            tuple(_parts("resources", values.get("resources") or [], Resource)),
        )

    @classmethod
    def from_json(cls, path: str | Path) -> Pipeline:
        """The pipeline in a JSON file of at most 64 MiB.

        Raises:
            InputError: unreadable, too large, not JSON, or not a pipeline.
        """
        source = Path(path)
        if source.is_file() and source.stat().st_size > LARGEST_FILE_MIB << 20:
            raise InputError(
                "pipeline", str(path), f"a file of at most {LARGEST_FILE_MIB} MiB", 'long lists have a {"repeat"} form'
            )
        return cls.from_dict(read_json(path, "pipeline"))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what equals its default is left out. Sequences are written out, one entry a firing, unless
        that would be more than 2^24 entries in all: then those of `{"repeat": ..}` kind stay so."""
        patterns = [n for n, s in zip(self.firings, self.stages, strict=True) if len(s.service_pattern.values) > 1]
        for edge in self.edges:
            patterns += [self.firings[self.index[edge.dst]]] * (
                (edge.need != EACH_ITS_OWN) + (edge.rel != EACH_ITS_OWN)
            )
        written_out = sum(patterns) <= LONGEST_LIST
        plain: dict[str, Any] = {} if self.tiles is None else {"tiles": self.tiles}
        plain["stages"] = [
            stage_dict(s, n, self.tiles, written_out) for s, n in zip(self.stages, self.firings, strict=True)
        ]
        plain["edges"] = [edge_dict(e, self.firings[self.index[e.dst]], written_out) for e in self.edges]
        if self.resources:
            plain["resources"] = [{"order": list(r.order), "policy": r.policy} for r in self.resources]
        return plain

    def _check_names(self) -> None:
        for i, edge in enumerate(self.edges):
            if edge.src not in self.index or edge.dst not in self.index:
                end = "dst" if edge.src in self.index else "src"
                raise self._unknown(f"edges[{i}].{end}", getattr(edge, end))
        for i, resource in enumerate(self.resources):
            for name in resource.order:
                if name not in self.index:
                    raise self._unknown(f"resources[{i}].order", name)

    def _unknown(self, field: str, name: str) -> InputError:
        near = did_you_mean(name, self.index) if len(self.index) <= MOST_NAMES_COMPARED else ""
        return InputError(field, name, "the name of a stage", near)

    def _check_sequences(self) -> None:
        for stage, firings in zip(self.stages, self.firings, strict=True):
            try:
                check_length("service", stage.service_pattern, firings)
            except InputError as error:
                raise belonging("stage", stage.name, error) from None
        for edge in self.edges:
            writes, reads = self.firings[self.index[edge.src]], self.firings[self.index[edge.dst]]
            if edge.need is edge.rel is EACH_ITS_OWN and reads <= writes:
                continue
            try:
                check_sequences(edge, writes, reads)
            except InputError as error:
                raise belonging("edge", edge.name, error) from None

    def _check_ports(self) -> None:
        holder: dict[str, int] = {}
        for i, resource in enumerate(self.resources):
            for name in resource.order if resource.policy == "priority" else ():
                if name in holder:
                    raise InputError(
                        f"resources[{i}].order",
                        name,
                        f"stages in one priority port at most: it is in [{holder[name]}] too",
                    )
                holder[name] = i


Part = TypeVar("Part", Stage, Edge, Resource)
_KEYS: dict[type, list[str]] = {kind: list(kind.__dataclass_fields__) for kind in (Stage, Edge, Resource)}
_REQUIRED = {Stage: ["name", "service"], Edge: ["src", "dst", "depth"], Resource: ["order"]}


def _parts(field: str, values: object, kind: type[Part]) -> list[Part]:
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
        raise InputError(field, values, "a list of tables")
    if len(values) > MOST_PARTS:
        raise InputError(field, f"{len(values)} entries", f"at most {MOST_PARTS} entries")
    keys, required = _KEYS[kind], _REQUIRED[kind]
    parts = []
    for i, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise InputError(f"{field}[{i}]", value, "a table with " + ", ".join(keys))
        require_known_keys(f"{field}[{i}]", value, keys)
        for key in required:
            if key not in value:
                raise InputError(f"{field}[{i}]", dict(value), f"a table that has the key {key!r}")
        parts.append(kind(**value))
    return parts


def _all_of(field: str, values: object, kind: type[Part]) -> tuple[Part, ...]:
    if not isinstance(values, Sequence):
        raise InputError(field, values, f"a list of {kind.__name__}")
    for i, value in enumerate(values):
        if not isinstance(value, kind):
            raise InputError(f"{field}[{i}]", value, f"a {kind.__name__}", "a dict goes through Pipeline.from_dict")
    return tuple(values)


def _some_cycle(followers: list[list[int]], missing: list[int]) -> list[int]:
    """Stages along one cycle, the first repeated at its end. `missing` > 0 marks what lies on or behind a cycle."""
    before = {dst: src for src, dsts in enumerate(followers) if missing[src] for dst in dsts if missing[dst]}
    walk: dict[int, int] = {}
    at = next(iter(before))
    while at not in walk:
        walk[at] = len(walk)
        at = before[at]
    backwards = [*list(walk)[walk[at] :], at]
    return backwards[::-1]
