"""Single layers in their quantised forms: exact on whole numbers, unbiased after correction, sensibly clipped."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from quant.calibration import Sample, activation_range
from quant.onnx_graph import IR_VERSION, OPSET, Graph
from quant.onnx_layers import ActivationRange, quantise_dynamic, quantise_static, quantise_weight, shift_output
from quant.onnx_session import open_session

RNG = np.random.default_rng(0)


def one_layer(weight: np.ndarray, bias: np.ndarray | None = None) -> ModelProto:
    """A graph of one MatMul (x (B, T, inner)) or Conv (x (B, C, 8, 8)), with its bias."""
    conv = weight.ndim == 4
    constants = {"layer.weight": weight} | ({} if bias is None else {"layer.bias": bias})
    inputs = ["images", "layer.weight"] + (["layer.bias"] if conv and bias is not None else [])
    nodes = [helper.make_node("Conv" if conv else "MatMul", inputs, ["y"], "layer")]
    if not conv and bias is not None:
        nodes.append(helper.make_node("Add", ["y", "layer.bias"], ["logits"]))
    else:
        nodes.append(helper.make_node("Identity", ["y"], ["logits"]))
    shape = ["B", weight.shape[1], 8, 8] if conv else ["B", "T", weight.shape[0]]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None] * len(shape))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)])


def run(graph: Graph, x: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(graph.model)
    return open_session(graph.model).run(None, {"images": x})[0]


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_products_of_the_largest_codes_do_not_saturate(method: str) -> None:
    """uint8 by int8 does, on x86 without VNNI: two products of 255 and 127 are more than 16 bits hold."""
    weight = np.where(RNG.random((64, 16)) < 0.8, 127, -127).astype(np.float32)
    x = np.where(RNG.random((1, 9, 64)) < 0.8, 255, 0).astype(np.float32)
    graph = Graph(one_layer(weight))
    if method == "static":
        quantise_static(graph, graph.layers()[0], ActivationRange(1.0, 0))
    else:
        quantise_dynamic(graph, graph.layers()[0])
    graph.drop_unused()
    expected = x.astype(np.float64) @ weight
    assert np.abs(run(graph, x) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(("inner", "bits"), [(64, 4), (40, 4), (32, 8), (7, 4)])
def test_a_block_of_weights_is_unpacked_as_it_was_packed(inner: int, bits: int) -> None:
    """Weights that the blocks hold exactly come out exactly, whatever the last block lacks."""
    top = 2 ** (bits - 1) - 1
    levels = RNG.integers(-top, top + 1, (inner, 5))
    levels[0::16] = top  # every block of 32 has its scale from its largest
    weight = (levels * 0.25).astype(np.float32)
    graph = Graph(one_layer(weight, np.ones(5, np.float32)))
    quantise_weight(graph, graph.layers()[0], bits)
    graph.drop_unused()
    x = RNG.standard_normal((2, 3, inner)).astype(np.float32)
    assert np.allclose(run(graph, x), x @ weight + 1, atol=1e-4)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", [(24, 5), (5, 3, 3, 3)])
def test_a_shift_reaches_every_output_channel(shape: tuple[int, ...], biased: bool) -> None:
    weight = RNG.standard_normal(shape).astype(np.float32)
    graph = Graph(one_layer(weight, RNG.standard_normal(5).astype(np.float32) if biased else None))
    conv = weight.ndim == 4
    x = RNG.standard_normal((2, 3, 8, 8) if conv else (2, 7, 24)).astype(np.float32)
    before, amount = run(graph, x), np.arange(5, dtype=np.float32)
    shift_output(graph, graph.layers()[0], amount)
    graph.drop_unused()
    assert np.allclose(run(graph, x) - before, amount[:, None, None] if conv else amount, atol=1e-5)


def test_a_kernel_has_a_scale_for_every_output_channel() -> None:
    weight = (RNG.integers(-127, 128, (5, 3, 3, 3)) * 10.0 ** np.arange(-2, 3).reshape(5, 1, 1, 1)).astype(np.float32)
    weight[:, 0, 0, 0] = 127 * 10.0 ** np.arange(-2, 3)
    graph = Graph(one_layer(weight))
    quantise_weight(graph, graph.layers()[0], 8)
    x = RNG.standard_normal((2, 3, 8, 8)).astype(np.float32)
    assert np.allclose(run(graph, x), run(Graph(one_layer(weight)), x), rtol=1e-3)


def sample(values: np.ndarray, count: int | None = None) -> Sample:
    values = values.astype(np.float32)
    return Sample(values, len(values) if count is None else count, float(values.min()), float(values.max()))


def rounding_error(values: np.ndarray, chosen: ActivationRange) -> float:
    codes = np.clip(np.rint(values / np.float32(chosen.scale)) + chosen.zero, 0, 255)
    return float(np.square((codes - chosen.zero) * chosen.scale - values).sum())


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-1e3, 1e3, width=32), max_size=50), st.floats(0, 100))
def test_a_range_rounds_no_worse_than_the_extremes_do(values: list[float], outlier: float) -> None:
    drawn = np.concatenate([values, np.linspace(-1, 1, 200), [outlier]]).astype(np.float32)
    chosen = activation_range(sample(drawn))
    assert chosen.scale > 0
    assert 0 <= chosen.zero <= 255
    low, high = min(0.0, float(drawn.min())), max(0.0, float(drawn.max()))
    widest = ActivationRange((high - low) / 255, round(-low / ((high - low) / 255)))
    counted = np.append(drawn, [drawn.min(), drawn.max()])  # the extremes once more
    assert rounding_error(counted, chosen) <= rounding_error(counted, widest) * (1 + 1e-4) + 1e-9


def test_a_rare_outlier_is_clipped_and_a_frequent_one_is_kept() -> None:
    normal = RNG.standard_normal(30000).astype(np.float32)
    once = Sample(normal, 10**6, float(normal.min()), 30.0)
    assert activation_range(once).scale * 255 < 20
    often = np.append(normal, np.full(30, 30, np.float32))
    assert activation_range(sample(often, 10**6)).scale * 255 > 30
    assert activation_range(sample(np.abs(normal))).zero == 0
    assert activation_range(sample(np.zeros(10))) == ActivationRange(1.0, 0)
