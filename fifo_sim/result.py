"""What a simulation found: cycles, times, occupancies, and where every cycle of every stage went."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

CAUSES = ("busy", "starved", "blocked", "resource", "drained")
Times = dict[str, npt.NDArray[np.int64]]


@dataclass(frozen=True)
class SimResult:
    """Exact account of one run.

    Attributes:
        cycles: cycle in which the last firing ends; None on deadlock.
        deadlock: whether firings remain that can never happen.
        max_occupancy: largest number of tokens in each FIFO, in edge order, as a register that counts up on a push and
            down on a slot given back shows it at a clock edge (both in one cycle leave it as it is).
        stalls: for each stage the cycles it was busy, starved (inputs missing), blocked (outputs full), waiting for a
            port (resource) and drained (all firings done). They sum to `horizon`.
        horizon: `cycles`; on deadlock the last cycle in which a firing started, finished computing or pushed a token.
        start_times, end_times: int64 array by stage, one entry for each firing that started (ended): all of them, or
            those up to the deadlock. None without history.
    """

    cycles: int | None
    deadlock: bool
    max_occupancy: list[int]
    stalls: dict[str, dict[str, int]]
    horizon: int
    start_times: Times | None = field(default=None, repr=False)
    end_times: Times | None = field(default=None, repr=False)

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
