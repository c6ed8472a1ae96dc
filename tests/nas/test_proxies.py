import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nas import PROXIES, rank_correlation, score
from vit import InputError, VisionTransformer, ViTConfig

IMAGES = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3


def model_of(**fields: object) -> VisionTransformer:
    torch.manual_seed(0)
    shape = {"image_size": 8, "patch_size": 4, "in_channels": 1, "num_classes": 3, "dim": 8, "depth": 2, "heads": 2}
    return VisionTransformer(ViTConfig(**(shape | fields)))


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("pool", ["cls", "mean", "seq"])
@pytest.mark.parametrize("proxy", PROXIES)
def test_every_proxy_scores_every_model_alike_twice_and_leaves_it_alone(proxy: str, pool: str, stem: str) -> None:
    model = model_of(pool=pool, stem=stem)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    first = score(model, proxy, IMAGES, LABELS)
    assert math.isfinite(first)
    assert score(model, proxy, IMAGES, LABELS) == first
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_the_baseline_counts_parameters() -> None:
    model = model_of()
    assert score(model, "params", IMAGES, LABELS) == np.log(sum(p.numel() for p in model.parameters()))


def test_the_gradient_has_the_norm_that_backward_finds() -> None:
    model = model_of()
    found = score(model, "grad_norm", IMAGES, LABELS)
    F.cross_entropy(model(IMAGES), LABELS).backward()
    squares = [weight.grad.square().sum() for weight in model.parameters() if weight.grad is not None]
    assert found == pytest.approx(float(torch.stack(squares).sum().sqrt()), rel=1e-5)


def test_synflow_reads_no_data_and_grows_with_the_weights() -> None:
    model = model_of()
    found = score(model, "synflow", IMAGES, LABELS)
    assert score(model, "synflow", 7 * IMAGES, LABELS) == found
    with torch.no_grad():
        model.head.weight.mul_(-3)  # signs do not count
    assert score(model, "synflow", IMAGES, LABELS) > found


def test_naswot_is_the_determinant_of_agreeing_codes() -> None:
    model = model_of(depth=1)
    codes = []
    model.blocks[0].mlp.fc1.register_forward_hook(lambda _, __, out: codes.append(out.flatten(1) > 0))
    with torch.no_grad():
        model.eval()(IMAGES)
    bits = codes[0].numpy()
    agreement = np.array([[np.sum(a == b) for b in bits] for a in bits])
    expected = np.linalg.slogdet(agreement + 1e-6 * bits.shape[1] * np.eye(len(bits)))[1]
    assert score(model, "naswot", IMAGES, LABELS) == pytest.approx(expected)
    same = IMAGES[:1].expand(12, -1, -1, -1)
    assert score(model, "naswot", same, LABELS) < expected


def test_rank_correlation_is_one_for_the_same_order_and_minus_one_for_the_opposite() -> None:
    assert rank_correlation([1, 5, 9, 10], [0.1, 0.2, 0.3, 0.9]) == {
        "spearman": pytest.approx(1),
        "kendall": pytest.approx(1),
    }
    assert rank_correlation([4, 3, 2, 1], [0.1, 0.2, 0.3, 0.9])["kendall"] == pytest.approx(-1)


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="did you mean 'synflow'"):
        score(model_of(), "sinflow", IMAGES, LABELS)
    with pytest.raises(InputError, match="as many as accuracies"):
        rank_correlation([1, 2], [0.1])
