"""Importance by Taylor expansion and by learned gates."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prune import Scores, learn_gates, magnitude_prune, structured_prune
from prune.gates import SPEED, Gates
from prune.importance import KINDS, taylor_scores
from tests.prune.test_structured import BASE, VARIANTS, images, random_vit, silence, timm_vit
from vit import DataSplits, ImageSet, InputError, Recipe, ViTConfig
from vit.masks import masks
from vit.optimise import learning_rate

SILENT = {0: [0, 3], 1: [2], 2: []}, {i: list(range(0, 64, 4)) + list(range(1, 64, 8)) for i in range(3)}


def image_set(config: ViTConfig = BASE, count: int = 60) -> ImageSet:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, config.in_channels, config.image_size, config.image_size))
    labels = np.arange(count) % config.num_classes
    names = tuple(str(i) for i in range(config.num_classes))
    statistics = (0.5,) * config.in_channels, (0.3,) * config.in_channels
    return ImageSet(torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels), names, *statistics)


def splits(config: ViTConfig = BASE) -> DataSplits:
    whole = image_set(config)
    return DataSplits("noise", whole.take(np.arange(40)), whole.take(np.arange(40, 60)), lambda: whole, flip=False)


def test_taylor_is_weight_times_gradient_over_the_unit() -> None:
    model, data = random_vit(), image_set()
    F.cross_entropy(model(data.normalise(data.images)), data.labels).backward()
    named = dict(model.named_parameters())
    expected = {name: (p * p.grad).abs().detach() for name, p in named.items()}
    scores = taylor_scores(model, data)
    qkv, proj = expected["blocks.1.attn.qkv.weight"], expected["blocks.1.attn.proj.weight"]
    bias = expected["blocks.1.attn.qkv.bias"]
    for head in range(4):  # of 4 heads of 8 features: rows of queries, keys and values, and columns of the projection
        rows = [part * 32 + head * 8 + i for part in range(3) for i in range(8)]
        columns = [head * 8 + i for i in range(8)]
        total = qkv[rows].sum() + bias[rows].sum() + proj[:, columns].sum()
        assert scores.heads[1][head] == pytest.approx(total.item(), rel=1e-4)
    fc1, fc2, fc1_bias = (expected[f"blocks.2.mlp.{name}"] for name in ("fc1.weight", "fc2.weight", "fc1.bias"))
    assert scores.units[2][7] == pytest.approx((fc1[7].sum() + fc1_bias[7] + fc2[:, 7].sum()).item(), rel=1e-4)
    writes = ("attn.proj.weight", "fc2.weight", "stem.proj.weight")
    inside = ("qkv.bias", "fc1.bias", "head.bias")
    touching = sum(
        (value[5] if name.endswith(writes) else value[..., 5]).sum().item()
        for name, value in expected.items()
        if not name.endswith(inside)
    )
    assert scores.channels[5] == pytest.approx(touching, rel=1e-4)


def test_taylor_leaves_the_model_as_it_was() -> None:
    model = random_vit().train()
    model.head.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    taylor_scores(model, image_set())
    assert model.training
    assert not model.head.weight.requires_grad
    assert model.pos_embed.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_silent_units_weigh_nothing_and_go_without_a_trace() -> None:
    model = random_vit()
    silence(model, *SILENT)
    before = model(images())
    smaller = structured_prune(model, heads=0.25, mlp=24 / 64, importance="taylor", data=splits())
    assert smaller.config.block_heads == (2, 3, 4)
    assert (smaller(images()) - before).abs().max() <= 1e-5


def test_taylor_sees_what_magnitude_cannot() -> None:
    """A unit of large weights that no image of the data ever makes active matters to the norm and not to the loss."""
    model, data = random_vit(), image_set()
    with torch.no_grad():
        model.blocks[0].mlp.fc1.bias[:8] = -100.0
    units = taylor_scores(model, data).units[0]
    assert units[:8].max() < 1e-6 < units[8:].min()
    gone = structured_prune(model, heads=0, mlp=8 / 64, importance="taylor", data=data).blocks[0].mlp
    kept = structured_prune(model, heads=0, mlp=8 / 64).blocks[0].mlp
    assert torch.equal(gone.fc1.bias, model.blocks[0].mlp.fc1.bias[8:])
    assert (kept.fc1.bias == -100.0).sum() == 8


@pytest.mark.parametrize(
    "make", [random_vit, lambda: timm_vit("vit_tiny_patch16_224"), lambda: random_vit(VARIANTS[2])]
)
def test_gates_fold_into_the_weights(make: Callable[[], nn.Module]) -> None:
    model = magnitude_prune(make(), 0.3)
    gates = Gates(model)
    torch.manual_seed(2)
    for gate in gates.parameters():
        gate.data.uniform_(-1 / SPEED, 1 / SPEED)
    config = getattr(model, "config", None)
    x = images(config) if config else torch.randn(2, 3, 32, 32)
    alone = model(x)
    with gates.on(model):
        gated = model(x)
    assert torch.equal(model(x), alone)
    held = {name: mask.clone() for name, mask in masks(model).items()}
    gates.fold(model)
    assert not torch.allclose(gated, alone, atol=1e-2)
    assert torch.allclose(model(x), gated, atol=1e-5)
    assert all(torch.equal(mask, held[name]) for name, mask in masks(model).items())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_to_be_cut_has_no_gates(kind: str) -> None:
    model = random_vit()
    gates = Gates(model, [kind])
    assert gates.norm().item() == pytest.approx({"heads": 3 * 4 * 8, "mlp": 3 * 64, "channels": 32}[kind])
    with torch.no_grad():
        for gate in gates.parameters():
            gate.uniform_(-1 / SPEED, 1 / SPEED)
    with gates.on(model):
        gated = model(images())
    before = copy.deepcopy(model.state_dict())
    gates.fold(model)
    assert torch.allclose(model(images()), gated, atol=1e-5)
    touched = {name.rpartition(".")[0] for name, value in model.state_dict().items() if not value.equal(before[name])}
    ends = {"heads": ("attn.proj",), "mlp": ("mlp.fc2",), "channels": ("norm", "norm1", "norm2")}[kind]
    assert touched == {name for name, _ in model.named_modules() if name.endswith(ends)}
    weighed = gates.scores()
    assert [weights is not None for weights in (weighed.heads, weighed.units, weighed.channels)] == [
        kind == each for each in KINDS
    ]


def test_scores_cut_what_they_weigh_and_nothing_else() -> None:
    trained, scores = learn_gates(random_vit(), splits(), Recipe(epochs=1, batch_size=20), kinds=["mlp"])
    smaller = structured_prune(trained, heads=0, mlp=0.25, importance=scores)
    assert smaller.config.block_hidden == (48,) * 3
    with pytest.raises(InputError, match=r"heads = 0\.25: allowed is 0 with scores of mlp, or scores of heads"):
        structured_prune(trained, heads=0.25, mlp=0.25, importance=scores)


def test_a_heads_gate_is_paid_for_by_feature_and_weighs_its_share_of_the_block() -> None:
    model = random_vit()  # 3 blocks of 4 heads 8 wide and 64 units, 32 channels
    gates = Gates(model)
    assert gates.norm().item() == pytest.approx(3 * 4 * 8 + 3 * 64 + 32)
    with torch.no_grad():
        gates.heads[1].copy_(torch.tensor([0.5, -1.0, 0.0, 0.5]) / SPEED)
    assert gates.norm().item() == pytest.approx((4 + 2 + 4) * 8 + 3 * 64 + 32)
    shares = gates.scores().heads
    assert shares[0].tolist() == pytest.approx([0.25] * 4)
    assert shares[1].tolist() == pytest.approx([0.25, 0.5, 0.0, 0.25])


def test_a_gate_that_nothing_holds_falls_by_the_learning_rates_alone() -> None:
    """Of a unit whose weights are all 0 the loss knows nothing: each step takes off its gate what AdamW may."""
    model, data = random_vit(), splits()
    dead = [1, 2, 3, 5, 8, 13, 21, 34]
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.fc1.weight[dead], block.mlp.fc1.bias[dead], block.mlp.fc2.weight[:, dead] = 0, 0, 0
    recipe = Recipe(epochs=2, batch_size=20, lr=0.01, ema=0.0, clip_grad=0.0, weight_decay=0.0, warmup=0.0, flip=False)
    trained, scores = learn_gates(model, data, recipe, penalty=0.1)
    fallen = 1 - SPEED * sum(learning_rate(step, 4, recipe) for step in range(4))
    for units in scores.units:
        assert units[dead].tolist() == pytest.approx([fallen] * len(dead), abs=1e-5)
    before = trained(images())
    alive = torch.ones(64, dtype=torch.bool)
    alive[dead] = False
    only = Scores(scores.heads, [torch.where(alive, 1 + units, 0) for units in scores.units], scores.channels)
    smaller = structured_prune(trained, heads=0, mlp=8 / 64, importance=only)
    assert (smaller(images()) - before).abs().max() <= 1e-5
    for old, new in zip(trained.blocks, smaller.blocks, strict=True):
        assert torch.equal(new.mlp.fc1.weight, old.mlp.fc1.weight[alive])


def test_the_gates_nearest_zero_go() -> None:
    model = random_vit()
    scores = Scores(
        [torch.tensor([3.0, 0.1, 2.0, 4.0]), torch.tensor([0.2, 5.0, 6.0, 7.0]), torch.tensor([1.0, 1.0, 0.3, 1.0])],
        [torch.arange(64.0) for _ in range(3)],
        torch.arange(32.0).flip(0),
    )
    smaller = structured_prune(model, heads=0.25, mlp=0.25, channels=0.25, importance=scores)
    assert smaller.config.heads == 3
    assert torch.equal(smaller.pos_embed, model.pos_embed[..., :24])
    for block, kept, gone in zip(smaller.blocks, model.blocks, (1, 0, 2), strict=True):
        assert torch.equal(block.mlp.fc1.bias, kept.mlp.fc1.bias[16:])
        left = [i for i in range(32) if i // 8 != gone]
        assert torch.equal(block.attn.proj.weight, kept.attn.proj.weight[:24, left])


def test_gates_are_learned_on_a_copy_and_resume_to_the_same_bits(tmp_path: Path) -> None:
    model, data = random_vit(), splits()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = Recipe(epochs=2, batch_size=20, lr=1e-3)

    def stop(row: dict[str, float]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_gates(model, data, recipe, out=tmp_path, on_epoch=stop)
    resumed, scores = learn_gates(model, data, recipe, out=tmp_path)
    whole, others = learn_gates(model, data, recipe)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))
    assert torch.equal(scores.channels, others.channels)
    with pytest.raises(InputError, match="another penalty of gates"):
        learn_gates(model, data, recipe, out=tmp_path, penalty=0.5)
    with pytest.raises(InputError, match="another choice of gates"):
        learn_gates(model, data, recipe, out=tmp_path, kinds=["mlp"])


def test_gate_importance_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    learned = []

    def learn(*given: Any, kinds: list[str]) -> Any:
        learned.append(kinds)
        return learn_gates(*given, Recipe(epochs=1, batch_size=20), kinds=kinds)

    monkeypatch.setattr("prune.structured.learn_gates", learn)
    smaller = structured_prune(random_vit(), heads=0.25, mlp=0.0, channels=0.25, importance="gate", data=splits())
    assert smaller.config.dim == 24
    assert smaller(images()).isfinite().all()
    assert learned == [["heads", "channels"]]
    assert structured_prune(random_vit(), heads=0, mlp=0, importance="gate", data=splits()).config == BASE
    assert len(learned) == 1  # of nothing to cut there is nothing to learn


def test_what_makes_no_sense_is_refused() -> None:
    model = random_vit()
    with pytest.raises(InputError, match="did you mean 'taylor'"):
        structured_prune(model, importance="tailor")
    for importance in ("taylor", "gate"):
        with pytest.raises(InputError) as caught:
            structured_prune(model, importance=importance)
        assert caught.value.field == "data"
    with pytest.raises(InputError, match="splits"):
        structured_prune(model, importance="gate", data=image_set())
    with pytest.raises(InputError, match="scores of this model's"):
        structured_prune(model, importance=Scores([torch.ones(4)] * 3, [torch.ones(64)] * 2, torch.ones(32)))
    with pytest.raises(InputError, match="penalty"):
        learn_gates(model, splits(), penalty=0.0)
    with pytest.raises(InputError, match="did you mean 'channels'"):
        learn_gates(model, splits(), kinds=["chanels"])
    for kinds in ("mlp", []):
        with pytest.raises(InputError, match="a list of one or more of heads, mlp, channels"):
            learn_gates(model, splits(), kinds=kinds)
    from vit.zoo import create_model

    for importance in ("magnitude", "taylor", "gate"):
        with pytest.raises(InputError, match="no list of transformer blocks"):
            structured_prune(create_model("mobilevit_xxs", image_size=64), importance=importance, data=splits())
