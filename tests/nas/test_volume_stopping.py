import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas import Curve, VolumeStopper, hypervolume
from nas.volume_stopping import ENOUGH, expected_gain, foretold
from vit import InputError

unit = st.floats(0, 1, allow_nan=False)
points = st.lists(st.tuples(unit, unit, unit), min_size=1, max_size=8)


def parallel(count: int, epochs: int = 10) -> list[Curve]:
    """Finished curves that rise alike, each ahead of the one before and dearer."""
    return [
        Curve(tuple(0.3 + 0.04 * epoch + 0.02 * i for epoch in range(epochs)), (10.0 + i, 5.0 + i))
        for i in range(count)
    ]


@settings(max_examples=60, deadline=None)
@given(points, st.tuples(unit, unit), st.lists(unit, min_size=1, max_size=5))
def test_the_gain_is_the_mean_of_hypervolumes_with_and_without(
    front: list[tuple[float, ...]], costs: tuple[float, ...], finals: list[float]
) -> None:
    losses, reference = np.array(front) * [-1, 1, 1], np.array([0.2, 1.1, 1.1])
    gain, volume = expected_gain(np.array(finals), np.array(costs), losses, reference)
    without = hypervolume(losses, reference)
    grown = [hypervolume([*losses, [-final, *costs]], reference) for final in finals]
    assert volume == pytest.approx(without)
    assert gain == pytest.approx(np.mean(grown) - without, abs=1e-12)


def test_curves_that_rise_alike_are_foretold_and_more_of_them_tell_more() -> None:
    few, many = parallel(4), parallel(16)
    here = Curve(few[2].accuracy[:3], few[2].costs, finished=False)
    spans = [np.ptp(foretold(here, known)) for known in (few, many)]
    assert spans[1] < spans[0]
    assert np.median(foretold(here, many)) == pytest.approx(few[2].accuracy[-1], abs=0.02)


@given(st.lists(st.lists(unit, min_size=4, max_size=4), min_size=2, max_size=6), unit, unit)
def test_quantiles_are_accuracies_in_order(curves: list[list[float]], now: float, cost: float) -> None:
    finished = [Curve(tuple(curve), (float(i),)) for i, curve in enumerate(curves)]
    found = foretold(Curve((now,), (cost,), finished=False), finished)
    assert (np.diff(found) >= 0).all()
    assert found[0] >= 0
    assert found[-1] <= 1


def test_what_adds_next_to_nothing_is_stopped_and_the_rest_goes_on() -> None:
    ended, stopper = parallel(12), VolumeStopper()
    assert stopper.stops(Curve((0.3, 0.34), (40.0, 40.0), finished=False), ended, 10)  # the dearest, no better
    assert not stopper.stops(Curve((0.5, 0.6), (15.0, 10.0), finished=False), ended, 10)  # far ahead
    assert not stopper.stops(Curve((0.3, 0.34), (2.0, 2.0), finished=False), ended, 10)  # far cheaper
    assert not stopper.stops(Curve((0.3, 0.34), (40.0, 40.0), finished=False), ended[: ENOUGH - 1], 10)
    assert not VolumeStopper(warmup=0.3).stops(Curve((0.3, 0.34), (40.0, 40.0), finished=False), ended, 10)


def test_a_higher_price_stops_whatever_a_lower_one_does() -> None:
    ended = parallel(8)
    parts = [Curve((0.3 + 0.01 * i,), (14.0, 9.0), finished=False) for i in range(16)]
    stopped = [{i for i, part in enumerate(parts) if VolumeStopper(p).stops(part, ended, 10)} for p in (0.003, 0.05)]
    assert stopped[0] < stopped[1] < set(range(16))


def test_accuracy_alone_is_a_front_of_one() -> None:
    ended = [Curve(curve.accuracy) for curve in parallel(12)]
    assert VolumeStopper().stops(Curve((0.3, 0.34), finished=False), ended, 10)
    assert not VolumeStopper().stops(Curve((0.6, 0.65), finished=False), ended, 10)


def test_candidates_that_are_all_alike_are_no_error() -> None:
    same = [Curve((0.1, 0.1), (1.0, 1.0))] * 5
    assert isinstance(VolumeStopper().stops(Curve((0.1,), (1.0, 1.0), finished=False), same, 2), bool)


@pytest.mark.parametrize(("options", "field"), [({"price": 0}, "price"), ({"warmup": 2}, "warmup")])
def test_bad_input_is_named(options: dict[str, float], field: str) -> None:
    with pytest.raises(InputError) as caught:
        VolumeStopper(**options)
    assert caught.value.field == field
