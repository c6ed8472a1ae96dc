"""Small machines and networks that the tests of lowering share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from fifo_sim.hardware import Hardware
from vit.config import ViTConfig

SPATIAL = Hardware("board", "spatial", 100, 1e6, 8, elementwise_lanes=4, mac_lanes=64, dram_latency_cycles=10)
SYSTOLIC = Hardware(
    "array", "systolic", 100, 1e6, 8, elementwise_lanes=4, array_rows=4, array_cols=8, dram_latency_cycles=10
)
CPU = replace(SYSTOLIC, vector_unit="array")
TINY = ViTConfig(image_size=4, patch_size=2, in_channels=1, num_classes=3, dim=4, depth=1, heads=2, pool="mean")


@st.composite
def configs(draw: st.DrawFn) -> ViTConfig:
    """Shapes with every stem and pooling, up to 65 tokens."""
    stem = draw(st.sampled_from(["patch", "conv"]))
    patch = draw(st.sampled_from([1, 2, 3] if stem == "patch" else [2, 4]))
    heads = draw(st.integers(1, 3))
    depth = draw(st.integers(1, 2))
    widths: dict[str, Any] = {}
    if draw(st.booleans()):
        widths["block_heads"] = tuple(draw(st.integers(1, heads)) for _ in range(depth))
        widths["block_hidden"] = tuple(draw(st.integers(1, 9)) for _ in range(depth))
        widths["head_dim"] = draw(st.integers(1, 5))
    return ViTConfig(
        image_size=patch * draw(st.integers(1, 8)),
        patch_size=patch,
        in_channels=draw(st.integers(1, 3)),
        num_classes=draw(st.integers(1, 5)),
        dim=heads * draw(st.integers(1, 4)),
        depth=depth,
        heads=heads,
        mlp_ratio=draw(st.sampled_from([1.0, 2.5])),
        stem=stem,
        pool=draw(st.sampled_from(["cls", "mean", "seq"])),
        **widths,
    )


tiles, fifos = st.integers(1, 20), st.integers(1, 6)
attentions = st.sampled_from(["full", "window", "tile"])
machines = st.sampled_from([SPATIAL, SYSTOLIC, CPU])
