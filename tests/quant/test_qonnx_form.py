"""QONNX files: run by the operators' written definitions, and by the qonnx package where it is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from quant import PackedModel, convert, export_qonnx
from quant.codec import quantize
from tests.quant.models import float_model, images, prepared_model
from tests.quant.test_packed import VARIANTS
from vit.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:pot6")
DOMAIN = "qonnx.custom_op.general"
CHOSEN = ["plain", "conv stem, SeqPool", "mean pooling", "apot6", "mixed", "float stem and head", "weights alone"]
CHOSEN += ["log2 probabilities"]


def away(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.floor(np.abs(x) + np.float32(0.5))


class Quant(OpRun):
    """Whole numbers of `bits`, times the scale."""

    op_domain = DOMAIN

    def _run(self, x, scale, zero, bits, signed=None, narrow=None, rounding_mode=None):
        assert (zero, narrow, rounding_mode) == (0, 0, "HALF_UP")
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        return ((np.clip(away(x / scale), low, high) * scale).astype(np.float32),)


class FloatQuant(OpRun):
    """The nearest of 0 and the powers of two that the exponent reaches, with either sign, times the scale."""

    op_domain = DOMAIN

    def _run(self, x, scale, exponent_bits, mantissa_bits, bias, largest, **options):
        assert mantissa_bits == 0
        assert options["rounding_mode"] == "HALF_UP"
        exponents = np.arange(1, 2**exponent_bits) - bias
        levels = np.concatenate([[0], 2.0**exponents])
        assert levels.max() == largest
        magnitude = np.abs(x / scale)
        index = np.searchsorted((levels[1:] + levels[:-1]) / 2, magnitude, side="right")
        return ((np.sign(x) * levels[index] * scale).astype(np.float32),)


def evaluator(path: Path, outputs: tuple[str, ...] = ()) -> ReferenceEvaluator:
    model = onnx.load(path)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return ReferenceEvaluator(model, new_ops=[Quant, FloatQuant])


@pytest.mark.parametrize("variant", CHOSEN)
def test_the_file_computes_what_the_packed_model_does(tmp_path: Path, variant: str) -> None:
    changes, quant = VARIANTS[variant]
    packed = convert(prepared_model(0.5, quant, **changes))
    export_qonnx(packed, tmp_path / "model.onnx")
    x = images(6).numpy()
    expected = packed.predict(x)
    found = evaluator(tmp_path / "model.onnx").run(None, {"images": x})[0]
    assert np.abs(found - expected).max() < 0.05  # a value on the edge of two levels may fall to the other side
    assert np.median(np.abs(found - expected)) < 1e-5


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_with_power_of_two_scales_a_linear_layer_is_exact(tmp_path: Path, stem: str) -> None:
    model = prepared_model(0.5, {"power_of_two_scales": True}, stem=stem)
    packed: PackedModel = convert(model)
    export_qonnx(model, tmp_path / "model.onnx", batch=3)
    nodes = onnx.load(tmp_path / "model.onnx").graph.node
    made_by = {node.output[0]: node for node in nodes}
    tensors = {}
    for node in nodes:
        layer = node.input[1].removesuffix(".bias") if len(node.input) > 1 else ""
        if node.op_type == "Add" and layer in packed.layers:
            product = made_by[node.input[0]]
            tensors[layer] = made_by[product.input[0]].input[0], node.output[0]
            assert made_by[product.input[1]].op_type == "FloatQuant"
    assert list(tensors) == list(packed.layers)
    names = tuple(dict.fromkeys(name for pair in tensors.values() for name in pair if name != "images"))
    x = images(3).numpy()
    values = dict(zip(names, evaluator(tmp_path / "model.onnx", names).run(list(names), {"images": x}), strict=True))
    for layer, (before, after) in tensors.items():
        rows = values[before].reshape(-1, values[before].shape[-1])
        expected = packed.engine.linear[layer](np.ascontiguousarray(rows))
        assert np.array_equal(values[after].reshape(expected.shape), expected), layer


def test_pot4_is_a_float_of_three_exponent_bits() -> None:
    x = np.linspace(-70, 70, 3001, dtype=np.float32)
    numbers = [np.float32(value) for value in (0.5, 3, 0, 1, 64)]
    found = FloatQuant._run(None, x, *numbers, rounding_mode="HALF_UP")[0]  # type: ignore[arg-type]
    assert np.array_equal(found, quantize(x, 0.5, "pot4"))


def test_the_qonnx_package_gives_the_same(tmp_path: Path) -> None:
    pytest.importorskip("qonnx")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    packed = convert(prepared_model(0.5, {"power_of_two_scales": True}))
    export_qonnx(packed, tmp_path / "model.onnx", batch=4)
    x = images(4).numpy()
    found = execute_onnx(ModelWrapper(str(tmp_path / "model.onnx")).transform(InferShapes()), {"images": x})["logits"]
    assert np.allclose(found, packed.predict(x), atol=1e-5)


def test_a_float_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a model from prepare_qat"):
        export_qonnx(float_model(), tmp_path / "model.onnx")
    assert not any(tmp_path.iterdir())
