"""The fused CPU operators against the same computation in plain autograd steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.split import pieces, run
from quant import QuantConfig, fused
from quant.fake_quant import Quantizer, nearest_level
from quant.modules import QuantAttentionCore, QuantLinear, straight_through
from tests.quant.models import prepared_model


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
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.allclose(found[name], expected[name], rtol=1e-3, atol=1e-4 * expected[name].abs().max().item()), (
            name
        )


@pytest.mark.parametrize("scheme", ["int4", "int8"])
@pytest.mark.parametrize(("tokens", "width"), [(1, 1), (6, 5), (17, 8), (65, 32)])
def test_attention(scheme: str, tokens: int, width: int) -> None:
    core = QuantAttentionCore(QuantConfig(activations=scheme)).train()
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
    top = core.largest_probability
    expected = run_both(straight_through(p, torch.round(p.detach() * top) / top) @ value)
    for ours, theirs in zip(found, expected, strict=True):
        difference = (ours - theirs).norm() / theirs.norm().clamp(min=1e-3)  # a probability on a tie may go either way
        assert difference < 2e-3


def test_the_number_of_threads_changes_nothing() -> None:
    model = prepared_model().train()
    x = torch.randn(40, 3, 16, 16)
    results = []
    threads = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        levels = fused.levels_of("int8")
        results.append(fused.gradients(x, torch.ones_like(x), torch.tensor(0.01), levels)[1])
    torch.set_num_threads(threads)
    assert torch.equal(*results)
    assert model.training


def test_pieces_cover_everything_once() -> None:
    parts = pieces(10, 4)
    assert [list(range(10))[part] for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert run(lambda part: part.start, parts, 3) == [0, 4, 8]


def test_tensors_that_are_not_contiguous() -> None:
    x = torch.randn(6, 8).T
    levels = fused.levels_of("int8")
    scale = torch.tensor(0.03)
    assert torch.equal(fused.rounded(x, scale, levels), fused.rounded(x.contiguous(), scale, levels))


def run_backward(layer: QuantLinear, result: Tensor, x: Tensor, grad: Tensor) -> dict[str, Tensor]:
    layer.zero_grad()
    x.grad = None
    result.backward(grad)
    return {"result": result.detach(), "x": x.grad, **{name: p.grad for name, p in layer.named_parameters()}}
