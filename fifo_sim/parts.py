"""The parts of a streaming pipeline: stages, the FIFOs between them, the ports they share. Each validates itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from fifo_sim.pattern import LARGEST, Pattern, constant, pairs_in_chunks, parse_pattern, whole_number
from vit.errors import InputError, require_choice, require_int

MODES = ("bas", "bbs")
FORKS = ("lazy", "eager")
RELEASES = ("start", "end")
POLICIES = ("rotate", "priority")
LONGEST_NAME = 80  # in a message
EACH_ITS_OWN = Pattern([1], 1)  # k + 1

Service = int | Sequence[int] | npt.NDArray[np.integer[Any]] | Mapping[str, Any] | Pattern
Sizes = Sequence[int] | npt.NDArray[np.integer[Any]] | Mapping[str, Any] | Pattern


@dataclass(frozen=True)
class Stage:
    """One unit of the pipeline; firing k takes its inputs, computes, and writes one token to each output.

    Attributes:
        name: unique in the pipeline.
        service: cycles a firing computes, >= 1: one number for all, or one per firing (list or integer array), or
            {"repeat": [...]} for a period; kept as a Pattern.
        firings: how often it fires; None means the pipeline's `tiles`.
        mode: "bas" (blocking after service: a start needs inputs only) or "bbs" (before service: also a free slot in
            every output).
        fork: "lazy" (all outputs are written in one cycle) or "eager" (each as soon as it has room).

    Raises:
        InputError: a field is out of its range.
    """

    name: str
    service: Service = 1
    firings: int | None = None
    mode: str = "bas"
    fork: str = "lazy"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InputError("stage name", self.name, "a text that is not empty")
        try:
            self._check()
        except InputError as error:
            raise belonging("stage", self.name, error) from None

    def _check(self) -> None:
        service = whole_number(self.service)
        if isinstance(service, int):
            pattern = constant(require_int("service", service, 1, LARGEST))
        else:
            pattern = parse_pattern("service", service, low=1, grows=False)
        object.__setattr__(self, "service", pattern)
        if self.firings is not None:
            _set_whole(self, "firings", self.firings)
        require_choice("mode", self.mode, MODES)
        require_choice("fork", self.fork, FORKS)

    @property
    def service_pattern(self) -> Pattern:
        """The service times."""
        return cast(Pattern, self.service)


@dataclass(frozen=True)
class Edge:
    """A FIFO from one stage to another; each firing of `src` writes one token, and `dst` reads them in order.

    Attributes:
        src, dst: names of stages.
        depth: slots, >= 1.
        latency: cycles from the push of a token to its being visible, >= 1.
        need: need[k] tokens must ever have been written before firing k of `dst` may start; None means k + 1. A list or
            integer array with one entry a firing, or {"repeat": [...], "step": n}. Non-decreasing.
        rel: rel[k] tokens are given back in all by firing k; None means k + 1. Non-decreasing, never beyond need. An
            entry below 0 counts as 0, so that a window may be written k + 1 - w.
        release: "start" or "end" of a firing of `dst`: when its slots come back.

    Raises:
        InputError: a field is out of its range.
    """

    src: str
    dst: str
    depth: int
    latency: int = 1
    need: Sizes | None = EACH_ITS_OWN
    rel: Sizes | None = EACH_ITS_OWN
    release: str = "start"

    def __post_init__(self) -> None:
        try:
            self._check()
        except InputError as error:
            raise belonging("edge", self.name, error) from None

    def _check(self) -> None:
        for end, name in (("src", self.src), ("dst", self.dst)):
            if not isinstance(name, str):
                raise InputError(end, name, "the name of a stage")
        _set_whole(self, "depth", self.depth)
        _set_whole(self, "latency", self.latency)
        require_choice("release", self.release, RELEASES)
        if self.need is not EACH_ITS_OWN:
            need = EACH_ITS_OWN if self.need is None else parse_pattern("need", self.need, low=0)
            object.__setattr__(self, "need", need)
        if self.rel is not EACH_ITS_OWN:
            rel = EACH_ITS_OWN if self.rel is None else parse_pattern("rel", self.rel, low=-LARGEST)
            object.__setattr__(self, "rel", rel if rel.at(0) >= 0 else _without_negatives(rel))

    @property
    def name(self) -> str:
        """What messages and tables call this FIFO: "src->dst"."""
        return f"{self.src}->{self.dst}"

    @property
    def need_pattern(self) -> Pattern:
        """The token counts that firings wait for."""
        return cast(Pattern, self.need)

    @property
    def rel_pattern(self) -> Pattern:
        """The token counts that firings have given back."""
        return cast(Pattern, self.rel)


@dataclass(frozen=True)
class Resource:
    """One port that several stages share: held from the start of a firing for its service time.

    Attributes:
        order: names of the stages, each once.
        policy: "rotate" (they start in strict cyclic order; a stage that has fired for the last time is passed over) or
            "priority" (a free port goes to the first stage in `order` that lacks nothing else).

    A stage may use several rotating ports, and one with priority at most.

    Raises:
        InputError: a field is out of its range.
    """

    order: tuple[str, ...]
    policy: str = "rotate"

    def __post_init__(self) -> None:
        if isinstance(self.order, str) or not isinstance(self.order, Sequence) or not self.order:
            raise InputError("resource order", self.order, "a list of stage names")
        for name in self.order:
            if not isinstance(name, str):
                raise InputError("resource order", name, "the name of a stage")
        refuse_twice("resource order", self.order)
        object.__setattr__(self, "order", tuple(self.order))
        require_choice("resource policy", self.policy, POLICIES)


def refuse_twice(field: str, names: Sequence[str]) -> None:
    """An InputError for the first name that appears again."""
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InputError(field, twice, "names that appear once each")


def _without_negatives(pattern: Pattern) -> Pattern:
    if pattern.count is None:
        raise InputError("rel.repeat", int(pattern.values[0]), "whole numbers >= 0 in a repeating sequence")
    return Pattern(np.maximum(pattern.expand(pattern.count), 0), written_out=True)


def _set_whole(part: Stage | Edge, field: str, value: object) -> None:
    if type(value) is int and 1 <= value <= LARGEST:
        return
    object.__setattr__(part, field, require_int(field, whole_number(value), 1, LARGEST))


def belonging(kind: str, name: str, error: InputError) -> InputError:
    """The error again, with the stage or edge that its field belongs to."""
    name = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "..."
    return InputError(f"{kind} {name} {error.field}", error.value, error.allowed, error.hint)


def stage_dict(stage: Stage, firings: int, tiles: int | None, written_out: bool) -> dict[str, Any]:
    """The stage as JSON values, usual settings left out."""
    service = stage.service_pattern
    plain: dict[str, Any] = {"name": stage.name}
    plain["service"] = service.most if len(service.values) == 1 else service.to_json(firings, written_out)
    if firings != tiles:
        plain["firings"] = firings
    if stage.mode != "bas":
        plain["mode"] = stage.mode
    return plain if stage.fork == "lazy" else plain | {"fork": stage.fork}


def edge_dict(edge: Edge, reads: int, written_out: bool) -> dict[str, Any]:
    """The FIFO as JSON values, usual settings left out; `reads` is the firings of its consumer."""
    plain: dict[str, Any] = {"src": edge.src, "dst": edge.dst, "depth": edge.depth}
    if edge.latency != 1:
        plain["latency"] = edge.latency
    for name in ("need", "rel"):
        pattern = getattr(edge, name)
        if pattern != EACH_ITS_OWN:
            plain[name] = pattern.to_json(reads, written_out)
    return plain if edge.release == "start" else plain | {"release": edge.release}


def check_sequences(edge: Edge, writes: int, reads: int) -> None:
    """An InputError where need or rel do not fit a producer with `writes` firings and a consumer with `reads`."""
    need, rel = edge.need_pattern, edge.rel_pattern
    for name, pattern in (("need", need), ("rel", rel)):
        check_length(name, pattern, reads)
        _check_never_falls(name, pattern, reads)
    if need.at(reads - 1) > writes:
        hint = f"firing {reads - 1} of {edge.dst} would wait for ever"
        raise InputError("need", need.at(reads - 1), f"at most {writes}, all that {edge.src} ever writes", hint)
    if need == rel:
        return
    for first, wanted, given in pairs_in_chunks(need, rel, reads):
        beyond = np.flatnonzero(given > wanted)
        if len(beyond):
            k = int(beyond[0])
            raise InputError(f"rel[{first + k}]", int(given[k]), f"at most need[{first + k}] = {wanted[k]}")


def check_length(field: str, pattern: Pattern, firings: int) -> None:
    """An InputError where a sequence was written out with another length than one entry a firing."""
    if pattern.count is not None and pattern.count != firings:
        raise InputError(field, f"{pattern.count} entries", f"{firings} entries, one a firing")


def _check_never_falls(field: str, pattern: Pattern, firings: int) -> None:
    shown = min(firings, len(pattern.values) + 1) if pattern.pure else firings
    values = pattern.expand(shown)
    falls = np.flatnonzero(np.diff(values) < 0)
    if len(falls):
        k = int(falls[0])
        allowed = f"at least {values[k]}, the entry before: it may not fall"
        raise InputError(f"{field}[{k + 1}]", int(values[k + 1]), allowed)
