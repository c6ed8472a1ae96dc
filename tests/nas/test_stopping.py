import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas import Curve, FrontStopper, Halving
from nas.curves import expected_final, safe_lead
from nas.stopping import ENOUGH, best_rival
from vit import InputError

unit = st.floats(0, 1, allow_nan=False)
curves = st.lists(st.tuples(unit, unit, unit), min_size=2, max_size=12)


def parallel(count: int, epochs: int = 10) -> list[tuple[float, ...]]:
    """Curves that differ by 0.02 throughout, so that all gain alike and none overtakes."""
    return [tuple(0.05 * epoch + 0.02 * i for epoch in range(epochs)) for i in range(count)]


def test_curves_that_gain_alike_and_that_end_alike_foretell_the_end() -> None:
    assert expected_final([0.0, 0.1], parallel(6)) == pytest.approx(0.5)
    assert expected_final([0.05], [(0.1 * i, 0.9) for i in range(6)]) == pytest.approx(0.9)
    assert expected_final([0.05], []) == 0.05


@given(curves, unit, unit)
def test_more_now_is_never_less_in_the_end(finished: list[tuple[float, ...]], a: float, b: float) -> None:
    low, high = (expected_final([x], finished) for x in sorted((a, b)))
    assert low <= high + 1e-9


@given(curves, st.sampled_from([0.6, 0.9, 1.0]))
def test_the_lead_is_safe_and_no_smaller_one_is(finished: list[tuple[float, ...]], confidence: float) -> None:
    pairs = [(a[0] - b[0], a[-1] < b[-1]) for a in finished for b in finished if a[0] > b[0]]

    def is_safe(lead: float) -> bool:
        held = [overtaken for size, overtaken in pairs if size >= lead]
        return sum(held) <= (1 - confidence + 1e-12) * len(held)

    expected = min((size for size, _ in pairs if is_safe(size)), default=math.inf)
    assert safe_lead(finished, 1, confidence) == expected


ENDED = [Curve(curve, (10.0 + i, 5.0)) for i, curve in enumerate(parallel(ENOUGH))]  # dearer is better by 0.02


def test_what_cannot_reach_the_front_is_stopped_and_the_rest_goes_on() -> None:
    stopper, best = FrontStopper(), ENDED[-1].accuracy[0]
    assert best_rival(Curve((0.0,), (30.0, 5.0)), ENDED) == best
    assert stopper.stops(Curve((best - 0.021,), (30.0, 5.0)), ENDED, 10)
    assert not stopper.stops(Curve((best - 0.01,), (30.0, 5.0)), ENDED, 10)  # no pair tells of so small a lead
    assert not stopper.stops(Curve((best,), (30.0, 5.0)), ENDED, 10)
    assert not stopper.stops(Curve((0.0,), (9.0, 5.0)), ENDED, 10)  # cheaper than all
    assert not stopper.stops(Curve((0.0,), (30.0, 4.0)), ENDED, 10)
    assert not stopper.stops(Curve((0.0,), (30.0, 5.0)), ENDED[:-1], 10)  # too few to tell


def test_curves_that_cross_ask_for_a_longer_lead() -> None:
    crossing = [Curve((0.1 * i, 0.5 - 0.1 * i), (1.0,)) for i in range(3)]
    apart = [Curve((0.9, 0.9), (1.0,)), Curve((1.0, 1.0), (1.0,))]
    stopper = FrontStopper(confidence=0.95)
    assert not stopper.stops(Curve((0.8,), (2.0,)), crossing + apart, 2)
    assert FrontStopper(confidence=0.5).stops(Curve((0.8,), (2.0,)), crossing + apart, 2)


def test_warmup_is_a_part_of_the_epochs() -> None:
    hopeless = Curve((0.0, 0.0), (30.0, 5.0))
    assert not FrontStopper(warmup=0.3).stops(hopeless, ENDED, 10)
    assert FrontStopper(warmup=0.2).stops(hopeless, ENDED, 10)


def test_a_stopped_rival_counts_as_far_as_it_was_trained() -> None:
    rival = Curve((0.9,), (1.0, 1.0), finished=False)
    assert FrontStopper().stops(Curve((0.2,), (2.0, 2.0)), [*ENDED, rival], 10)
    assert not FrontStopper().stops(Curve((0.2, 0.2), (2.0, 2.0)), [*ENDED, rival], 10)
    assert not FrontStopper().stops(Curve((0.2,), (2.0, 2.0)), [rival] * 9, 10)  # none that finished


def test_accuracy_alone_is_a_front_of_one() -> None:
    ended = [Curve(curve.accuracy) for curve in ENDED]
    assert FrontStopper().stops(Curve((0.05,)), ended, 10)
    assert not FrontStopper().stops(Curve((0.1,)), ended, 10)


@pytest.mark.parametrize(("options", "field"), [({"confidence": 0}, "confidence"), ({"warmup": 2}, "warmup")])
def test_bad_input_is_named(options: dict[str, float], field: str) -> None:
    with pytest.raises(InputError) as caught:
        FrontStopper(**options)
    assert caught.value.field == field


def test_halving_keeps_the_best_third_by_fronts_at_its_rungs() -> None:
    rule, part = Halving(factor=3, rungs=2), (0.5,)
    others = [Curve(part, (float(cost),), finished=False) for cost in range(1, 6)]  # five fronts of one each
    assert not rule.stops(Curve(part, (1.5,)), others, 9)  # one is better, two of six go on
    assert rule.stops(Curve(part, (2.5,)), others, 9)
    assert not rule.stops(Curve((0.6,), (9.0,)), others, 9)  # on the first front
    assert not rule.stops(Curve((0.5, 0.5), (2.5,)), others, 9)  # between rungs
    assert not rule.stops(Curve((0.5,) * 3, (2.5,)), others, 9)  # nobody else came as far
    assert rule.stops(Curve((0.4,) * 3, (2.5,)), [Curve((0.5,) * 9, (1.0,))] * 3, 9)


def test_halving_of_a_first_candidate_lets_it_go_on() -> None:
    assert not Halving().stops(Curve((0.0,), (1.0,)), [], 9)
    with pytest.raises(InputError, match="factor"):
        Halving(factor=1)
