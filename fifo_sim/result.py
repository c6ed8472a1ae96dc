"""What a simulation found: cycles, times, occupancies, and where every cycle of every stage went."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

CAUSES = ("busy", "starved", "blocked", "resource", "drained")
Ints = npt.NDArray[np.int64]
Times = dict[str, Ints]


@dataclass(frozen=True)
class Kept:
    """The times of firings as a run leaves them.

    Attributes:
        times: of all stages.
        places: for each stage, (first, end, stride) of its own among them.
    """

    times: Ints
    places: list[tuple[int, int, int]]

    def of(self, names: tuple[str, ...]) -> Times:
        """By stage."""
        return {
            name: self.times[first:end:stride] for name, (first, end, stride) in zip(names, self.places, strict=True)
        }


@dataclass(frozen=True, eq=False)
class SimResult:
    """Exact account of one run.

    Attributes:
        cycles: cycle in which the last firing ends; None on deadlock.
        deadlock: whether firings remain that can never happen.
        max_occupancy: largest number of tokens in each FIFO, in edge order, as a register that counts up on a push and
            down on a slot given back shows it at a clock edge (both in one cycle leave it as it is).
        horizon: `cycles`; on deadlock the last cycle in which a firing started, finished computing or pushed a token.
        names: of the stages.
        ledger: for each stage the cycles it was busy, starved (inputs missing), blocked (outputs full), waiting for a
            port (resource) and drained (all firings done): int64 of shape (stages, 5), rows that sum to `horizon`.
        kept_starts, kept_ends: the times of all firings; None without history.
    """

    cycles: int | None
    deadlock: bool
    max_occupancy: list[int]
    horizon: int
    names: tuple[str, ...] = field(repr=False)
    ledger: Ints = field(repr=False)
    kept_starts: Kept | None = field(default=None, repr=False)
    kept_ends: Kept | None = field(default=None, repr=False)

    @cached_property
    def stalls(self) -> dict[str, dict[str, int]]:
        """The ledger by stage and cause."""
        return {
            name: dict(zip(CAUSES, row, strict=True))
            for name, row in zip(self.names, self.ledger.tolist(), strict=True)
        }

    @cached_property
    def start_times(self) -> Times | None:
        """By stage, int64 with one entry for each firing that started: all, or those up to a deadlock; or None."""
        return None if self.kept_starts is None else self.kept_starts.of(self.names)

    @cached_property
    def end_times(self) -> Times | None:
        """The same for each firing that ended."""
        return None if self.kept_ends is None else self.kept_ends.of(self.names)

    @cached_property
    def starts(self) -> dict[str, list[int]] | None:
        """`start_times` as lists."""
        return _lists(self.start_times)

    @cached_property
    def ends(self) -> dict[str, list[int]] | None:
        """`end_times` as lists."""
        return _lists(self.end_times)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        names = ("cycles", "deadlock", "horizon", "max_occupancy", "stalls", "starts", "ends")
        return {name: getattr(self, name) for name in names}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SimResult) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]


def _lists(times: Times | None) -> dict[str, list[int]] | None:
    return None if times is None else {name: array.tolist() for name, array in times.items()}
