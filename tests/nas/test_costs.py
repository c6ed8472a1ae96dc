import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fifo_sim import Hardware, lower, simulate
from nas import Costs, SearchSpace
from nas.costs import SHAPE, STREAMED, Constraint, config_params
from vit import InputError, VisionTransformer, ViTConfig, describe

SPACE = SearchSpace(
    {"dim": [8, 16], "depth": [1, 2], "tile": [2, 5], "attention": ["full", "window"]},
    {"image_size": 8, "patch_size": 2, "in_channels": 1, "heads": 2},
)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([8, 16, 24]),
    st.integers(1, 3),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([0.5, 2.0, 3.0]),
    st.sampled_from(["patch", "conv"]),
    st.sampled_from(["cls", "mean", "seq"]),
)
def test_parameters_are_counted_without_a_model(
    dim: int, depth: int, heads: int, ratio: float, stem: str, pool: str
) -> None:
    config = ViTConfig(16, 4, 3, 7, dim, depth, heads, ratio, stem, pool)
    assert config_params(config) == sum(p.numel() for p in VisionTransformer(config).parameters())


def test_costs_are_those_of_the_simulated_machine() -> None:
    costs = Costs(SPACE, "zcu104", [*SHAPE, *STREAMED])
    for params in SPACE:
        config = SPACE.config(params)
        lowered = lower(config, "zcu104", **SPACE.streaming(params))
        found = costs(params)
        assert found["cycles"] == simulate(lowered.pipeline).cycles
        assert found["sram_kib"] == lowered.memory.sram_kib
        assert found["energy_pj"] == pytest.approx(lowered.energy().total_pj)
        assert found["dram_bytes"] == lowered.memory.total_dram_bytes
        assert found["params"] == config_params(config)
        assert found["macs"] == sum(info.macs for info in describe(config))
        # 8 bits a weight, and 32 a bias or norm: between one byte and four a parameter
        assert found["params"] <= found["bytes"] <= 4 * found["params"]
        assert costs.of("cycles")(params) == found["cycles"]


def test_only_what_is_asked_for_is_computed() -> None:
    assert set(Costs(SPACE, None, ["params"])(next(iter(SPACE)))) == {"params"}
    assert set(Costs(SPACE, "zcu104", ["cycles"])(next(iter(SPACE)))) == {"cycles"}


def test_what_does_not_fit_the_machine_is_refused_with_the_reason() -> None:
    tiny = Hardware.from_dict(Hardware.preset("zcu104").to_dict() | {"sram_kib": 8, "stream_weights": False})
    costs = Costs(SPACE, tiny, ["cycles", "params"])
    big = {"dim": 16, "depth": 2, "tile": 5, "attention": "full"}
    assert math.isinf(costs(big)["cycles"])
    assert costs.broken(big, []) == ["the 8 KiB on chip of ZCU104"]
    with pytest.raises(InputError, match=r"of 16, the 8 KiB on chip of ZCU104 refuses \d+"):
        costs.feasible(SPACE, [Constraint.parse("params < 1")])


def test_constraints_by_text() -> None:
    bound = Constraint.parse(" cycles<=2e4 ")
    assert (str(bound), bound.holds({"cycles": 20000.0}), bound.holds({"cycles": 20001.0})) == (
        "cycles <= 20000",
        True,
        False,
    )
    assert str(Constraint.parse("params <= 4249354")) == "params <= 4249354.0"  # %g would round it
    assert Constraint.parse("params > 5").holds({"params": 6.0})
    assert not Constraint.parse("macs < 6").holds({"macs": 6.0})
    assert Constraint.parse("sram_kib >= 6").holds({"sram_kib": 6.0})


@pytest.mark.parametrize("text", ["cycles", "cycles <= ", "cycles == 3", "cycles <= 1.2.3", "<= 3", "", 3])
def test_constraints_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="such as"):
        Constraint.parse(text)
