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


def test_before_its_first_epoch_a_candidate_is_foretold_from_those_like_it() -> None:
    good, bad = (0.6, 0.8, 0.9), (0.3, 0.4, 0.5)
    ended = [Curve(good if i % 2 else bad, (10.0 + i,), traits=(float(i % 2), 0.1 * i)) for i in range(16)]
    likely = [np.median(foretold(Curve((), (14.0,), False, (kind, 0.4)), ended)) for kind in (0.0, 1.0)]
    assert likely[0] < 0.65 < 0.75 < likely[1]


@given(st.lists(st.lists(unit, min_size=4, max_size=4), min_size=2, max_size=6), st.lists(unit, max_size=3), unit)
def test_quantiles_are_accuracies_in_order(curves: list[list[float]], now: list[float], cost: float) -> None:
    finished = [Curve(tuple(curve), (float(i),)) for i, curve in enumerate(curves)]
    found = foretold(Curve(tuple(now), (cost,), finished=False), finished)
    assert (np.diff(found) >= 0).all()
    assert found[0] >= 0
    assert found[-1] <= 1


def test_what_adds_next_to_nothing_is_stopped_and_the_rest_goes_on() -> None:
    ended, stopper = parallel(12), VolumeStopper()
    hopeless = Curve((0.3, 0.34), (40.0, 40.0), finished=False)  # the dearest, no better
    assert stopper.stops(hopeless, ended, 10)
    assert not stopper.stops(Curve((0.5, 0.6), (15.0, 10.0), finished=False), ended, 10)  # far ahead
    assert not stopper.stops(Curve((0.3, 0.34), (2.0, 2.0), finished=False), ended, 10)  # far cheaper
    assert not stopper.stops(hopeless, ended[: ENOUGH - 1], 10)
    assert not VolumeStopper(warmup=0.3).stops(hopeless, ended, 10)


def test_a_training_near_its_end_has_to_add_less() -> None:
    ended = parallel(12)
    here = Curve(tuple(0.3 + 0.04 * epoch + 0.02 * 11 for epoch in range(9)), (21.3, 16.3), finished=False)
    losses = np.array([[-one.accuracy[-1], *one.costs] for one in ended])
    high = np.maximum(losses.max(axis=0), [-foretold(here, ended).mean(), *here.costs])
    reference = high + 0.1 * (high - losses.min(axis=0))
    gain, volume = expected_gain(foretold(here, ended), np.array(here.costs), losses, reference)
    price = 5 * gain / volume  # more than a tenth of it is expected, less than the whole
    assert not VolumeStopper(price).stops(here, ended, 10)
    assert VolumeStopper(price).stops(here, ended, 100)


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
    same = [Curve((0.1, 0.1), (1.0, 1.0))] * ENOUGH
    assert isinstance(VolumeStopper().stops(Curve((0.1,), (1.0, 1.0), finished=False), same, 2), bool)


@pytest.mark.parametrize(("options", "field"), [({"price": 0}, "price"), ({"warmup": 2}, "warmup")])
def test_bad_input_is_named(options: dict[str, float], field: str) -> None:
    with pytest.raises(InputError) as caught:
        VolumeStopper(**options)
    assert caught.value.field == field
