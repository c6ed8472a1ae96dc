"""Fields of the quantisation and of the hardware, and fields that are a choice for some candidates only."""

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from optuna.distributions import CategoricalDistribution

from fifo_sim import Hardware, lower, simulate
from nas import CostAwareSampler, Costs, SearchSpace, Supernet, front, search, shareable
from nas.costs import STREAMED
from nas.task import Task
from quant import QuantConfig, prepare_qat
from tests.nas.toy import toy_data, toy_recipe
from vit import InputError, VisionTransformer, fit
from vit.layers import layers_of

TINY = {"image_size": 4, "patch_size": 2, "in_channels": 1, "num_classes": 2, "heads": 1, "dim": 4}
CODESIGN = SearchSpace(
    {
        "depth": [1, 2],
        "weights.blocks.1": ["pot4", "apot6"],
        "weights": ["int8", "float"],
        "hardware": ["zcu104", "ultra96"],
        "hardware.sram_kib": [128.0, 256.0],
        "fifo": [2, 4, 6],
    },
    TINY,
    {"fifo": {"hardware": ["ultra96"], "weights": ["int8"]}, "hardware.sram_kib": {"hardware": ["zcu104"]}},
)


def is_candidate(params: dict[str, object]) -> bool:
    """The conditions of CODESIGN, written out."""
    free = {
        "weights.blocks.1": params["depth"] == 2,
        "fifo": params["hardware"] == "ultra96" and params["weights"] == "int8",
        "hardware.sram_kib": params["hardware"] == "zcu104",
    }
    return all(chooses or params[name] == CODESIGN.choices[name][0] for name, chooses in free.items())


def test_a_field_without_a_choice_has_its_first_value() -> None:
    grid = [
        dict(zip(CODESIGN.choices, values, strict=True)) for values in itertools.product(*CODESIGN.choices.values())
    ]
    candidates = [params for params in grid if is_candidate(params)]
    listed = list(CODESIGN)
    assert len(CODESIGN) == len(listed) == len(candidates) < CODESIGN.combinations == len(grid)
    assert sorted(map(str, listed)) == sorted(map(str, candidates))
    assert all(bool(CODESIGN.broken_rules(params)) != is_candidate(params) for params in grid)
    drawn = Counter(str(params) for params in CODESIGN.sample(200 * len(listed)))
    assert drawn.keys() == {str(params) for params in listed}
    assert all(120 < count < 290 for count in drawn.values())


def test_a_file_keeps_patterns_and_conditions(tmp_path: Path) -> None:
    CODESIGN.save(tmp_path / "space.toml")
    text = (tmp_path / "space.toml").read_text()
    assert '"weights.blocks.1" = ["pot4", "apot6"]' in text
    assert 'fifo = {hardware = ["ultra96"], weights = ["int8"]}' in text
    assert SearchSpace.load(tmp_path / "space.toml") == CODESIGN


def test_the_first_pattern_that_fits_a_layer_counts() -> None:
    space = SearchSpace({"weights.blocks.*.fc1": ["int4"], "weights": ["pot4"]}, {"weights.blocks.0": "int6", **TINY})
    found = space.quantisation(next(iter(space)))
    assert found is not None
    layers = ("blocks.0.mlp.fc1", "blocks.0.mlp.fc2", "blocks.1.mlp.fc2", "head")
    assert [found.scheme_of(name) for name in layers] == ["int4", "int6", "pot4", "pot4"]
    assert SearchSpace({"dim": [4]}, {"activations": "int4"}).quantisation({"dim": 4}) is None


@pytest.mark.parametrize("params", CODESIGN.sample(6, seed=1))
def test_costs_are_those_of_the_quantised_network_on_the_named_machine(params: dict[str, object]) -> None:
    costs = Costs(CODESIGN, None, STREAMED)
    quantisation = CODESIGN.quantisation(params)
    model = VisionTransformer(CODESIGN.config(params))
    machine = Hardware.preset(params["hardware"])
    if params["hardware"] == "zcu104":
        machine = replace(machine, sram_kib=params["hardware.sram_kib"])
    assert costs.machine(params) == machine
    lowered = lower(model if quantisation is None else prepare_qat(model, quantisation), machine, fifo=params["fifo"])
    assert costs(params) == {
        "cycles": simulate(lowered.pipeline).cycles,
        "sram_kib": lowered.memory.sram_kib,
        "energy_pj": pytest.approx(lowered.energy().total_pj),
        "bytes": sum(op.weights.total_bytes for op in lowered.graph.operations if op.weights is not None),
        "dram_bytes": lowered.memory.total_dram_bytes,
    }


def test_fewer_bits_and_shifts_cost_less() -> None:
    space = SearchSpace({"weights": ["pot4", "int8"], "activations": ["int4", "int8"]}, TINY)
    costs = Costs(space, "zcu104", ["bytes", "energy_pj"])
    found = {tuple(params.values()): costs(params) for params in space}
    assert found["pot4", "int8"]["bytes"] < found["int8", "int8"]["bytes"]
    assert found["pot4", "int8"]["energy_pj"] < found["int8", "int8"]["energy_pj"]
    assert found["pot4", "int4"]["energy_pj"] < found["pot4", "int8"]["energy_pj"]


