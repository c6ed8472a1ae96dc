from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vit import torchvision_shim
from vit.checkpoint import save_checkpoint
from vit.config import ViTConfig
from vit.errors import InputError
from vit.layers import config_of
from vit.model import VisionTransformer
from vit.torchvision_shim import import_timm, import_torchvision
from vit.zoo import create_model, model_spec, timm_config

TINY = {"timm": "vit_tiny_patch16_224", "patch_size": 4, "depth": 2}


def test_a_config_and_a_dict_make_our_transformer() -> None:
    config = ViTConfig(16, 4, dim=8, depth=1, heads=2)
    assert create_model(config).config is config
    model = create_model(
        {"dim": 8, "depth": 1, "heads": 2, "num_classes": 3}, num_classes=7, image_size=8, in_channels=1
    )
    assert model.config == ViTConfig(8, 4, in_channels=1, num_classes=3, dim=8, depth=1, heads=2)
    assert model_spec(model) == model.config.to_dict()


def test_a_checkpoint_path_makes_its_own_model(tmp_path: Path) -> None:
    model = create_model({"dim": 8, "depth": 1, "heads": 2}, num_classes=3).eval()
    save_checkpoint(tmp_path / "model.safetensors", model)
    again = create_model(tmp_path / "model.safetensors", num_classes=10)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(images), model(images))


def test_a_timm_vit_has_an_equal_config() -> None:
    model = create_model(TINY, num_classes=7, image_size=16, in_channels=1).eval()
    config = timm_config(model)
    assert config == ViTConfig(16, 4, in_channels=1, num_classes=7, dim=192, depth=2, heads=3, mlp_ratio=4.0)
    assert config_of(model) == config
    ours = VisionTransformer(config).eval()
    renamed = {name.replace("patch_embed.", "stem."): tensor for name, tensor in model.state_dict().items()}
    ours.load_state_dict(renamed)
    images = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(ours(images), model(images), atol=1e-5, rtol=1e-5)


def test_pruned_widths_of_a_timm_vit_are_kept_in_its_spec() -> None:
    widths: dict[str, Any] = {"head_dim": 64, "block_heads": [2, 2], "block_hidden": [100, 300]}
    model = create_model({**TINY, **widths}, image_size=16)
    assert {key: model_spec(model)[key] for key in widths} == widths
    assert timm_config(model).heads == 2
    assert model(torch.randn(1, 3, 16, 16)).shape == (1, 10)
    assert set(widths).isdisjoint(model_spec(create_model(TINY, image_size=16)))


def test_a_model_that_timm_built_itself_can_be_described() -> None:
    model = import_timm().create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=4, in_chans=1)
    spec = model_spec(model)
    expected = {"num_classes": 4, "image_size": 32, "in_channels": 1, "patch_size": 8}
    assert spec == {"timm": "vit_tiny_patch16_224", **expected}
    assert timm_config(create_model(spec)) == timm_config(model)


@pytest.mark.parametrize(
    "options", [{"depth": 2}, {"depth": 2, "embed_dim": 48, "num_heads": 4}, {"depth": 1, "mlp_ratio": 2.0}]
)
def test_depth_and_widths_that_timm_was_told_itself_are_kept(options: dict[str, Any], tmp_path: Path) -> None:
    model = import_timm().create_model("vit_tiny_patch16_224", num_classes=4, img_size=32, **options).eval()
    save_checkpoint(tmp_path / "model.safetensors", model)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(create_model(tmp_path / "model.safetensors")(images), model(images))


def test_an_option_of_timm_that_cannot_be_told_is_asked_for(tmp_path: Path) -> None:
    options = {"img_size": 32, "depth": 1, "class_token": False, "global_pool": "avg"}
    model = import_timm().create_model("vit_tiny_patch16_224", **options)
    with pytest.raises(InputError, match=r"cls_token is missing; if timm .* create_model\("):
        save_checkpoint(tmp_path / "model.safetensors", model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("vit_small_patch14_reg4_dinov2", "register tokens"),
        ("deit3_small_patch16_224", "layer scale"),
        ("vit_base_patch16_clip_224", "a norm before the blocks"),
    ],
)
def test_what_our_transformer_cannot_express_is_named(name: str, part: str) -> None:
    with torch.device("meta"):
        model = import_timm().create_model(name, depth=1)
    with pytest.raises(InputError, match=part):
        timm_config(model)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vit_tinny_patch16_224", "did you mean 'vit_tiny_patch16_224'"),
        ("missing.safetensors", "existing checkpoint"),
        ({"timm": "vit_tiny_patch16_224", "patchsize": 3}, "patchsize"),
        ({"timm": "mobilevit_xxs", "block_heads": [1]}, "ViT or DeiT"),
        ({"dimm": 8}, "did you mean 'dim'"),
        (3, "the path of a checkpoint"),
    ],
)
def test_bad_specs_are_refused(spec: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        create_model(spec)
    assert "\n" not in str(caught.value)


def test_a_patch_larger_than_the_image_is_refused() -> None:
    with pytest.raises(InputError, match="model = 'vit_tiny_patch16_224'"):
        create_model("vit_tiny_patch16_224", image_size=8)
    with pytest.raises(InputError, match="ViT or DeiT"):
        timm_config(create_model("mobilevit_xxs"))


def test_only_the_known_failure_of_torchvision_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("another trouble")

    monkeypatch.setattr(torchvision_shim.importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match="another trouble"):
        import_torchvision()


def test_torchvision_is_imported_again_after_the_known_failure() -> None:
    """In a fresh process, with a torchvision that fails once, half imported, as the wheel does beside a CPU torch."""
    script = """
import importlib, sys, types, torch
from vit import torchvision_shim as shim
calls, real = [], importlib.import_module
def fails_once(name):
    calls.append(name)
    if len(calls) == 1:
        sys.modules["torchvision"] = sys.modules["torchvision.half"] = types.ModuleType("torchvision")
        raise RuntimeError(shim.MISSING)
    assert "torchvision" not in sys.modules and "torchvision.half" not in sys.modules
    assert torch.ops.torchvision.nms.default and torch.ops.torchvision.qnms.default
    return types.ModuleType("whole")
shim.importlib.import_module = fails_once
print(shim.import_torchvision().__name__)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "whole"
