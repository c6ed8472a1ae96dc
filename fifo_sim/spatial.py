"""Multipliers shared out among the layers of a spatial machine so that the slowest one is as fast as can be."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence

from vit.errors import InputError


class Task:
    """The multiply-accumulates that one layer does for an image, firing by firing; equal where the amounts are."""

    def __init__(self, macs: Sequence[int]) -> None:
        self.counts = Counter(macs)
        self.firings, self.total = len(macs), sum(macs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Task) and self.counts == other.counts

    def __hash__(self) -> int:
        return hash(frozenset(self.counts.items()))

    def cycles(self, lanes: int) -> int:
        """Cycles an image on that many lanes; each firing takes whole cycles, at least one."""
        return sum(count * max(1, -(-macs // lanes)) for macs, count in self.counts.items())

    def lanes_for(self, cycles: int) -> int | None:
        """Fewest lanes with which an image takes at most `cycles`; None if no number suffices."""
        if cycles < self.firings:
            return None
        low, high = max(1, -(-self.total // cycles)), max(1, *self.counts)
        if cycles > self.firings:  # rounding up costs less than a cycle a firing
            high = min(high, max(low, -(-self.total // (cycles - self.firings))))
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.cycles(middle) <= cycles else (middle + 1, high)
        return low


def share_lanes(tasks: Mapping[str, Task], lanes: int) -> dict[str, int]:
    """Lanes for each task, at most `lanes` together, such that the largest of their cycles is as small as possible.

    Exact: the fewest lanes a task needs for a given number of cycles never grows with that number, so the smallest
    feasible bottleneck is found by bisection. Lanes left over speed up whichever task is slowest, as long as they do:
    that no longer moves the bottleneck, but shortens the way of the first image.

    Raises:
        InputError: fewer lanes than tasks.
    """
    if lanes < len(tasks):
        raise InputError(
            "hardware.mac_lanes",
            lanes,
            f"at least {len(tasks)}, one for each layer",
            'a machine whose layers take turns has style = "systolic"',
        )
    low, high = max(task.firings for task in tasks.values()), max(task.cycles(1) for task in tasks.values())
    alike = Counter(tasks.values())
    while low < high:
        middle = (low + high) // 2
        needed = sum((task.lanes_for(middle) or 1) * count for task, count in alike.items())
        low, high = (low, middle) if needed <= lanes else (middle + 1, high)
    shares = {name: task.lanes_for(low) or 1 for name, task in tasks.items()}
    _spend(tasks, shares, lanes - sum(shares.values()))
    return shares


def _spend(tasks: Mapping[str, Task], shares: dict[str, int], left: int) -> None:
    """Give lanes that are left to the slowest task, in steps that make it faster; change `shares` in place."""
    slowest = [(-task.cycles(shares[name]), name) for name, task in tasks.items()]
    heapq.heapify(slowest)
    while slowest and left:
        cycles, name = heapq.heappop(slowest)
        wanted = tasks[name].lanes_for(-cycles - 1)
        step = wanted - shares[name] if wanted is not None else left + 1
        if step <= left:
            shares[name], left = shares[name] + step, left - step
            heapq.heappush(slowest, (-tasks[name].cycles(shares[name]), name))
