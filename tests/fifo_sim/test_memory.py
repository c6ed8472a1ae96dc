"""The ledger by hand, and the choice of weights that stream against brute force."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import chain, combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fifo_sim.graph import MATMUL, Operation, Product, Weights
from fifo_sim.lowering import lower
from fifo_sim.memory import ITEMS, PIECES, DoesNotFit, least_traffic
from fifo_sim.vit_graph import vit_graph
from fifo_sim.weight_streams import Stream, streamable, with_streams
from tests.fifo_sim.machines import SPATIAL, TINY, attentions, configs, fifos, machines, tiles
from vit.config import ViTConfig
from vit.layers import layers_of


def test_the_ledger_of_a_tiny_network_by_hand() -> None:
    """4 tokens of 4 bytes in tiles of 3 and 1, full attention, FIFOs of 2; 8 bits, biases and norms of 32."""
    memory = lower(TINY, SPATIAL, tile=3, fifo=2).memory
    linear = sum(inner * cols + 4 * cols for inner, cols in ((4, 4), (4, 12), (4, 4), (4, 8), (8, 4), (4, 3)))
    norms, positions = 3 * 2 * 4 * 4, 4 * 4
    token = 3 * 4
    score_rows = 2 * 3 * 4
    # stem-embed, embed-norm1, norm1-qkv, context-proj, proj-add, add-norm2, norm2-fc1, fc2-add, add-norm, norm-pool: 10
    ordinary = 10 * 2 * token + 2 * 2 * score_rows + 2 * 2 * 3 * 8  # scores to softmax to context; fc1 to act to fc2
    queries, pooled = (2 + 2) * token, 2 * 2 * 2  # a vector of 4 in two parts
    assert memory.by_item() == {
        "weights": linear + norms + positions,
        "fifos": ordinary + queries + pooled,
        "residuals": (2 + 2) * token + 2 * token,
        "kv": 2 * (2 + 2) * token,
        "lines": 3 * (2 * 4),  # tile 1 ends in band 2 of 2 rows; both of the next image may come meanwhile
        "double buffers": 0,
        "working tiles": memory.by_item()["working tiles"],
    }
    working = {entry.name: entry.bytes for entry in memory.entries if entry.item == "working tiles"}
    assert working["blocks.0.mlp.act"] == 3 * 8 + 3 * 8
    assert working["blocks.0.attn.qkv"] == token + 3 * token
    assert working["blocks.0.attn.scores"] == token + score_rows  # keys are used in place
    assert working["head"] == 4 + 3
    assert memory.total_bytes == sum(memory.by_item().values())
    assert memory.sram_kib * 1024 == memory.total_bytes
    assert memory.dram_bytes == {"input": 16, "weights": 0}


def test_weights_have_the_model_s_bits() -> None:
    narrow = lower(TINY, replace(SPATIAL, weight_bits=4)).memory.by_item()
    wide = lower(TINY, SPATIAL).memory.by_item()
    weights = sum(layer.inner * layer.cols for layer in layers_of(TINY) if layer.kind != "attention")
    assert wide["weights"] - narrow["weights"] == weights // 2
    assert {item: wide[item] for item in ITEMS[1:]} == {item: narrow[item] for item in ITEMS[1:]}


@settings(max_examples=60, deadline=None)
@given(configs(), tiles, fifos, attentions, machines, st.floats(0, 1))
def test_what_fits_fits_and_what_does_not_says_so(config, tile, fifo, attention, machine, share) -> None:
    """Between all weights on chip and none, the chosen ones fit; DRAM brings each streamed layer once a tile."""
    machine = replace(machine, dram_chunk_kib=1 / 16)
    whole = lower(config, machine, tile, fifo, attention)
    assert whole.memory.streamed == ()
    graph = vit_graph(config, layers_of(config), machine, tile, fifo, attention)
    least = whole.memory.total_bytes - sum(max(0, s.saved_bytes) for s in streamable(graph, machine))
    size = least + share * (whole.memory.total_bytes - least)
    try:
        lowered = lower(config, replace(machine, sram_kib=size / 1024), tile, fifo, attention)
    except DoesNotFit:
        assert size - least < 4096  # slots cut into chunks are rounded up to bytes
        return
    memory = lowered.memory
    assert memory.total_bytes <= size
    may_stream = streamable(graph, machine, PIECES[-1])  # traffic is the same in whatever pieces
    again = sum(s.traffic_bits for s in may_stream if s.operation.name in memory.streamed)
    assert memory.dram_bytes["weights"] == sum(
        -(-sum(op.amounts) // 8) for op in lowered.graph.operations if op.kind == "weights"
    )
    assert again <= 8 * memory.dram_bytes["weights"] <= again + 8 * len(memory.streamed)
    macs = {op.name: sum(p.macs for p in op.products) for op in graph.of_kind(MATMUL)}
    assert macs == {op.name: sum(p.macs for p in op.products) for op in lowered.graph.of_kind(MATMUL)}


def test_a_streamed_layer_fires_once_a_chunk() -> None:
    config = replace(TINY, dim=8, pool="cls")  # 5 tokens: tiles of 2, 2 and 1
    machine = replace(SPATIAL, dram_chunk_kib=1 / 16)
    graph = vit_graph(config, layers_of(config), machine, 2, 2, "full")
    stream = next(s for s in streamable(graph, machine) if s.operation.name == "blocks.0.attn.qkv")
    assert stream.columns == (4, 5, 5, 5, 5)  # 24 columns of 8 weights and a bias, 12 bytes; at most 64 bytes a chunk
    assert stream.saved_bytes == 24 * 12 - 2 * 60
    fitted = with_streams(graph, [stream], machine)
    qkv = fitted.named()["blocks.0.attn.qkv"]
    assert [p.n for p in qkv.products] == [4, 5, 5, 5, 5] * 3
    assert [p.m for p in qkv.products] == [2] * 10 + [1] * 5
    links = {(one.src, one.dst, one.item): one for one in fitted.links}
    taken = links["blocks.0.norm1", "blocks.0.attn.qkv", "fifos"]
    assert taken.need == taken.rel == (1,) * 5 + (2,) * 5 + (3,) * 5  # the first chunk takes a copy for all
    keys = links["blocks.0.attn.qkv", "blocks.0.attn.scores", "kv"]
    assert (keys.need, keys.rel, keys.depth) == ((15,) * 3, (0, 0, 15), 5 * (3 + 2))
    chunks = links["blocks.0.attn.qkv.weights", "blocks.0.attn.qkv", "double buffers"]
    assert (chunks.depth, chunks.token_bits, chunks.latency, chunks.release) == (2, 5 * 12 * 8, 10, "end")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 400), st.integers(1, 8)), min_size=1, max_size=7),
    st.floats(0.01, 1),
)
def test_least_traffic_is_least(layers: list[tuple[int, int]], share: float) -> None:
    streams = []
    for i, (columns, firings) in enumerate(layers):
        weights = Weights(columns + 2, 8)
        streams.append(
            Stream(Operation(str(i), MATMUL, (Product(1, 1, 1, 1),) * firings, weights=weights), weights, columns + 2)
        )
    goal = max(1, int(share * sum(s.saved_bytes for s in streams)))
    ways = chain.from_iterable(combinations(streams, n) for n in range(len(streams) + 1))
    best = min(sum(s.traffic_bits for s in way) for way in ways if sum(s.saved_bytes for s in way) >= goal)
    chosen = least_traffic(streams, goal)
    assert sum(s.saved_bytes for s in chosen) >= goal
    assert best <= sum(s.traffic_bits for s in chosen) <= best * 1.002


def test_too_small_a_memory_names_the_shortfall() -> None:
    with pytest.raises(DoesNotFit, match=r"hardware.sram_kib = 1.0: .* at least .* KiB are missing on board"):
        lower(ViTConfig(), replace(SPATIAL, sram_kib=1))
    with pytest.raises(DoesNotFit, match="its weights cannot stream"):
        lower(ViTConfig(), replace(SPATIAL, sram_kib=700, stream_weights=False))
    assert lower(ViTConfig(), replace(SPATIAL, sram_kib=700)).memory.streamed


def test_small_layers_stream_in_smaller_chunks_where_nothing_else_fits() -> None:
    """Two chunks of 4 KiB are larger than any layer here; in smaller ones the layers still leave the chip."""
    machine = replace(SPATIAL, dram_chunk_kib=4.0)
    whole = lower(TINY, machine).memory
    weights = {entry.name: entry.bytes for entry in whole.entries if entry.item == "weights"}
    smaller = lower(TINY, replace(machine, sram_kib=(whole.total_bytes - 1) / 1024)).memory
    assert len(smaller.streamed) == 1
    assert 0 < smaller.by_item()["double buffers"] < weights[smaller.streamed[0]]
    with pytest.raises(DoesNotFit) as refused:
        lower(TINY, replace(machine, sram_kib=0.1))
    least = float(re.search(r"at least ([\d.]+)", refused.value.allowed)[1])
    assert least < whole.sram_kib
    assert lower(TINY, replace(machine, sram_kib=least + 0.1)).memory.sram_kib <= least + 0.1


def test_larger_tiles_fetch_a_layer_less_often() -> None:
    def traffic(tile: int) -> int:
        graph = vit_graph(ViTConfig(), layers_of(ViTConfig()), SPATIAL, tile, 1, "full")
        return next(s.traffic_bits for s in streamable(graph, SPATIAL) if s.operation.name == "blocks.0.mlp.fc1")

    once = 256 * (128 * 8 + 32)
    assert [traffic(tile) for tile in (1, 8, 65)] == [65 * once, 9 * once, once]
