from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vit.checkpoint import canonical_state, load_checkpoint, save_checkpoint
from vit.config import ViTConfig
from vit.errors import InputError
from vit.masks import masks, set_mask
from vit.tensorfile import read_tensors, write_tensors
from vit.zoo import create_model

SMALL: dict[str, Any] = {"image_size": 8, "dim": 12, "depth": 2, "heads": 3}


def pruned() -> nn.Module:
    model = create_model(SMALL).eval()
    for name in ("blocks.0.attn.qkv", "blocks.1.mlp.fc1", "stem.proj"):
        layer = model.get_submodule(name)
        set_mask(layer, torch.rand_like(layer.weight) > 0.5)
    return model


def test_weights_masks_and_extra_come_back(tmp_path: Path) -> None:
    model = pruned()
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model, extra={"accuracy": 0.5, "note": "é"})
    loaded = load_checkpoint(path)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded.model(images), model(images))
    assert (loaded.extra, loaded.kind, loaded.leftover) == ({"accuracy": 0.5, "note": "é"}, "float", {})
    assert not loaded.model.training
    for name, mask in masks(model).items():
        assert torch.equal(masks(loaded.model)[name], mask)
    save_checkpoint(tmp_path / "again.safetensors", loaded.model, extra=loaded.extra)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_names_in_the_file_are_plain(tmp_path: Path) -> None:
    model = pruned()
    save_checkpoint(tmp_path / "model.safetensors", model)
    arrays, _ = read_tensors(tmp_path / "model.safetensors", kind="checkpoint", field="checkpoint")
    plain = set(create_model(SMALL).state_dict())
    assert set(arrays) == plain | {f"{name}.weight_mask" for name in masks(model)}
    weight, mask = arrays["stem.proj.weight"], arrays["stem.proj.weight_mask"]
    assert mask.dtype == bool
    assert (weight[~mask] == 0).all()


def test_pruned_widths_and_timm_models_are_rebuilt(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    ours = ViTConfig(8, 4, dim=12, depth=2, heads=3, head_dim=4, block_heads=(1, 3), block_hidden=(5, 7))
    timm_vit = {"timm": "vit_tiny_patch16_224", "patch_size": 4, "depth": 2, "image_size": 8, "embed_dim": 48}
    specs = [ours, timm_vit, {**timm_vit, "block_heads": [1, 2], "block_hidden": [9, 5], "head_dim": 16}]
    for spec in [*specs, {"timm": "mobilevit_xxs", "image_size": 32}]:
        model = create_model(spec, num_classes=4).eval()  # type: ignore[arg-type]
        save_checkpoint(path, model)
        images = torch.randn(2, 3, 32 if "mobile" in str(spec) else 8, 32 if "mobile" in str(spec) else 8)
        assert torch.equal(load_checkpoint(path).model(images), model(images))


def test_loading_draws_nothing_from_the_callers_generator(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model.safetensors", create_model(SMALL))
    before = torch.get_rng_state()
    load_checkpoint(tmp_path / "model.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


class Scaled(nn.Linear):
    """A quantiser's layer: the float layer's tensors and a scale more."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features)
        self.load_state_dict(layer.state_dict())
        self.weight_scale = nn.Parameter(torch.full((layer.out_features,), 0.5))


def test_a_prepared_model_is_saved_with_what_its_preparer_added(tmp_path: Path) -> None:
    model = create_model(SMALL)
    model.head = Scaled(model.head)
    with pytest.raises(InputError, match=r"head\.weight_scale has no place"):
        save_checkpoint(tmp_path / "model.safetensors", model)
    save_checkpoint(tmp_path / "model.safetensors", model, kind="scaled", extra={"bits": 4})
    loaded = load_checkpoint(tmp_path / "model.safetensors")
    assert (loaded.kind, loaded.extra) == ("scaled", {"bits": 4})
    assert list(loaded.leftover) == ["head.weight_scale"]
    assert torch.equal(loaded.model.head.weight, model.head.weight)


def test_a_model_that_is_not_what_it_says_is_not_saved(tmp_path: Path) -> None:
    model = create_model(SMALL)
    model.head = nn.Linear(12, 3)
    with pytest.raises(InputError, match=r"head\.weight has shape \[3, 12\], not \[10, 12\]"):
        save_checkpoint(tmp_path / "model.safetensors", model)
    with pytest.raises(InputError, match="a model of timm"):
        save_checkpoint(tmp_path / "model.safetensors", nn.Linear(2, 2))
    assert list(tmp_path.iterdir()) == []


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    state = {name: tensor.numpy() for name, tensor in canonical_state(create_model(SMALL)).items()}
    good = {"kind": "float", "model": SMALL, "extra": {}}
    absent = {name: array for name, array in state.items() if name != "norm.bias"}
    masked = {**state, "head.weight_mask": np.ones((1, 2), bool)}
    cases: list[tuple[dict[str, np.ndarray], dict[str, Any], str]] = [
        (absent, good, "norm.bias is missing"),
        ({**state, "norm.bias": np.zeros(3, np.float32)}, good, "norm.bias has shape"),
        ({**state, "more": np.zeros(3)}, good, "more has no place"),
        (masked, good, "head has none of shape"),
        ({**state, "nowhere.weight_mask": np.ones(2, bool)}, good, "nowhere has none"),
        (state, {"kind": "float", "extra": {}}, "model"),
        (state, {**good, "model": {"dim": 7, "heads": 2}}, "heads"),
        (state, {**good, "model": {"timm": "no_such_model"}}, "no_such_model"),
        (state, {**good, "extra": 3}, "known model"),
    ]
    for tensors, metadata, message in cases:
        write_tensors(path, tensors, metadata, kind="checkpoint")
        with pytest.raises(InputError, match=message) as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)
        assert caught.value.field == "checkpoint"
