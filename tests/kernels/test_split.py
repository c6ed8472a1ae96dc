"""Work in pieces: on threads of our own, and on those of the OpenMP library that torch has loaded."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from kernels import split, team

RUNNERS = [split.run, team.run]


def test_pieces_cover_everything_once() -> None:
    parts = split.pieces(10, 4)
    assert [list(range(10))[part] for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_pieces(run, threads: int) -> None:
    assert run(lambda part: part.start, split.pieces(10, 4), threads) == [0, 4, 8]
    assert run(lambda part: part.start, [], threads) == []


@pytest.mark.parametrize("run", RUNNERS)
def test_an_error_comes_back_to_the_caller(run) -> None:
    def work(part: slice) -> None:
        if part.start == 4:
            raise ValueError("the second piece")

    with pytest.raises(ValueError, match="the second piece"):
        run(work, split.pieces(10, 4), 2)
    assert run(lambda part: part.stop, split.pieces(10, 4), 2) == [4, 8, 10]


def test_a_team_is_torchs_own_threads() -> None:
    if team._parallel() is None:
        pytest.skip("torch has no GNU OpenMP here")
    meeting = threading.Barrier(2, timeout=60)  # broken unless two threads come at the same time
    found = team.run(lambda _: (meeting.wait(), threading.get_native_id())[1], split.pieces(2, 1), 2)
    assert len(set(found)) == 2
    assert threading.get_native_id() in found


def test_many_teams_at_once() -> None:
    def sums(seed: int) -> float:
        x = np.random.default_rng(seed).normal(size=1000)
        return sum(team.run(lambda part: float(x[part].sum()), split.pieces(1000, 10), 2))

    expected = [sums(seed) for seed in range(4)]
    torch.ones(10).sum()
    assert split.run(lambda part: sums(part.start), split.pieces(4, 1), 4) == expected
