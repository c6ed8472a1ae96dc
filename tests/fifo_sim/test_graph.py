"""The graph of a network: every multiplication is in it, and its FIFOs have the documented depths."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fifo_sim.graph import Graph, Link, Product, window_depth
from fifo_sim.vit_graph import tile_sizes, visible_tiles, vit_graph
from tests.fifo_sim.machines import SPATIAL, TINY, attentions, configs, fifos, tiles
from vit.config import ViTConfig
from vit.errors import InputError
from vit.layers import layers_of


def graph_of(config: ViTConfig, tile: int, fifo: int, attention: str) -> Graph:
    return vit_graph(config, layers_of(config), SPATIAL, tile, fifo, attention)


def link(graph: Graph, src: str, dst: str, item: str = "fifos") -> Link:
    return next(one for one in graph.links if (one.src, one.dst, one.item) == (src, dst, item))


@settings(max_examples=150, deadline=None)
@given(configs(), tiles, fifos)
def test_full_attention_does_every_multiplication_once(config: ViTConfig, tile: int, fifo: int) -> None:
    operations = {op.name: op for op in graph_of(config, tile, fifo, "full").operations}
    for layer in layers_of(config):
        assert sum(product.macs for product in operations[layer.name].products) == layer.macs, layer.name


@settings(max_examples=100, deadline=None)
@given(configs(), tiles, fifos, attentions)
def test_narrow_attention_does_what_its_tiles_see(config: ViTConfig, tile: int, fifo: int, attention: str) -> None:
    operations = {op.name: op for op in graph_of(config, tile, fifo, attention).operations}
    reach = {"full": config.tokens, "window": fifo, "tile": 1}[attention]
    pairs = sum(
        attention == "full" or 0 <= i // tile - j // tile < reach
        for i in range(config.tokens)
        for j in range(config.tokens)
    )
    for i in range(config.depth):
        inside = config.heads_of(i) * config.head_width
        for product in ("scores", "context"):
            found = operations[f"blocks.{i}.attn.{product}"].products
            assert sum(p.macs for p in found) == pairs * inside


@settings(max_examples=150, deadline=None)
@given(configs(), tiles, fifos, attentions)
def test_every_token_written_is_given_back_and_depths_suffice(
    config: ViTConfig, tile: int, fifo: int, attention: str
) -> None:
    graph = graph_of(config, tile, fifo, attention)
    firings = {op.name: op.firings for op in graph.operations}
    for one in graph.links:
        need, rel = one.per_image(firings[one.dst])
        assert need[-1] == rel[-1] == firings[one.src]
        held = [n - r for n, r in zip(need, (0, *rel), strict=False)]
        assert max(held) <= one.depth, one


def test_stages_of_a_small_network() -> None:
    names = [op.name for op in graph_of(TINY, 3, 2, "full").operations]
    attention = [f"blocks.0.attn.{part}" for part in ("qkv", "scores", "softmax", "context", "proj", "add")]
    mlp = [f"blocks.0.mlp.{part}" for part in ("fc1", "act", "fc2", "add")]
    assert names == [
        *("input", "stem.proj", "embed", "blocks.0.norm1", *attention, "blocks.0.norm2", *mlp, "norm", "pool", "head")
    ]


def test_depths_are_the_documented_ones() -> None:
    config = replace(TINY, image_size=8)  # 16 tokens, 4 tiles of 4
    for attention, keys, values, queries, residual in (
        ("full", 4 + 3, 4 + 3, 4 + 3, 4 + 3),
        ("window", 3 + 1, 3 + 1, 3, 3),
        ("tile", 3, 3, 3, 3),
    ):
        graph = graph_of(config, 4, 3, attention)
        qkv, scores, context = (f"blocks.0.attn.{part}" for part in ("qkv", "scores", "context"))
        assert link(graph, qkv, scores, "kv").depth == keys
        assert link(graph, qkv, context, "kv").depth == values
        assert link(graph, qkv, scores).depth == queries
        assert link(graph, "embed", "blocks.0.attn.add", "residuals").depth == residual
        assert link(graph, "blocks.0.attn.add", "blocks.0.mlp.add", "residuals").depth == 3
        assert link(graph, "pool", "head").depth == 4 * 3
        assert link(graph, "norm", "pool").depth == 3


def test_keys_of_a_window() -> None:
    graph = graph_of(replace(TINY, image_size=8), 4, 2, "window")
    keys = link(graph, "blocks.0.attn.qkv", "blocks.0.attn.scores", "kv")
    assert keys.need == (1, 2, 3, 4)
    assert keys.rel == (0, 1, 2, 4)  # tile k + 1 still sees tile k; at the end of the image all are given back
    assert keys.release == "end"


def test_the_class_token_is_in_the_first_tile() -> None:
    graph = graph_of(replace(TINY, pool="cls"), 1, 2, "full")  # 4 patches and the class token
    stem = graph.named()["stem.proj"]
    assert [product.m for product in stem.products] == [0, 1, 1, 1, 1]
    rows = link(graph, "input", "stem.proj", "lines")
    assert rows.need == (0, 1, 1, 2, 2)  # two patches a row of the grid
    assert rows.rel == (0, 0, 1, 1, 2)


def test_line_buffers_of_the_conv_stem() -> None:
    config = replace(TINY, image_size=8, patch_size=4, stem="conv")
    graph = graph_of(config, 2, 2, "full")
    rows = link(graph, "input", "stem.convs.0", "lines")
    assert rows.need == (3, 5, 7, 8)  # pooled row r takes convolved rows up to 2r + 1, these image rows up to 2r + 2
    assert rows.rel == (1, 3, 5, 8)
    assert rows.token_bits == 8 * 1 * 8
    conv = graph.named()["stem.convs.0"]
    assert conv.products == (Product(1, 16, 9, 64),) * 4
    assert conv.inner_bits == 8 * 64 * 8  # the convolved row that two pooled rows share


@given(st.integers(1, 300), st.integers(1, 40))
def test_tiles_cover_the_sequence(tokens: int, tile: int) -> None:
    sizes = tile_sizes(tokens, tile)
    assert sum(sizes) == tokens
    assert all(size == tile for size in sizes[:-1])
    assert 1 <= sizes[-1] <= tile


def test_visible_tiles() -> None:
    assert [list(visible_tiles(k, 4, 2, "window")) for k in range(4)] == [[0], [0, 1], [1, 2], [2, 3]]
    assert list(visible_tiles(2, 4, 9, "tile")) == [2]
    assert list(visible_tiles(2, 4, 1, "full")) == [0, 1, 2, 3]


def test_window_depth() -> None:
    assert window_depth((1, 2, 3), (1, 2, 3), 3) == 2  # the next token comes while one is used
    assert window_depth((3, 3, 3), (0, 0, 3), 3) == 6  # the next image comes while one is used


@pytest.mark.parametrize(
    ("tile", "fifo", "attention"), [(0, 1, "full"), (1, 0, "full"), (1, 1, "none"), (2.0, 1, "full")]
)
def test_wrong_arguments(tile: int, fifo: int, attention: str) -> None:
    with pytest.raises(InputError):
        graph_of(TINY, tile, fifo, attention)
