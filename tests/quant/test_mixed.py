"""Sensitivity of layers, and schemes within a budget."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quant import QuantConfig, convert, prepare_qat
from quant.mixed import Sensitivity, assign_schemes, sensitivity, total_divergence
from quant.qat import quantisable_layers
from tests.quant.models import float_model, images, prepared_model
from vit.errors import InputError


def test_sensitivity_leaves_the_model_alone_and_ranks_schemes() -> None:
    model = float_model(0.5)
    before = model(images())
    table = sensitivity(model, images(), ("pot4", "apot6", "int8"))
    assert torch.equal(model(images()), before)
    assert [row.layer for row in table[::3]] == list(quantisable_layers(model))
    sums = {s: sum(row.divergence for row in table if row.scheme == s) for s in ("pot4", "apot6", "int8")}
    assert sums["pot4"] > sums["apot6"] > sums["int8"] > 0
    assert next(row.bytes for row in table if row.layer == "head" and row.scheme == "apot6") == 10 * 32 * 6 // 8


def test_schemes_within_a_budget_train_and_pack() -> None:
    model = float_model()
    table = sensitivity(model, images(), ("pot4", "apot6"))
    least = sum(row.bytes for row in table if row.scheme == "pot4")
    most = sum(row.bytes for row in table if row.scheme == "apot6")
    schemes = assign_schemes(table, (least + most) / 2)
    assert set(schemes.values()) == {"pot4", "apot6"}
    prepared = prepare_qat(model, QuantConfig(weights=schemes)).eval()
    assert convert(prepared).schemes == schemes
    assert total_divergence(table, schemes) < total_divergence(table, dict.fromkeys(schemes, "pot4"))


def test_the_cost_can_be_anything() -> None:
    table = sensitivity(float_model(), images(), ("pot4", "int8"))
    energy = {"pot4": 1.0, "int8": 4.0}
    schemes = assign_schemes(table, 4 * 8 + 2, lambda row: energy[row.scheme])
    assert 1 <= list(schemes.values()).count("int8") <= 8


rows = st.lists(
    st.tuples(st.integers(1, 20), st.floats(0, 1)), min_size=1, max_size=3
)  # options of a layer: bytes, divergence


@given(layers=st.lists(rows, min_size=1, max_size=4), share=st.floats(0, 1))
def test_a_budget_holds_and_nothing_better_fits(layers: list[list[tuple[int, float]]], share: float) -> None:
    table = [
        Sensitivity(str(i), str(j), size, loss)
        for i, options in enumerate(layers)
        for j, (size, loss) in enumerate(options)
    ]
    by = {(row.layer, row.scheme): row for row in table}
    ways = [(sum(size for size, _ in way), sum(loss for _, loss in way)) for way in itertools.product(*layers)]
    sizes = [size for size, _ in ways]
    budget = min(sizes) + share * (max(sizes) - min(sizes))
    schemes = assign_schemes(table, budget)
    spent = sum(by[item].bytes for item in schemes.items())
    assert spent <= budget
    assert total_divergence(table, schemes) <= min(loss for size, loss in ways if size <= budget) + 1e-5
    for row in table:
        held = by[row.layer, schemes[row.layer]]
        assert row.divergence >= held.divergence or spent + row.bytes - held.bytes > budget


def test_the_best_choice_is_not_the_one_step_after_step() -> None:
    table = [Sensitivity("a", "pot4", 0, 1.0), Sensitivity("a", "int8", 6, 0.1)]
    table += [
        Sensitivity(name, scheme, *row) for name in "bc" for scheme, row in (("pot4", (0, 0.6)), ("int8", (5, 0.0)))
    ]
    assert assign_schemes(table, 10) == {"a": "pot4", "b": "int8", "c": "int8"}


def test_what_cannot_be_is_refused() -> None:
    table = [Sensitivity("head", "pot4", 100, 0.1)]
    with pytest.raises(InputError, match="at least 100"):
        assign_schemes(table, 99)
    with pytest.raises(InputError, match="float model"):
        sensitivity(prepared_model(), images())
