import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas import SearchSpace
from nas.space import STREAMING
from vit import InputError, ViTConfig

CHOICES = st.fixed_dictionaries(
    {
        "dim": st.lists(st.sampled_from([1, 6, 8, 12, 16]), min_size=1, max_size=3, unique=True),
        "heads": st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=3, unique=True),
        "depth": st.lists(st.integers(1, 4), min_size=1, max_size=2, unique=True),
        "patch_size": st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=3, unique=True),
        "stem": st.lists(st.sampled_from(["patch", "conv"]), min_size=1, max_size=2, unique=True),
        "mlp_ratio": st.lists(st.sampled_from([0.1, 0.5, 2.0]), min_size=1, max_size=2, unique=True),
    }
)
FIXED = {"image_size": 12, "in_channels": 1}


def is_config(params: dict[str, object]) -> bool:
    try:
        ViTConfig(**FIXED, **params)
    except InputError:
        return False
    return True


@settings(max_examples=60, deadline=None)
@given(CHOICES)
def test_the_space_is_exactly_the_valid_configurations(choices: dict[str, list[object]]) -> None:
    grid = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    valid = [params for params in grid if is_config(params)]
    if not valid:
        with pytest.raises(InputError, match="refuses"):
            SearchSpace(choices, FIXED)
        return
    space = SearchSpace(choices, FIXED)
    listed = list(space)
    assert len(listed) == len(space) == len(valid)
    assert {tuple(p.items()) for p in listed} == {tuple(p.items()) for p in valid}
    assert all(space.config(p) == ViTConfig(**FIXED, **p) for p in listed)
    assert all(bool(space.broken_rules(p)) != is_config(p) for p in grid)
    assert space.combinations == len(grid)
    drawn = space.sample(20, seed=3)
    assert drawn == space.sample(20, seed=3)
    assert all(p in listed and list(p) == list(choices) for p in drawn)


def test_samples_reach_every_candidate_alike() -> None:
    space = SearchSpace({"heads": [1, 2, 3], "dim": [4, 6], "depth": [1, 2]}, FIXED)
    drawn = [tuple(p.values()) for p in space.sample(4000)]
    for params in space:
        assert drawn.count(tuple(params.values())) == pytest.approx(4000 / len(space), rel=0.3)


def test_it_counts_without_enumerating() -> None:
    space = SearchSpace(
        {"dim": [16, 32, 48], "heads": [1, 3], "tile": list(range(1, 1001)), "fifo": list(range(1, 1001))}
    )
    assert len(space) == 4 * 10**6


@pytest.mark.parametrize("size", [8, 28, 32, 64, 224, 17])
def test_default_spaces_hold_candidates(size: int) -> None:
    space = SearchSpace.for_image(size, in_channels=1)
    assert len(space) == sum(1 for _ in space) >= 100
    assert all(space.config(p).image_size == size for p in space.sample(50))


def test_default_spaces_take_other_choices() -> None:
    space = SearchSpace.for_image(8, in_channels=1, dim=24, heads=[1, 3], stem="patch", tile=[2, 4])
    assert set(space.choices) == {"depth", "heads", "mlp_ratio", "patch_size", "tile"}
    assert space.config(next(iter(space))).dim == 24
    assert space.streaming(next(iter(space))) == {"tile": 2, "fifo": 4, "attention": "full"}


def test_toml_and_dict_keep_the_space(tmp_path: Path) -> None:
    space = SearchSpace(
        {"dim": [16, 32], "mlp_ratio": [1, 2.5], "stem": ["patch", "conv"], "attention": ["full", "tile"]},
        {"image_size": 8, "patch_size": 2, "pool": "mean", "tile": 3},
    )
    space.save(tmp_path / "space.toml")
    assert SearchSpace.load(tmp_path / "space.toml") == space == SearchSpace.from_dict(space.to_dict())
    assert space.streaming({"attention": "tile"}) == STREAMING | {"tile": 3, "attention": "tile"}


def test_an_empty_space_tells_what_each_rule_refuses() -> None:
    choices = {"dim": [16], "heads": [2, 3, 5], "patch_size": [3, 5], "stem": ["conv"]}
    told = "patch_size divides image_size refuses 6, patch_size is a power of two >= 2 with stem conv refuses 6, heads"
    with pytest.raises(InputError, match=told):
        SearchSpace(choices, {"image_size": 16})


@pytest.mark.parametrize(
    ("choices", "fixed", "field"),
    [
        ({}, {}, "space"),
        ({"dims": [16]}, {}, "space"),
        ({"dim": []}, {}, "space.dim"),
        ({"dim": 16}, {}, "space.dim"),
        ({"dim": [16, 16]}, {}, "space.dim"),
        ({"dim": [16, 0]}, {}, "space.dim"),
        ({"dim": [16.5]}, {}, "space.dim"),
        ({"mlp_ratio": [0]}, {}, "space.mlp_ratio"),
        ({"stem": ["pacth"]}, {}, "space.stem"),
        ({"attention": ["fully"]}, {}, "space.attention"),
        ({"dim": [16]}, {"dim": 32}, "space.fixed"),
        ({"dim": [16]}, {"image": 32}, "space.fixed"),
        ({"dim": [16]}, {"image_size": 0}, "space.image_size"),
    ],
)
def test_bad_input_is_named(choices: dict[str, object], fixed: dict[str, object], field: str) -> None:
    with pytest.raises(InputError) as caught:
        SearchSpace(choices, fixed)
    assert caught.value.field == field


def test_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("dim = [")
    (tmp_path / "odd.toml").write_text("[choices]\ndim = [16]\n[fix]\npool = 'cls'\n")
    for name in ("bad.toml", "odd.toml", "absent.toml"):
        with pytest.raises(InputError):
            SearchSpace.load(tmp_path / name)


@pytest.mark.parametrize("line", ['weights.blocks.1 = ["pot4", "int8"]', "hardware.sram_kib = [64, 128]"])
@pytest.mark.parametrize("table", ["choices", "fixed"])
def test_a_name_that_toml_takes_apart_is_to_be_quoted(tmp_path: Path, table: str, line: str) -> None:
    name = line.partition(" = ")[0]
    (tmp_path / "space.toml").write_text(f"choices.dim = [16, 32]\n{table}.{line}\n")
    with pytest.raises(InputError, match=f'between quotes; "{name}" = ...'):
        SearchSpace.load(tmp_path / "space.toml")


def test_a_space_of_one_candidate_is_a_space():
    space = SearchSpace.for_image(8, 1, dim=16, depth=1, heads=2, mlp_ratio=1.0, patch_size=2, stem="patch")
    assert len(space) == 1
    assert space.config(next(iter(space))).dim == 16


def test_what_no_candidate_can_have_is_no_value() -> None:
    with pytest.raises(InputError, match=r"drop_path.*\[0, 1\)"):
        SearchSpace({"drop_path": [0.0, 1.0]})


def test_a_space_beyond_what_can_be_counted_is_refused() -> None:
    layers = {f"weights.blocks.{i}.*": ["pot4", "apot6", "int8", "int4"] for i in range(31)}
    assert len(SearchSpace(layers, {"depth": 31})) == 4**31
    with pytest.raises(InputError, match=r"fewer than 2\^63 candidates"):
        SearchSpace({**layers, "tile": [1, 2]}, {"depth": 31})
