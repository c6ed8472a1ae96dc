"""The fused CPU operators against the same computation in plain autograd steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant import QuantConfig, fused, prepare_qat
from quant.fake_quant import Quantizer, nearest_level
from quant.modules import QuantAttentionCore, QuantConv2d, QuantGELU, QuantLayerNorm, QuantLinear, straight_through
from tests.quant.models import images, prepared_model
from vit.zoo import create_model


def plain_fake_quant(x: Tensor, quantizer: Quantizer, values: float) -> Tensor:
    """x^ from elementary torch operations, whose derivatives autograd knows: detached where the definition says so."""
    log2 = quantizer.log2_scale
    scale = quantizer.scale()
    spread = scale * (1 + (log2 - log2.detach()) * torch.log(torch.tensor(2.0)))  # value scale, derivative scale ln 2
    factor = (values * fused.levels_of(quantizer.scheme, quantizer.unsigned).high) ** -0.5
    spread = spread * factor + (spread * (1 - factor)).detach()  # LSQ's gradient scale
    spread = spread if spread.numel() == 1 else spread.view(-1, *[1] * (x.dim() - 1))
    low, high = (getattr(fused.levels_of(quantizer.scheme, quantizer.unsigned), end) for end in ("low", "high"))
    scaled = torch.clamp(x / spread, low, high)  # its derivatives are those of the straight-through rule
    level = nearest_level((x / spread).detach(), quantizer.scheme, quantizer.unsigned)
    return (scaled + (level - scaled).detach()) * spread


@pytest.mark.parametrize("scheme", ["pot4", "apot4", "apot6", "int4", "int8"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_linear(scheme: str, per_channel: bool) -> None:
    config = QuantConfig(weights=scheme, activations="int4", per_channel=per_channel)
    layer = prepared_model(quant=config.to_dict()).blocks[0].mlp.fc1.train()
    assert isinstance(layer, QuantLinear)
    torch.manual_seed(0)
    x = torch.randn(5, 7, layer.in_features).requires_grad_()
    grad = torch.randn(5, 7, layer.out_features)
    found = run_backward(layer, layer(x), x, grad)
    values = layer.weight.numel() / layer.weight_quant.log2_scale.numel()
    weight = plain_fake_quant(layer.weight, layer.weight_quant, values)
    bias = straight_through(layer.bias, layer.bias.half().float())
    plain = F.linear(plain_fake_quant(x, layer.input_quant, x.numel() / len(x)), weight, bias)
    expected = run_backward(layer, plain, x, grad)
    assert_close(found, expected)


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 0), (3, 0)])
def test_convolution(stride: int, padding: int) -> None:
    layer = QuantConv2d(4, 6, 3, stride, padding)
    layer._quantise_as("stem.proj", QuantConfig(activations="int4"), unsigned=stride == 1)
    torch.manual_seed(0)
    x = (torch.randn(5, 4, 9, 9).abs() if stride == 1 else torch.randn(5, 4, 9, 9)).requires_grad_()
    result = layer.train()(x)
    grad = torch.randn(result.shape)
    found = run_backward(layer, result, x, grad)
    weight = plain_fake_quant(layer.weight, layer.weight_quant, layer.weight[0].numel())
    bias = straight_through(layer.bias, layer.bias.half().float())
    plain = F.conv2d(plain_fake_quant(x, layer.input_quant, x[0].numel()), weight, bias, stride, padding)
    assert_close(found, run_backward(layer, plain, x, grad))
    assert torch.equal(found["result"], layer.eval()(x).detach())


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_that_stays_float_between_rounded_ones(bias: bool) -> None:
    layer = QuantLinear(12, 7, bias)
    layer._quantise_as("head", QuantConfig(skip=("head",)), unsigned=False)
    x, grad = torch.randn(5, 3, 12).requires_grad_(), torch.randn(5, 3, 7)
    found = run_backward(layer, layer.train()(x), x, grad)
    rounded = straight_through(layer.bias, layer.bias.half().float()) if bias else None
    assert_close(found, run_backward(layer, F.linear(x, layer.weight, rounded), x, grad))


def test_layer_norm() -> None:
    layer = QuantLayerNorm(40, eps=1e-6).train()
    with torch.no_grad():
        layer.weight.uniform_(-1, 2)
        layer.bias.normal_()
    x, grad = (3 * torch.randn(5, 7, 40) + 2).requires_grad_(), torch.randn(5, 7, 40)
    found = run_backward(layer, layer(x), x, grad)
    weight, bias = (straight_through(p, p.half().float()) for p in (layer.weight, layer.bias))
    assert_close(found, run_backward(layer, F.layer_norm(x, (40,), weight, bias, layer.eps), x, grad))


def test_gelu() -> None:
    x = torch.linspace(-12, 12, 5001).requires_grad_()
    grad = torch.randn(5001)
    layer = QuantGELU().train()
    found = run_backward(layer, layer(x), x, grad)
    wide = x.detach().double().requires_grad_()
    F.gelu(wide).backward(grad.double())
    assert torch.allclose(found["x"].double(), wide.grad, atol=3e-6)


@pytest.mark.parametrize("scheme", ["int4", "int8"])
@pytest.mark.parametrize("probabilities", ["uniform", "log2"])
@pytest.mark.parametrize(("tokens", "width"), [(1, 1), (6, 5), (17, 8), (65, 32)])
def test_attention(scheme: str, probabilities: str, tokens: int, width: int) -> None:
    core = QuantAttentionCore(QuantConfig(activations=scheme, probabilities=probabilities)).train()
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, tokens, width).requires_grad_() for _ in range(3))
    for quantizer, x in ((core.query, q), (core.key, k), (core.value, v)):
        quantizer.fit_if_fresh(x)
    grad = torch.randn(3, 2, tokens, width)

    def run_both(context: Tensor) -> list[Tensor]:
        inputs = [q, k, v, core.query.log2_scale, core.key.log2_scale, core.value.log2_scale]
        return [context.detach(), *torch.autograd.grad(context, inputs, grad)]

    found = run_both(core(q, k, v))
    values = q.numel() / len(q)
    parts = zip((core.query, core.key, core.value), (q, k, v), strict=True)
    query, key, value = (plain_fake_quant(x, quantizer, values) for quantizer, x in parts)
    p = ((query * width**-0.5) @ key.transpose(-2, -1)).softmax(-1)
    expected = run_both(straight_through(p, rounded_probabilities(p.detach(), core)) @ value)
    for ours, theirs in zip(found, expected, strict=True):
        difference = (ours - theirs).norm() / theirs.norm().clamp(min=1e-3)  # a probability on a tie may go either way
        assert difference < 2e-3


@pytest.mark.parametrize("timm", [False, True])
def test_attention_layers_give_their_projection_in_one_piece(monkeypatch, timm: bool) -> None:
    options = {"timm": "vit_tiny_patch16_224", "patch_size": 8, "depth": 1, "embed_dim": 32, "num_heads": 2}
    model = prepare_qat(create_model(options, image_size=16)) if timm else prepared_model(depth=1)
    layer = model.blocks[0].attn.train()
    x, grad = torch.randn(5, 5, 32).requires_grad_(), torch.randn(5, 5, 32)
    q, k, v = layer.qkv(x).view(5, 5, 3, 2, 16).permute(2, 0, 3, 1, 4)
    expected = run_backward(layer, layer.proj(layer.core(q, k, v).transpose(1, 2).reshape(5, 5, 32)), x, grad)
    monkeypatch.setattr(QuantAttentionCore, "forward", None)
    found = run_backward(layer, layer(x), x, grad)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def rounded_probabilities(p: Tensor, core: QuantAttentionCore) -> Tensor:
    """Whole multiples of 1 / top; or the nearest of 0 and 2^0 to 2^-14, the larger of two that are as near."""
    if not core.log2:
        return torch.round(p * core.largest_probability) / core.largest_probability
    allowed = torch.tensor([0.0, *(2.0**-k for k in range(14, -1, -1))], dtype=torch.float64)
    distance = (p.double().unsqueeze(-1) - allowed).abs()
    return allowed[len(allowed) - 1 - distance.flip(-1).argmin(-1)].float()


def test_the_number_of_threads_changes_nothing() -> None:
    model = prepared_model(quant={"weights": "apot4", "activations": "int4"}, depth=1, image_size=64).train()
    x = images(40, size=64)
    results = []
    threads = torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        model.zero_grad()
        context = model.blocks[0](model.stem(x))
        results.append(context.detach())
        levels = fused.levels_of("int8")
        results.append(fused.gradients(x, torch.ones_like(x), torch.tensor(0.01), levels)[1])
    torch.set_num_threads(threads)
    assert all(torch.equal(results[i], results[i + 2]) for i in range(4))


def test_tensors_that_are_not_contiguous() -> None:
    x = torch.randn(6, 8).T
    levels = fused.levels_of("int8")
    scale = torch.tensor(0.03)
    assert torch.equal(fused.rounded(x, scale, levels), fused.rounded(x.contiguous(), scale, levels))


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-3, atol=1e-4 * value.abs().max().item()), name


def run_backward(layer: nn.Module, result: Tensor, x: Tensor, grad: Tensor) -> dict[str, Tensor]:
    layer.zero_grad()
    x.grad = None
    result.backward(grad)
    return {"result": result.detach(), "x": x.grad, **{name: p.grad for name, p in layer.named_parameters()}}
