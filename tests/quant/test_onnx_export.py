"""ONNX files: float models to 1e-4, quantised ones to the bit, for any batch; what cannot be exported is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from prune import magnitude_prune
from quant import PackedModel, QuantConfig, convert, export_onnx, onnx_export, prepare_qat
from quant.onnx_graph import Graph
from quant.onnx_session import open_session
from tests.quant.models import float_model, images, prepared_model, randomise
from tests.quant.test_packed import VARIANTS
from tests.quant.trained import trained_graph
from vit.errors import InputError
from vit.masks import masks
from vit.model import VisionTransformer
from vit.zoo import create_model

pytestmark = pytest.mark.filterwarnings("ignore:pot6")


def logits(path: Path, x: torch.Tensor) -> np.ndarray:
    return open_session(path).run(None, {"images": x.numpy()})[0]


FLOAT = {
    "class token": {},
    "conv stem, SeqPool": {"stem": "conv", "pool": "seq"},
}


@pytest.mark.parametrize("variant", FLOAT)
def test_a_float_file_computes_the_models_logits_for_any_batch(tmp_path: Path, variant: str) -> None:
    model = float_model(depth=1, **FLOAT[variant])
    training = [module.training for module in model.modules()]
    difference = export_onnx(model, tmp_path / "model.onnx")
    assert difference <= 1e-4
    for count in (1, 2, 7):
        x = images(count)
        assert np.abs(logits(tmp_path / "model.onnx", x) - model(x).detach().numpy()).max() <= 1e-4
    assert [module.training for module in model.modules()] == training
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_masks_are_plain_zeros_and_layers_keep_their_names(tmp_path: Path) -> None:
    model = magnitude_prune(float_model(depth=1, pool="mean"), 0.6, scope="layer")
    export_onnx(model, tmp_path / "model.onnx", batch=5)
    graph = Graph(onnx.load(tmp_path / "model.onnx"))
    names = [layer.name for layer in graph.layers()]
    blocks = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    assert names == ["stem.proj", *(f"blocks.0.{name}" for name in blocks), "head"]
    for layer in graph.layers():
        rows = graph.rows(layer)
        assert np.array_equal(rows == 0, ~masks(model)[layer.name].flatten(1).numpy())
        assert np.array_equal(rows, model.get_submodule(layer.name).weight.detach().flatten(1).numpy())
    assert not any(node.op_type == "Gemm" for node in graph.model.graph.node)
    x = images(5)
    assert np.abs(logits(tmp_path / "model.onnx", x) - model(x).detach().numpy()).max() <= 1e-4
    with pytest.raises(Exception, match="images"):  # onnxruntime's own: the file takes five
        logits(tmp_path / "model.onnx", images(4))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_quantised_file_gives_the_same_bits_as_the_model(tmp_path: Path, variant: str) -> None:
    changes, quant = VARIANTS[variant]
    model = prepared_model(0.5, quant, **changes)
    assert export_onnx(model, tmp_path / "model.onnx") == 0
    x = images(70)
    expected = model(x).detach().numpy()
    assert np.array_equal(logits(tmp_path / "model.onnx", x), expected)
    assert np.array_equal(logits(tmp_path / "model.onnx", x[:1]), expected[:1])


def test_a_quantised_file_holds_the_levels_themselves(tmp_path: Path) -> None:
    packed = convert(prepared_model(0.5, {"weights": {"head": "int8", "*": "pot4"}}))
    export_onnx(packed, tmp_path / "model.onnx", batch=2)
    model = onnx.load(tmp_path / "model.onnx")
    stored = {constant.name: numpy_helper.to_array(constant) for constant in model.graph.initializer}
    for name, layer in packed.layers.items():
        assert stored[f"{name}.levels"].dtype == np.uint8
        assert np.array_equal(stored[f"{name}.levels"].astype(int) - 128, layer.levels.T)
    assert json.loads({entry.key: entry.value for entry in model.metadata_props}["schemes"]) == packed.schemes
    assert [entry.dim_value for entry in model.graph.input[0].type.tensor_type.shape.dim] == [2, 3, 16, 16]


def test_whole_number_products_are_exact_at_their_largest(tmp_path: Path) -> None:
    model = prepare_qat(float_model(pool="mean"), QuantConfig(weights="int8"))
    with torch.no_grad():
        for layer in model.modules():
            if getattr(layer, "weight_quant", None) is not None:  # every weight at an end of its range
                draw = torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(0))
                layer.weight.copy_(torch.where(draw < 0.9, -1e3, 1e3))
    x = 1e3 * images(9).sign()
    export_onnx(model, tmp_path / "model.onnx")
    assert np.array_equal(logits(tmp_path / "model.onnx", x), model.eval()(x).detach().numpy())


def test_a_prepared_timm_model(tmp_path: Path) -> None:
    spec = {"timm": "vit_tiny_patch16_224", "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
    model = prepare_qat(randomise(create_model(spec, image_size=16))).eval()
    export_onnx(model, tmp_path / "model.onnx")
    x = images(5)
    assert np.array_equal(logits(tmp_path / "model.onnx", x), model(x).detach().numpy())


class Undecided(VisionTransformer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.sum() > 0 else -x)


def test_what_cannot_be_exported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(InputError, match=r"model = 'Linear': allowed is a VisionTransformer"):
        export_onnx(torch.nn.Linear(2, 2), path)
    with pytest.raises(InputError, match=r"model = 'str': allowed is a torch model or a PackedModel"):
        export_onnx("model.safetensors", path)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="batch = 0"):
        export_onnx(float_model(), path, batch=0)
    with pytest.raises(InputError, match=r"model = 'Undecided': allowed is a model that torch can export"):
        export_onnx(Undecided(float_model(depth=1).config), path)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(onnx_export, "float_model", lambda model, batch: trained_graph())
    other = float_model(image_size=8, patch_size=2, in_channels=1, depth=1, pool="mean")
    with pytest.raises(InputError, match="logits differ by"):
        export_onnx(other, path)
    assert not any(tmp_path.iterdir())


def test_an_unwritable_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    packed: PackedModel = convert(prepared_model())
    with pytest.raises(InputError, match="writable place"):
        export_onnx(packed, tmp_path / "file" / "model.onnx")