def test_a_search_trains_candidates_as_they_are_quantised() -> None:
    recipe = toy_recipe()
    study = search(CODESIGN, toy_data(), None, ("accuracy", "energy_pj"), trials=8, storage=None, recipe=recipe)
    assert front(study)
    trial = next(t for t in study.trials if CODESIGN.quantisation(t.params) is not None)
    torch.manual_seed(recipe.seed)
    quantisation = CODESIGN.quantisation(trial.params)
    assert isinstance(quantisation, QuantConfig)
    model = prepare_qat(VisionTransformer(CODESIGN.config(trial.params)), quantisation)
    assert fit(model, toy_data(), recipe).val_accuracy == trial.values[0]


def test_what_changes_no_weight_needs_no_other_training() -> None:
    task = Task(CODESIGN, toy_data(), None, ("accuracy", "cycles"), (), 0, toy_recipe(), "random", "cpu")
    trained = {(p["depth"], p["weights.blocks.1"], p["weights"]): task.trained_by(p) for p in CODESIGN}
    assert {task.trained_by(p) for p in CODESIGN} == set(trained.values())
    assert len(set(trained.values())) == len(trained) == 6


def test_a_machine_that_cannot_be_is_told_before_anything_is_trained() -> None:
    for choices, told in (
        ({"hardware": ["zcu104", "no-such-chip"]}, "no-such-chip"),
        ({"hardware.sram_kib": [64, -1]}, "sram_kib"),
        ({"hardware.array_rows": [8, 16]}, "array_rows"),  # of a machine without an array
    ):
        with pytest.raises(InputError, match=told):
            Costs(SearchSpace(choices, TINY), "zcu104", ["cycles"])


def test_a_pool_of_a_large_space_is_drawn_from_its_candidates() -> None:
    deep = {f"weights.blocks.{i}": ["pot4", "apot6", "int8", "int4"] for i in range(2, 12)}
    space = SearchSpace({"depth": [2, 12], **deep}, {**TINY, "weights": "pot4"})
    assert len(space) == 1 + 4**10
    distributions = {name: CategoricalDistribution(values) for name, values in space.choices.items()}
    many = [
        CostAwareSampler(
            distributions,
            {0: lambda p: p["depth"]},
            lambda p: [float(bool(space.broken_rules(p)))],
            0,
            pool=64,
            draw=draw,
        )._all_or_drawn()
        for draw in (space.sample, None)
    ]
    assert len(many[0].candidates) == 64
    assert len(many[1].candidates) < 64


def test_a_supernet_is_float() -> None:
    with pytest.raises(InputError, match=r"weights.blocks.1.*left out with a supernet"):
        Supernet(CODESIGN)
    shared = shareable(CODESIGN)
    assert list(shared.choices) == ["depth", "hardware", "hardware.sram_kib", "fifo"]
    assert shared.when == {"hardware.sram_kib": {"hardware": ("zcu104",)}}
    assert {config.depth for config in Supernet(shared).candidates} == {1, 2}


@pytest.mark.parametrize(
    ("choices", "when", "field"),
    [
        ({"weights": ["pot5"]}, {}, "space.weights"),
        ({"weights.": ["pot4"]}, {}, "space"),
        ({"weights.blocks.12": ["pot4"]}, {}, "space"),
        ({"weights.head": [4]}, {}, "space.weights.head"),
        ({"activations": ["pot4"]}, {}, "space.activations"),
        ({"hardware": [3]}, {}, "space.hardware"),
        ({"hardware.sram": [3]}, {}, "hardware.sram"),
        ({"hardware.name": ["x"]}, {}, "hardware.name"),
        ({"hardware.sram_kib": [float("nan")]}, {}, "space.hardware.sram_kib"),
        ({"fifo": [2, 4]}, {"tile": {"fifo": [2]}}, "space.when"),
        ({"fifo": [2, 4]}, {"fifo": {}}, "space.when.fifo"),
        ({"fifo": [2, 4]}, {"fifo": {"fifo": [2]}}, "space.when.fifo"),
        ({"fifo": [2, 4]}, {"fifo": {"attentoin": ["full"]}}, "space.when.fifo"),
        ({"fifo": [2, 4]}, {"fifo": {"attention": ["tile"]}}, "space.when.fifo.attention"),
        ({"fifo": [2, 4]}, {"fifo": {"attention": "full"}}, "space.attention"),
        ({"fifo": [2, 4]}, ["fifo"], "space.when"),
    ],
)
def test_bad_input_is_named(choices: dict[str, object], when: dict[str, object], field: str) -> None:
    with pytest.raises(InputError) as caught:
        SearchSpace(choices, TINY, when)
    assert caught.value.field == field


def test_every_layer_has_the_scheme_it_was_searched_with() -> None:
    params = {"depth": 2, "weights.blocks.1": "apot6", "weights": "float", "hardware": "zcu104", "fifo": 2}
    quantisation = CODESIGN.quantisation(params)
    assert quantisation is not None
    model = prepare_qat(VisionTransformer(CODESIGN.config(params)), quantisation)
    names = [layer.name for layer in layers_of(CODESIGN.config(params)) if layer.params]
    schemes = {name: model.get_submodule(name).weight_scheme for name in names}
    assert {name for name, scheme in schemes.items() if scheme == "apot6"} == {
        n for n in names if n.startswith("blocks.1.")
    }
