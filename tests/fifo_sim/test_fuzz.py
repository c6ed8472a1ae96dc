"""Whatever stands in a file, the answer is a pipeline or one clear line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fifo_sim import Pipeline, simulate
from vit.errors import InputError

KEYS = ["tiles", "stages", "edges", "resources", "name", "service", "firings", "mode", "fork", "src", "dst", "depth"]
KEYS += ["latency", "need", "rel", "release", "order", "policy", "repeat", "step", "nonsense"]
numbers = st.one_of(st.integers(-2, 9), st.sampled_from([2**31, 2**61, 2**63, 2**64, 10**40]))
scalars = st.one_of(st.none(), st.booleans(), numbers, st.floats(), st.sampled_from(["a", "b", "bbs", "end", ""]))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
)
good_stage = st.fixed_dictionaries(
    {"name": st.sampled_from("abc"), "service": st.integers(1, 4)},
    optional={"firings": st.integers(1, 4), "mode": st.sampled_from(["bas", "bbs"]), "fork": st.just("eager")},
)
good_edge = st.fixed_dictionaries(
    {"src": st.sampled_from("abc"), "dst": st.sampled_from("abc"), "depth": st.integers(1, 3)},
    optional={"latency": st.integers(1, 3), "need": st.lists(st.integers(0, 4), max_size=4), "release": st.just("end")},
)
nearly = st.fixed_dictionaries(
    {
        "tiles": st.integers(1, 4) | values,
        "stages": st.lists(good_stage | values, max_size=3),
        "edges": st.lists(good_edge | values, max_size=3),
    },
    optional={"resources": st.lists(st.fixed_dictionaries({"order": st.lists(st.sampled_from("abc"))}) | values)},
)
quick = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@contextmanager
def refused_in_one_line() -> Iterator[None]:
    """Whatever is refused inside is refused by one line that names a field."""
    refusals: list[InputError] = []
    try:
        yield
    except InputError as error:
        refusals.append(error)
    assert all(error.field and "\n" not in str(error) for error in refusals)


def answer(values: object) -> None:
    """Make a pipeline of it and run it, or be told in one line why not."""
    with refused_in_one_line():
        pipeline = Pipeline.from_dict(values)  # type: ignore[arg-type]
        assert Pipeline.from_dict(pipeline.to_dict()).to_dict() == pipeline.to_dict()
        if sum(pipeline.firings) < 10**5 and sum(pipeline.depths) < 10**5:
            found = simulate(pipeline)
            assert all(sum(stalls.values()) == found.horizon for stalls in found.stalls.values())


@quick
@given(values)
def test_any_value(value):
    answer(value)


@quick
@given(nearly)
def test_nearly_a_pipeline(value):
    answer(value)


@quick
@given(
    st.one_of(st.text(), nearly.map(json.dumps).flatmap(lambda text: st.integers(0, len(text)).map(lambda n: text[:n])))
)
def test_any_file(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("fuzz") / "pipeline.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with refused_in_one_line():
        Pipeline.from_json(path)
