"""Shares of multipliers against brute force over every way to share them."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fifo_sim.spatial import Task, share_lanes
from vit.errors import InputError

work = st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=4), min_size=1, max_size=4)


def smallest_bottleneck(tasks: list[list[int]], lanes: int) -> int:
    def cycles(macs: list[int], share: int) -> int:
        return sum(max(1, -(-amount // share)) for amount in macs)

    shares = (s for s in product(range(1, lanes + 1), repeat=len(tasks)) if sum(s) <= lanes)
    return min(max(cycles(macs, one) for macs, one in zip(tasks, share, strict=True)) for share in shares)


@settings(max_examples=150, deadline=None)
@given(work, st.integers(0, 6))
def test_bottleneck_is_the_smallest_there_is(tasks: list[list[int]], extra: int) -> None:
    lanes = len(tasks) + extra
    named = {str(i): Task(macs) for i, macs in enumerate(tasks)}
    shares = share_lanes(named, lanes)
    assert sum(shares.values()) <= lanes
    assert min(shares.values()) >= 1
    assert max(task.cycles(shares[name]) for name, task in named.items()) == smallest_bottleneck(tasks, lanes)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=6), st.integers(1, 3000))
def test_fewest_lanes_for_a_number_of_cycles(macs: list[int], cycles: int) -> None:
    task = Task(macs)
    enough = [lanes for lanes in range(1, max(macs) + 2) if task.cycles(lanes) <= cycles]
    assert task.lanes_for(cycles) == (enough[0] if enough else None)


def test_left_over_lanes_speed_up_the_slowest() -> None:
    shares = share_lanes({"a": Task([100]), "b": Task([10]), "c": Task([9])}, 13)
    assert shares == {"a": 10, "b": 1, "c": 1} or sum(shares.values()) == 13
    assert max(Task([100]).cycles(shares["a"]), Task([10]).cycles(shares["b"])) == 10


def test_fewer_lanes_than_layers() -> None:
    with pytest.raises(InputError, match="systolic"):
        share_lanes({"a": Task([1]), "b": Task([1])}, 1)
