"""prepare_qat: gradients by the definition, masks kept, no missing keys, saved and loaded bit for bit."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from kernels.gemm import VARIABLE
from quant import QuantConfig, load_qat, prepare_qat, save_qat
from quant.fake_quant import Quantizer, nearest_level, nearest_level_by_torch
from quant.level_sets import levels
from quant.modules import QuantAttentionCore, QuantLinear
from quant.scales import activation_scale, weight_scale
from tests.quant.models import float_model, images, prepared_model, randomise
from tests.quant.reference import LEVELS, fake_quantize_gradients, nearest
from vit.attention_core import put_core
from vit.errors import InputError
from vit.layers import describe
from vit.masks import masks, prunable_layers
from vit.model import ScaledDotProduct
from vit.zoo import create_model

pytestmark = pytest.mark.filterwarnings("ignore:pot6")
SCHEMES = ["pot4", "pot6", "apot4", "apot6", "int4", "int6", "int8"]


def set_scale(quantizer: Quantizer, value: float) -> None:
    with torch.no_grad():
        quantizer.log2_scale.fill_(np.log2(value))
    quantizer.fresh = False


@pytest.mark.parametrize(
    ("scheme", "channels"),
    [(scheme, channels) for scheme in SCHEMES for channels in (1, 6)] + [("int4", None), ("int8", None)],
)
def test_gradients_follow_the_definition(scheme: str, channels: int | None) -> None:
    quantizer = Quantizer(scheme, channels)
    set_scale(quantizer, 0.25)
    x = (torch.randn(6, 10, generator=torch.Generator().manual_seed(0)) * LEVELS[scheme][-1] * 0.2).requires_grad_()
    grad = torch.randn(6, 10, generator=torch.Generator().manual_seed(1))
    quantizer(x).backward(grad)
    low, high = LEVELS[scheme][0], LEVELS[scheme][-1]
    rows = [slice(i, i + 1) for i in range(6)] if channels == 6 else [slice(0, 6)]
    for index, part in enumerate(rows):
        count = 10 if channels in (None, 6) else 60  # one image's values, or those that share the scale
        to_x, to_scale = fake_quantize_gradients(
            x[part].detach().numpy(), -2.0, grad[part].numpy(), scheme, low, high, count
        )
        assert np.allclose(x.grad[part].numpy(), to_x, atol=1e-6)
        found = quantizer.log2_scale.grad.reshape(-1)[index].item()
        assert found == pytest.approx(to_scale, rel=1e-4, abs=1e-6)


def test_gradient_of_the_uniform_scale_is_torchs_learnable_one() -> None:
    x = torch.randn(8, 12).requires_grad_()
    scale = torch.tensor([0.046875], requires_grad=True)
    grad = torch.randn(8, 12)
    plain = torch._fake_quantize_learnable_per_tensor_affine(x, scale, torch.zeros(1), -128, 127, 1.0)
    plain.backward(grad)
    quantizer = Quantizer("int8", 1)
    set_scale(quantizer, 0.046875)  # a bfloat16
    y = x.detach().clone().requires_grad_()
    quantizer(y).backward(grad)
    assert torch.allclose(y.grad, x.grad)
    undone = np.sqrt(96 * 127) / (0.046875 * np.log(2))  # LSQ's gradient scale, and the logarithm
    assert quantizer.log2_scale.grad.item() * undone == pytest.approx(scale.grad.item(), rel=1e-4)


@pytest.mark.parametrize("scheme", ["pot4", "apot4", "apot6"])
def test_levels_of_torch_ops_are_those_of_the_kernels(scheme: str) -> None:
    bits = np.arange(0, 2**16, dtype=np.uint32) << np.uint32(16)
    x = bits.view(np.float32)
    x = torch.from_numpy(x[~np.isnan(x)])
    expected = nearest(x.numpy(), scheme).astype(np.float32)
    assert np.array_equal(nearest_level(x, scheme).numpy(), expected)
    assert np.array_equal(nearest_level_by_torch(x, scheme).numpy(), expected)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_first_scale_beats_the_largest_value(scheme: str) -> None:
    w = np.random.default_rng(0).normal(size=(8, 256)).astype(np.float32) * np.logspace(-3, 1, 8)[:, None].astype("f4")

    def errors(scale: np.ndarray) -> np.ndarray:
        rounded = nearest(w / scale[:, None], scheme) * scale[:, None]
        return np.square(rounded - w).sum(1)

    by_largest = np.abs(w).max(1) / LEVELS[scheme][-1]
    assert (errors(weight_scale(w, scheme)) <= errors(by_largest) + 1e-9).all()
    assert (errors(weight_scale(w, scheme, power_of_two=True)) < np.square(w).sum(1) * 0.2).all()
    exponents = np.log2(weight_scale(w, scheme, power_of_two=True))
    assert np.array_equal(exponents, np.rint(exponents))


def test_scales_of_nothing_are_one() -> None:
    assert weight_scale(np.zeros((2, 3), np.float32), "pot4").tolist() == [1, 1]
    assert activation_scale(np.zeros(4, np.float32), -128, 127) == 1


@pytest.mark.parametrize(
    ("changes", "quant"),
    [
        ({}, {}),
        ({"pool": "mean"}, {"activations": "int4", "probabilities": "log2"}),
        ({"pool": "seq", "dim": 48, "heads": 3}, {"weights": "apot6", "power_of_two_scales": True}),
        ({"stem": "conv"}, {"weights": "int8", "per_channel": False}),
        ({}, {"skip": ["stem", "head", "blocks.0.mlp"], "probabilities": "log2"}),
        ({}, {"weights": "pot6"}),
    ],
)
@pytest.mark.parametrize("path", ["", "portable"])
def test_training_computes_the_bits_of_evaluation(monkeypatch, changes: dict, quant: dict, path: str) -> None:
    monkeypatch.setenv(VARIABLE, path)
    model = prepared_model(0.5, quant, **changes)
    x = images(50)
    with torch.no_grad():
        assert torch.equal(model.train()(x), model.eval()(x))


def test_with_float_activations_training_differs_by_float_roundings_alone() -> None:
    model = prepared_model(quant={"activations": "float"}, stem="conv")
    with torch.no_grad():
        assert torch.allclose(model.train()(images()), model.eval()(images()), atol=1e-5)


def test_the_float_model_is_left_alone_and_all_parameters_learn() -> None:
    model = float_model()
    before = copy.deepcopy(model.state_dict())
    prepared = prepare_qat(model).train()
    optimiser = torch.optim.AdamW(prepared.parameters(), lr=1e-2)
    for _ in range(3):
        optimiser.zero_grad()
        nn.functional.cross_entropy(prepared(images()), torch.arange(20) % 10).backward()
        optimiser.step()
    assert all(parameter.grad is not None for parameter in prepared.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("sparsity", [0.0, 0.6])
def test_a_float_state_dict_loads_and_gives_what_preparing_gives(sparsity: float) -> None:
    model = float_model(sparsity)
    direct = prepare_qat(model)
    loaded = prepare_qat(randomise(copy.deepcopy(model)))
    assert loaded.load_state_dict(model.state_dict()).missing_keys == []
    assert torch.equal(loaded(images()), direct(images()))


def test_its_own_state_dict_comes_back_bit_for_bit() -> None:
    first, second = prepared_model(0.5), prepare_qat(randomise(float_model(0.5))).eval()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(images()), second(images()))


def test_masks_hold_through_training_and_pruned_weights_are_exactly_zero() -> None:
    prepared = prepared_model(0.5).train()
    kept = masks(prepared)
    assert len(kept) == len(prunable_layers(prepared))
    optimiser = torch.optim.AdamW(prepared.parameters(), lr=1e-2, weight_decay=0.1)
    prepared(images()).square().sum().backward()
    optimiser.step()
    for name, layer in prunable_layers(prepared).items():
        assert torch.equal(masks(prepared)[name], kept[name])
        assert (layer.weight[~kept[name]] == 0).all()
        assert (layer.weight_quant(layer.weight)[~kept[name]] == 0).all()


def test_weights_take_levels_times_their_scale() -> None:
    layer = prepared_model().blocks[0].mlp.fc1
    scale = layer.weight_quant.scale()[:, None]
    held = (layer.weight_quant(layer.weight) / scale).detach().numpy()
    assert set(np.unique(held)) <= set(levels("pot4").astype(np.float32))


def test_other_floors_can_read_the_bits() -> None:
    model = prepared_model(quant={"weights": {"blocks.*": "apot6", "head": "int8"}, "activations": "int4"})
    found = {info.name: info for info in describe(model)}
    assert (found["blocks.0.mlp.fc1"].weight_bits, found["blocks.0.mlp.fc1"].activation_bits) == (6, 4)
    assert (found["head"].weight_bits, found["stem.proj"].weight_bits) == (8, 32)
    assert found["blocks.0.mlp.fc1"].weight_scheme == "apot6"


@pytest.mark.parametrize(("sparsity", "quant"), [(0.5, {}), (0.0, {"skip": ["head"], "power_of_two_scales": True})])
def test_saved_and_loaded_bit_for_bit(tmp_path, sparsity: float, quant: dict) -> None:
    model = prepared_model(sparsity, quant)
    save_qat(tmp_path / "q.safetensors", model, {"accuracy": 0.5})
    loaded, extra = load_qat(tmp_path / "q.safetensors")
    assert extra == {"accuracy": 0.5}
    assert loaded.quant_config == model.quant_config
    assert torch.equal(loaded(images()), model(images()))
    assert masks(loaded).keys() == masks(model).keys()


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "vit_tiny_patch16_224"])
def test_timm_models(tmp_path, name: str) -> None:
    options = {"timm": name, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
    model = randomise(create_model(options, image_size=32))
    prepared = prepare_qat(model).eval()
    x = images(size=32)
    assert isinstance(prepared.blocks[0].attn.core, QuantAttentionCore)
    assert prepared.load_state_dict(model.state_dict()).missing_keys == []
    with torch.no_grad():
        assert torch.equal(prepared.train()(x), prepared.eval()(x))
    assert {info.weight_bits for info in describe(prepared) if info.params} == {4}
    save_qat(tmp_path / "t.safetensors", prepared)
    assert torch.equal(load_qat(tmp_path / "t.safetensors")[0](x), prepared(x))


@pytest.mark.parametrize("changes", [{}, {"stem": "conv", "pool": "seq"}])
def test_autocast(changes: dict) -> None:
    model = prepared_model(**changes)
    x = images()
    plain = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.eval()(x), plain)
        trained = model.train()(x)
    trained.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert torch.allclose(trained.float(), plain, atol=0.2 * plain.abs().max().item())


def test_power_of_two_scales_make_float_fake_quantisation_the_integer_result() -> None:
    layer = prepared_model(quant={"power_of_two_scales": True}).blocks[1].mlp.fc2
    x = torch.randn(40, layer.in_features)
    with torch.no_grad():
        bias = layer.bias.half().float()
        layer.bias.copy_(bias)
        assert torch.equal(layer.train()(x), layer.eval()(x))


def test_a_mask_restricts_attention() -> None:
    core = QuantAttentionCore(QuantConfig()).eval()
    q, k, v = torch.randn(3, 2, 2, 6, 8).unbind(0)
    whole = core(q, k, v)
    tile = torch.block_diag(torch.ones(3, 3), torch.ones(3, 3)).bool()
    restricted = core(q, k, v, tile)
    assert torch.equal(restricted[:, :, :3], core(q[:, :, :3], k[:, :, :3], v[:, :, :3]))
    assert not torch.equal(restricted, whole)
    assert torch.allclose(core.train()(q, k, v, tile), restricted, atol=1e-2)


def test_another_core_in_the_place_of_ours_is_called_as_ever() -> None:
    model = prepared_model().train()
    seen = []

    class Watching(ScaledDotProduct):
        def forward(self, q, k, v, mask=None):
            seen.append(q.shape)
            return super().forward(q, k, v, mask)

    put_core(model.blocks[0].attn, Watching())
    model(images(3))
    assert seen == [(3, 2, 17, 16)]


def test_a_pattern_of_a_module_means_its_layers() -> None:
    prepared = prepare_qat(float_model(), QuantConfig(weights={"blocks.*.mlp": "apot6", "*": "pot4"}))
    schemes = {layer.name: layer.weight_scheme for layer in describe(prepared) if layer.params}
    assert {scheme == "apot6" for name, scheme in schemes.items() if ".mlp." in name} == {True}
    assert {scheme for name, scheme in schemes.items() if ".mlp." not in name} == {"pot4"}


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"blocks.*.mlpx": "apot6", "*": "pot4"}, r"weights = 'blocks.\*.mlpx': allowed is patterns that fit a layer"),
        ({"*": "float"}, r"weights = .*: allowed is patterns that leave at least one layer to quantise"),
    ],
)
def test_patterns_that_do_nothing_are_refused(weights: dict[str, str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        prepare_qat(float_model(), QuantConfig(weights=weights))


def test_skipped_layers_stay_float() -> None:
    model = prepared_model(quant={"skip": ["stem", "head"]})
    assert model.head.weight_quant is None
    assert model.stem.proj.weight_bits == 32
    head, x = model.head, torch.randn(5, 32)
    assert isinstance(head, QuantLinear)
    assert torch.allclose(head(x), nn.functional.linear(x, head.weight, head.bias), atol=1e-3)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"weights": "pot5"}, "weights = 'pot5'"),
        ({"weights": {"head": "int9"}}, "weights\\['head'\\]"),
        ({"activations": "int16"}, "activations"),
        ({"probabilities": "log4"}, "probabilities"),
        ({"probabilities": "log2", "activations": "float"}, "probabilities"),
        ({"per_channel": 1}, "per_channel"),
        ({"skip": "head"}, "skip"),
        ({"skip": [3]}, "skip"),
    ],
)
def test_bad_configurations_are_named(fields: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        QuantConfig(**fields)
    with pytest.raises(InputError, match="did you mean 'weights'"):
        QuantConfig.from_dict({"weight": "pot4"})


def test_preparing_twice_or_nothing_is_refused(tmp_path) -> None:
    model = prepared_model()
    with pytest.raises(InputError, match="prepared for QAT already"):
        prepare_qat(model)
    with pytest.raises(InputError, match="at least one layer"):
        prepare_qat(float_model(), QuantConfig(skip=("*",)))
    with pytest.raises(InputError, match="prepare_qat"):
        save_qat(tmp_path / "x.safetensors", float_model())
    assert not list(tmp_path.iterdir())
