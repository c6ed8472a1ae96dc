from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vit.config import ViTConfig
from vit.errors import InputError


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"dim": 100, "heads": 3}, "heads"),
        ({"image_size": 32, "patch_size": 5}, "patch_size"),
        ({"stem": "conv", "image_size": 12, "patch_size": 6}, "patch_size"),
        ({"stem": "conv", "patch_size": 1}, "patch_size"),
        ({"dim": 0}, "dim"),
        ({"dim": -8}, "dim"),
        ({"depth": 2.0}, "depth"),
        ({"depth": True}, "depth"),
        ({"num_classes": 0}, "num_classes"),
        ({"mlp_ratio": 0}, "mlp_ratio"),
        ({"mlp_ratio": 0.001}, "mlp_ratio"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio"),
        ({"drop_path": 1.0}, "drop_path"),
        ({"stem": "pach"}, "stem"),
        ({"pool": "max"}, "pool"),
        ({"block_heads": [1]}, "block_heads"),
        ({"block_hidden": [4, 0, 4]}, "block_hidden"),
    ],
)
def test_impossible_shapes_are_refused_by_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        ViTConfig(**fields)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{field} = ")


def test_an_unknown_field_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'depth'"):
        ViTConfig.from_dict({"detph": 3})
    with pytest.raises(InputError, match="a table"):
        ViTConfig.from_dict(["dim"])  # type: ignore[arg-type]


@given(
    heads=st.integers(1, 4),
    width=st.integers(1, 8),
    depth=st.integers(1, 3),
    ratio=st.floats(1, 4),
    pool=st.sampled_from(["cls", "mean", "seq"]),
    pruned=st.booleans(),
    drop_path=st.floats(0, 0.9),
)
def test_a_config_survives_json(
    heads: int, width: int, depth: int, ratio: float, pool: str, pruned: bool, drop_path: float
) -> None:
    extra: dict[str, Any] = {"head_dim": width, "block_heads": [1] * depth} if pruned else {}
    config = ViTConfig(
        dim=heads * width, depth=depth, heads=heads, mlp_ratio=ratio, pool=pool, drop_path=drop_path, **extra
    )
    assert ViTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert hash(config) == hash(ViTConfig.from_dict(config.to_dict()))
