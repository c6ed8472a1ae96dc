import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from nas import SearchSpace, Supernet
from vit import InputError, VisionTransformer, ViTConfig

IMAGES = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
SHAPE = {"image_size": 8, "in_channels": 1, "num_classes": 3, "patch_size": 4}


def space_of(**fields: object) -> SearchSpace:
    choices = {"dim": [4, 6, 12], "depth": [1, 2, 3], "heads": [1, 2, 3], "mlp_ratio": [0.5, 2.0]}
    named = {name: value for name, value in fields.items() if isinstance(value, list)}
    return SearchSpace(choices | named, SHAPE | {name: value for name, value in fields.items() if name not in named})


def supernet_of(space: SearchSpace) -> Supernet:
    torch.manual_seed(0)
    supernet = Supernet(space).eval()
    with torch.no_grad():
        for parameter in supernet.parameters():  # no two weights alike: biases and norms start as constants
            parameter.add_(0.1 * torch.randn_like(parameter))
    return supernet


def reference(whole: VisionTransformer, config: ViTConfig, images: torch.Tensor) -> torch.Tensor:
    """Logits of a candidate with pool cls, written out with slices of the weights."""
    d, h, w = config.dim, config.heads, config.head_width
    x = F.conv2d(images, whole.stem.proj.weight[:d], whole.stem.proj.bias[:d], stride=config.patch_size)
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([whole.cls_token[..., :d].expand(len(x), 1, d), x], dim=1) + whole.pos_embed[..., :d]
    for block in list(whole.blocks)[: config.depth]:
        normed = F.layer_norm(x, (d,), block.norm1.weight[:d], block.norm1.bias[:d], 1e-6)
        inner = block.attn.proj.weight.shape[1]
        heads = []
        for part in range(3):  # queries, keys, values
            rows = slice(part * inner, part * inner + h * w)
            heads.append(F.linear(normed, block.attn.qkv.weight[rows, :d], block.attn.qkv.bias[rows]))
        q, k, v = (one.unflatten(2, (h, w)).transpose(1, 2) for one in heads)
        context = (q @ k.transpose(2, 3) / w**0.5).softmax(-1) @ v
        x = x + F.linear(
            context.transpose(1, 2).flatten(2), block.attn.proj.weight[:d, : h * w], block.attn.proj.bias[:d]
        )
        normed = F.layer_norm(x, (d,), block.norm2.weight[:d], block.norm2.bias[:d], 1e-6)
        n = config.hidden
        hidden = F.gelu(F.linear(normed, block.mlp.fc1.weight[:n, :d], block.mlp.fc1.bias[:n]))
        x = x + F.linear(hidden, block.mlp.fc2.weight[:d, :n], block.mlp.fc2.bias[:d])
    x = F.layer_norm(x, (d,), whole.norm.weight[:d], whole.norm.bias[:d], 1e-6)
    return F.linear(x[:, 0], whole.head.weight[:, :d], whole.head.bias)


@pytest.mark.parametrize("fields", [{}, {"head_dim": [2, 5]}], ids=["heads cut dim", "free head_dim"])
def test_every_candidate_is_the_slice_that_the_plain_formulas_take(fields: dict[str, object]) -> None:
    supernet = supernet_of(space_of(**fields))
    assert len(supernet.candidates) == len(supernet.space)
    for config in supernet.candidates:
        torch.testing.assert_close(supernet(IMAGES, config), reference(supernet.whole, config, IMAGES))


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(["cls", "mean", "seq"]), st.sampled_from(["patch", "conv"]), st.integers(0, 1000))
def test_a_subnet_has_the_very_logits_of_the_part(pool: str, stem: str, seed: int) -> None:
    supernet = supernet_of(space_of(pool=pool, stem=stem))
    (config,) = supernet.sample(1, seed)
    subnet = supernet.subnet(config)
    assert type(subnet) is VisionTransformer
    assert (subnet.config, subnet.training) == (config, False)
    assert torch.equal(subnet(IMAGES), supernet(IMAGES, config))


def test_a_subnet_is_a_copy() -> None:
    supernet = supernet_of(space_of())
    config = supernet.smallest
    subnet = supernet.subnet(config)
    before = supernet(IMAGES, config)
    with torch.no_grad():
        for parameter in subnet.parameters():
            parameter.zero_()
    assert torch.equal(supernet(IMAGES, config), before)


def test_it_is_the_largest_candidate_and_only_parts_in_use_get_a_gradient() -> None:
    supernet = supernet_of(space_of())
    assert supernet.largest == ViTConfig(**SHAPE, dim=12, depth=3, heads=3, mlp_ratio=2.0)
    assert supernet.smallest == ViTConfig(**SHAPE, dim=4, depth=1, heads=1, mlp_ratio=0.5)
    assert torch.equal(supernet(IMAGES), supernet.subnet(supernet.largest)(IMAGES))
    supernet(IMAGES, supernet.smallest).square().sum().backward()
    inside = torch.zeros(12, 24, dtype=torch.bool)
    inside[:4, :2] = True
    first, second = supernet.whole.blocks[0].mlp.fc2.weight.grad, supernet.whole.blocks[1].mlp.fc2.weight.grad
    assert torch.equal(first != 0, inside)
    assert second is None


def test_the_largest_covers_heads_that_do_not_divide_the_largest_dim() -> None:
    supernet = supernet_of(space_of(dim=[8, 9], heads=[3, 2]))
    assert {(c.dim, c.heads) for c in supernet.candidates} == {(8, 2), (9, 3)}
    assert supernet.whole.config.dim == 9


def test_hardware_fields_make_no_other_network() -> None:
    supernet = supernet_of(space_of(tile=[2, 4], fifo=[1, 2, 3]))
    assert len(supernet.space) == 6 * len(supernet.candidates)


def test_draws_are_the_spaces_own() -> None:
    supernet = supernet_of(space_of())
    assert supernet.sample(4, seed=3) == [supernet.space.config(p) for p in supernet.space.sample(4, seed=3)]
    assert set(supernet.sample(300)) == supernet.candidates


def test_another_process_may_have_it() -> None:
    supernet = supernet_of(space_of())
    logits = supernet(IMAGES, supernet.smallest)
    copied = pickle.loads(pickle.dumps(supernet))  # as multiprocessing sends it
    assert torch.equal(copied(IMAGES, supernet.smallest), logits)


@pytest.mark.parametrize(
    ("field", "values"),
    [("patch_size", [2, 4]), ("stem", ["patch", "conv"]), ("pool", ["cls", "mean"]), ("drop_path", [0.0, 0.1])],
)
def test_fields_that_cannot_be_shared_are_named(field: str, values: list[object]) -> None:
    fixed = {name: value for name, value in SHAPE.items() if name != field}
    space = SearchSpace({"dim": [4, 8], "heads": [2], field: values}, fixed)
    with pytest.raises(InputError, match=rf"space\.{field} = .*a single value with a supernet"):
        Supernet(space)
    Supernet(SearchSpace({"dim": [4, 8], "heads": [2], field: values[:1]}, fixed))


@pytest.mark.parametrize("fields", [{"attention": "tile"}, {"attention": ["window"]}, {"attention": ["full", "tile"]}])
def test_only_full_attention_is_shared(fields: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"space\.attention"):
        Supernet(space_of(**fields))


def test_what_is_no_candidate_is_refused() -> None:
    supernet = supernet_of(space_of())
    with pytest.raises(InputError, match="a candidate of the supernet's space"):
        supernet.subnet(replace(supernet.smallest, dim=5))
    with pytest.raises(InputError, match="config"):
        supernet(IMAGES, replace(supernet.smallest, patch_size=2))
