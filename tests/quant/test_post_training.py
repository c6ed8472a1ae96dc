"""Quantisation after training: the result says what the file does, and accuracy holds or the result says that not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto

from quant import PtqResult, convert, onnx_export, post_training, prepare_qat, ptq
from quant.calibration import logit_error, observe
from quant.onnx_graph import Graph
from quant.onnx_quantiser import METHODS, Quantiser
from quant.onnx_session import accuracy, open_session
from tests.quant.models import float_model as random_model
from tests.quant.models import prepared_model
from tests.quant.trained import digits, trained_graph, trained_model
from vit.errors import InputError
from vit.zoo import create_model

LAYERS = ["stem.proj", *(f"blocks.0.{name}" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")), "head"]
OUTLIER = 3000.0


def exporting(graph: ModelProto) -> Callable[..., None]:
    """In the place of export_onnx: torch takes seconds for it, and would give the same each time."""
    return lambda model, path: onnx.save(graph, str(path))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PtqResult]:
    """The trained model by every method."""
    folder = tmp_path_factory.mktemp("ptq")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(post_training, "export_onnx", exporting(trained_graph()))
        return {method: ptq(trained_model(), method, digits(), folder) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_a_file_does_what_its_result_says(results: dict[str, PtqResult], method: str) -> None:
    result = results[method]
    assert result.path.name == f"{method}.onnx"
    assert accuracy(open_session(result.path), digits().val, result.batch_size) == result.accuracy
    assert accuracy(open_session(result.float_path), digits().val, 10) == result.float_accuracy
    assert result.size_bytes == result.path.stat().st_size
    assert result.float_size_bytes == result.float_path.stat().st_size
    assert result.change == result.accuracy - result.float_accuracy
    assert result.within_target == (result.change >= -result.target)
    assert min(result.latency_ms, result.float_latency_ms) > 0
    assert not digits().test_was_read


@pytest.mark.parametrize("method", METHODS)
def test_little_accuracy_is_lost(results: dict[str, PtqResult], method: str) -> None:
    assert results[method].float_accuracy > 0.85
    assert results[method].change > -0.03


def test_fewer_bits_make_smaller_files(results: dict[str, PtqResult]) -> None:
    sizes = [results[method].compression for method in ("fp16", "int8-static", "int4-weight")]
    assert 1.3 < sizes[0] < sizes[1] < sizes[2]
    assert results["int8-dynamic"].compression > sizes[0]


def test_a_result_names_every_layer_and_is_json(results: dict[str, PtqResult]) -> None:
    for method, result in results.items():
        assert list(result.bits) == LAYERS == list(result.sensitivity)
        assert all(error >= 0 for error in result.sensitivity.values())
        assert set(result.bits.values()) <= {METHODS[method], 8, 32}
        plain = json.loads(json.dumps(result.to_dict()))
        assert plain["path"] == str(result.path)
        assert plain["compression"] == result.compression
        assert plain["kept_in_float"] == result.kept_in_float
        assert plain["within_target"] == result.within_target
    assert results["int4-weight"].bits["stem.proj"] == results["int4-weight"].bits["head"] == 8
    assert min(results["int4-weight"].sensitivity, key=results["int4-weight"].sensitivity.get) in ("stem.proj", "head")


def unpacked(graph: Graph, layer: str, bits: int, inner: int) -> np.ndarray:
    """The weight (out, inner) that a file stands for, by the documentation of its operators."""
    if f"{layer}.codes" in graph.names():  # MatMulNBits: blocks of 32, the low nibble first, 2^(bits-1) is 0
        codes = graph.constant(f"{layer}.codes").astype(int)
        if bits == 4:
            codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:2], -1)
        scale = graph.constant(f"{layer}.scale").reshape(*codes.shape[:2], 1)
        return ((codes - 2 ** (bits - 1)) * scale).reshape(len(codes), -1)[:, :inner]
    levels = graph.constant(f"{layer}.levels").astype(int) - 128
    rows = levels.T if levels.ndim == 2 else levels.reshape(len(levels), -1)
    return rows * graph.constant(f"{layer}.scale")[:, None]


@pytest.mark.parametrize("method", ["int8-static", "int8-dynamic", "int4-weight"])
def test_weights_are_near_and_zeros_stay(method: str) -> None:
    pruned = Graph(trained_graph())
    for layer in pruned.layers():
        weight = pruned.constant(layer.weight)
        pruned.add_constant(layer.weight, np.where(np.abs(weight) < np.median(np.abs(weight)), np.float32(0), weight))
    quantiser = Quantiser(pruned.model, method, digits().train.take(torch.arange(20)), threads=1)
    graph = Graph(quantiser.model(quantiser.usual_bits))
    for layer in quantiser.layers:
        bits, weight = quantiser.usual_bits[layer.name], pruned.rows(layer)
        stored = unpacked(graph, layer.name, bits, weight.shape[1])
        assert (stored[weight == 0] == 0).all()
        noise = np.square(stored - weight).sum() / np.square(weight).sum()
        assert noise < {8: 1e-4, 4: 1e-2}[bits]


@pytest.mark.parametrize("method", ["int8-static", "int4-weight"])
def test_biases_take_up_the_mean_error(method: str) -> None:
    images = digits().train.take(torch.arange(32))
    quantiser = Quantiser(trained_graph(), method, images, threads=1)
    mean = observe(trained_graph(), [], images, threads=1).logits.mean(0)
    corrected = observe(quantiser.model({"head": 8}), [], images, threads=1).logits.mean(0)
    assert np.abs(corrected - mean).max() < 1e-5
    everything = observe(quantiser.model(quantiser.usual_bits), [], images, threads=1).logits
    assert logit_error(everything, observe(trained_graph(), [], images, threads=1).logits) < 0.05


def with_outlier(graph: ModelProto) -> ModelProto:
    """The same function, but one channel in front of qkv is thousands of times louder than the others."""
    louder = Graph(graph)
    for name in ("blocks.0.norm1.weight", "blocks.0.norm1.bias"):
        values = louder.constant(name).copy()
        values[0] *= OUTLIER
        louder.add_constant(name, values)
    weight = louder.constant("blocks.0.attn.qkv.weight").copy()
    weight[0] /= OUTLIER
    louder.add_constant("blocks.0.attn.qkv.weight", weight)
    return louder.model


@pytest.mark.parametrize("method", ["int8-static", "int8-dynamic"])
def test_a_layer_that_cannot_bear_it_goes_back_to_float_or_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(post_training, "export_onnx", exporting(with_outlier(trained_graph())))
    lost = ptq(trained_model(), method, digits(), tmp_path, calibration_images=32, fallback=0)
    assert lost.change < -0.1
    assert not lost.within_target
    assert not lost.kept_in_float
    assert max(lost.sensitivity, key=lost.sensitivity.get) == "blocks.0.attn.qkv"
    held = ptq(trained_model(), method, digits(), tmp_path, calibration_images=32, fallback=0.5)
    assert "blocks.0.attn.qkv" in held.kept_in_float
    assert held.bits["blocks.0.attn.qkv"] == 32
    assert held.change > -0.03
    graph = Graph(trained_graph())
    weights = {layer.name: graph.rows(layer).size for layer in graph.layers()}
    assert sum(weights[name] for name in held.kept_in_float) <= 0.5 * sum(weights.values())


def test_four_bits_fall_back_to_eight() -> None:
    quantiser = Quantiser(trained_graph(), "int4-weight", digits().train.take(torch.arange(16)), threads=1)
    few = digits().val.take(torch.arange(40))
    bits = quantiser.choose(few, 64, wanted=2.0, budget=1.0)  # no accuracy reaches 2: everything is tried
    assert set(bits.values()) <= {4, 8}
    everything = dict.fromkeys(LAYERS, 8)
    assert quantiser.accuracy(bits, few, 64) >= quantiser.accuracy(everything, few, 64)
    assert quantiser.choose(few, 64, wanted=0.0, budget=1.0) == quantiser.usual_bits


def test_a_timm_model_into_the_usual_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = {"timm": "vit_tiny_patch16_224", "patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model({**spec, "qkv_bias": False}, image_size=8, in_channels=1).eval()
    result = ptq(model, "int8-static", digits(), calibration_images=16, threads=1)
    assert result.path == Path("outputs/ptq/int8-static.onnx")
    assert sorted(path.name for path in result.path.parent.iterdir()) == ["float.onnx", "int8-static.onnx"]
    assert "patch_embed.proj" in result.bits
    x = digits().val.floats()[:7]
    expected = model(x).detach().numpy()
    assert np.abs(open_session(result.float_path).run(None, {"images": x.numpy()})[0] - expected).max() <= 1e-4
    assert np.abs(open_session(result.path).run(None, {"images": x.numpy()})[0] - expected).max() <= 0.05


def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = trained_model(), digits()
    with pytest.raises(InputError, match=r"method = 'int8-statik': .*did you mean 'int8-static'"):
        ptq(model, "int8-statik", data, tmp_path)
    with pytest.raises(InputError, match="model = 'PackedModel': allowed is a float model"):
        ptq(convert(prepared_model()), "fp16", data, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="prepared for QAT: export or convert it"):
        ptq(prepare_qat(model), "fp16", data, tmp_path)
    with pytest.raises(InputError, match="data image_size = 8: allowed is 16"):
        ptq(random_model(), "fp16", data, tmp_path)
    with pytest.raises(InputError, match="data = 'str': allowed is the splits that load_data gives"):
        ptq(model, "fp16", "digits", tmp_path)  # type: ignore[arg-type]
    for wrong in ({"fallback": 1.5}, {"calibration_images": 0}, {"threads": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            ptq(model, "fp16", data, tmp_path, **wrong)
    assert not any(tmp_path.iterdir())


def test_an_unwritable_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(onnx_export, "float_model", lambda model, batch: trained_graph())
    with pytest.raises(InputError, match="writable place"):
        ptq(trained_model(), "fp16", digits(), tmp_path / "file")
