import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import norm

from nas import Curve, VolumeStopper, hypervolume
from nas.volume_stopping import ENOUGH, MOST, expected_gain, foretold
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
    ended = [Curve(good if i % 2 else bad, (10.0 + i,), traits=(float(i % 2), 0.1 * i)) for i in range(8)]
    likely = [np.median(foretold(Curve((), (14.0,), False, (kind, 0.4)), ended)) for kind in (0.0, 1.0)]
    assert likely[0] < 0.6 < 0.8 < likely[1]
    spans = [np.ptp(foretold(Curve(bad[:epochs], (14.0,), False, (0.0, 0.4)), ended)) for epochs in (0, 1, 2)]
    assert spans[0] > spans[1] > spans[2]


def test_trainings_that_were_stopped_tell_too() -> None:
    ended = [Curve((0.5, 0.7, 0.8), (10.0 + i,), traits=(i / 4,)) for i in range(4)]
    stopped = [Curve((0.2, 0.3), (12.0,), False, (2.0 + i / 4,)) for i in range(3)]
    here = Curve((), (12.0,), False, (2.2,))
    assert np.median(foretold(here, [*ended, *stopped])) < np.median(foretold(here, ended)) - 0.1


def plainly_foretold(curve: Curve, others: list[Curve]) -> np.ndarray:
    """The same in loops, from the sentences of the docstring; other and curve have few epochs, all looked at."""
    everyone, bounded = [*others, curve], lambda x: logit(np.clip(x, 0.01, 0.99))
    what = np.array([[*np.log(one.costs), *one.traits] for one in everyone])
    rows = (what - what.mean(axis=0)) / what.std(axis=0)
    mean = np.mean([bounded(one.accuracy) for one in others if one.finished], axis=0)
    points = [(i, e) for i, one in enumerate(everyone) for e in range(1, len(one.accuracy) + 1)]

    def covariance(a: tuple[int, int], b: tuple[int, int]) -> float:
        apart = np.sqrt(3 * np.mean((rows[a[0]] - rows[b[0]]) ** 2)) / 1.5
        alike = 0.1 * np.mean(rows[a[0]] * rows[b[0]]) + 0.15 * (1 + apart) * np.exp(-apart)
        moving = np.exp(-((np.log(a[1]) - np.log(b[1])) ** 2) / 2)
        own = (0.05 + 0.05 * moving) * (a[0] == b[0])
        noise = (0.04 + 0.15 * np.exp(-(a[1] - 1) / 1.5)) * (a == b)
        return float(alike * (0.6 + 0.4 * moving) + own + 0.1 + noise)

    end = (len(everyone) - 1, len(mean))
    known = np.array([[covariance(a, b) for b in points] for a in points])
    here = np.array([covariance(end, a) for a in points])
    surprise = np.array([bounded(everyone[i].accuracy[e - 1]) - mean[e - 1] for i, e in points])
    weights = np.linalg.solve(known, here)
    spread = np.sqrt(covariance(end, end) - weights @ here)
    return expit(mean[-1] + weights @ surprise + spread * norm.ppf((np.arange(16) + 0.5) / 16))


def test_it_is_the_posterior_of_the_process_described() -> None:
    random = np.random.default_rng(0)

    def drawn(epochs: int) -> Curve:
        accuracy = tuple(np.sort(random.uniform(0.2, 0.95, epochs)).tolist())
        return Curve(accuracy, (float(random.uniform(1, 9)),), epochs == 4, tuple(random.uniform(0, 1, 2).tolist()))

    others = [drawn(epochs) for epochs in (4, 1, 4, 3, 4, 2)]
    for epochs in range(4):
        curve = drawn(epochs)
        assert foretold(curve, others) == pytest.approx(plainly_foretold(curve, others), abs=1e-9)


def test_of_many_trainings_the_likest_are_looked_at() -> None:
    many = [Curve((0.3, 0.5, 0.6 + 0.0001 * i), (10.0,), traits=(float(i),)) for i in range(MOST)]
    here = Curve((0.35,), (10.0,), False, (float(MOST - 1),))
    assert np.median(foretold(here, many)) == pytest.approx(many[-1].accuracy[-1], abs=0.02)


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
    gain = expected_gain(foretold(here, ended), np.array(here.costs), *_scale(ended, here))
    price = 5 * gain[0] / gain[1]  # more than a tenth of it is expected, less than the whole
    assert not VolumeStopper(price).stops(here, ended, 10)
    assert VolumeStopper(price).stops(here, ended, 100)


def _scale(ended: list[Curve], here: Curve) -> tuple[np.ndarray, np.ndarray]:
    """The losses of trainings, and the reference: a tenth of the range beyond its worst values."""
    losses = np.array([[-one.accuracy[-1], *one.costs] for one in ended])
    high = np.maximum(losses.max(axis=0), [-foretold(here, ended).mean(), *here.costs])
    return losses, high + 0.1 * (high - losses.min(axis=0))


def test_a_higher_price_stops_whatever_a_lower_one_does() -> None:
    ended = parallel(8)
    parts = [Curve((0.3 + 0.01 * i,), (14.0, 9.0), finished=False) for i in range(16)]
    stopped = [{i for i, part in enumerate(parts) if VolumeStopper(p).stops(part, ended, 10)} for p in (0.08, 0.1)]
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
