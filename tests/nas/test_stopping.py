import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas import Curve, FrontStopper, forecast
from nas.stopping import bar
from vit import InputError

unit = st.floats(0, 1, allow_nan=False)


def parallel(count: int, epochs: int = 6) -> list[tuple[float, ...]]:
    """Curves that differ by a constant, so that all gain alike."""
    return [tuple(0.1 * epoch + 0.02 * i for epoch in range(epochs)) for i in range(count)]


def test_curves_that_gain_alike_foretell_exactly() -> None:
    told = forecast([0.3, 0.4], parallel(9))
    assert told.expected == pytest.approx(0.8)
    assert told.high == pytest.approx(0.8)


def test_curves_that_end_alike_foretell_their_end() -> None:
    told = forecast([0.05], [(0.1 * i, 0.9) for i in range(9)])
    assert (told.expected, told.high) == (pytest.approx(0.9), pytest.approx(0.9))


@pytest.mark.parametrize(("confidence", "enough"), [(0.5, 1), (0.8, 4), (0.9, 9)])
def test_too_few_curves_bound_nothing(confidence: float, enough: int) -> None:
    assert forecast([0.3], parallel(enough), confidence).high < math.inf
    assert forecast([0.3], parallel(enough - 1), confidence).high == math.inf


def test_the_bound_holds_for_the_share_it_promises() -> None:
    rng, kept = np.random.default_rng(0), []
    for _ in range(600):
        start = rng.uniform(0, 0.5, 26)
        curves = np.column_stack([start, start + 0.3 + 0.05 * rng.standard_normal(26)])
        kept.append(curves[-1, 1] <= forecast(curves[-1, :1].tolist(), curves[:-1].tolist(), 0.8).high)
    assert 0.76 < np.mean(kept) < 0.9


@given(st.lists(st.tuples(unit, unit, unit), min_size=9, max_size=12), unit, unit)
def test_more_now_is_never_less_in_the_end(finished: list[tuple[float, ...]], a: float, b: float) -> None:
    low, high = (forecast([x], finished) for x in sorted((a, b)))
    assert low.expected <= high.expected + 1e-9
    assert low.high <= high.high + 1e-9


FINISHED = [Curve(curve, (10.0 + i, 5.0)) for i, curve in enumerate(parallel(9))]


def test_what_cannot_reach_the_front_is_stopped_and_the_rest_goes_on() -> None:
    stopper = FrontStopper()
    best = FINISHED[-1].accuracy[-1]  # asked of whatever costs as much
    assert bar(Curve((0.0,), (30.0, 5.0)), FINISHED) == best
    assert stopper.stops(Curve((best - 0.5 - 0.01,), (30.0, 5.0)), FINISHED)
    assert not stopper.stops(Curve((best - 0.5 + 0.01,), (30.0, 5.0)), FINISHED)
    assert not stopper.stops(Curve((0.0,), (9.0, 5.0)), FINISHED)  # cheaper than all
    assert not stopper.stops(Curve((0.0,), (30.0, 4.0)), FINISHED)
    assert not stopper.stops(Curve((0.0,), (30.0, 5.0)), FINISHED[:8])  # too few to tell


def test_slack_and_warmup() -> None:
    hopeful = Curve((FINISHED[-1].accuracy[-1] - 0.5 + 0.01,), (30.0, 5.0))
    assert FrontStopper(slack=0.02).stops(hopeful, FINISHED)
    hopeless = Curve((0.0, 0.0), (30.0, 5.0))
    assert not FrontStopper(warmup=3).stops(hopeless, FINISHED)
    assert FrontStopper(warmup=2).stops(hopeless, FINISHED)


def test_what_was_stopped_neither_asks_nor_foretells() -> None:
    stopped = [Curve((1.0, 1.0), (0.0, 0.0), finished=False)] * 9
    assert not FrontStopper().stops(Curve((0.0,), (30.0, 5.0)), stopped)


def test_accuracy_alone_is_a_front_of_one() -> None:
    finished = [Curve(curve.accuracy) for curve in FINISHED]
    assert FrontStopper().stops(Curve((0.1,)), finished)
    assert not FrontStopper().stops(Curve((0.2,)), finished)


@pytest.mark.parametrize(("options", "field"), [({"confidence": 1}, "confidence"), ({"warmup": 0}, "warmup")])
def test_bad_input_is_named(options: dict[str, float], field: str) -> None:
    with pytest.raises(InputError) as caught:
        FrontStopper(**options)
    assert caught.value.field == field
