"""Weights that come from DRAM while the machine runs: a layer in chunks of columns, each chunk double-buffered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from fifo_sim.graph import Graph, Link, Operation, Product, Weights, bytes_of
from fifo_sim.hardware import Hardware

BUFFERS = 2  # one chunk is used while the next one comes


@dataclass(frozen=True)
class Stream:
    """One layer's weights, if they streamed: `chunks` pieces of columns, all of them for every firing of the layer."""

    operation: Operation
    weights: Weights
    chunks: int

    @property
    def name(self) -> str:
        """The operation that brings the chunks."""
        return f"{self.operation.name}.weights"

    @cached_property
    def columns(self) -> tuple[int, ...]:
        """Columns of each chunk, as equal as can be."""
        total = self.weights.columns
        return tuple(total * (c + 1) // self.chunks - total * c // self.chunks for c in range(self.chunks))

    @property
    def chunk_bits(self) -> int:
        """Size of the largest chunk."""
        return max(self.columns) * self.weights.column_bits

    @property
    def saved_bytes(self) -> int:
        """On-chip memory that streaming frees; negative for a layer smaller than its buffers."""
        return self.weights.total_bytes - BUFFERS * bytes_of(self.chunk_bits)

    @property
    def traffic_bits(self) -> int:
        """DRAM traffic an image."""
        busy = sum(product.macs > 0 for product in self.operation.products)
        return busy * self.weights.columns * self.weights.column_bits


def chunk_bits(hardware: Hardware) -> int:
    """Most bits that a chunk of weights should have."""
    return int(hardware.dram_chunk_kib * 8192)


def streamable(graph: Graph, hardware: Hardware, pieces: int = 1) -> list[Stream]:
    """The layers that gain memory by streaming in chunks of at most `dram_chunk_kib` (of one column at least).

    Args:
        pieces: least chunks of a layer, as far as it has columns.
    """
    found = []
    for operation in graph.operations:
        weights = operation.weights
        if weights is not None and weights.streamable:
            columns = max(1, int(hardware.dram_chunk_kib * 8192) // weights.column_bits)
            chunks = max(-(-weights.columns // columns), min(pieces, weights.columns))
            found.append(Stream(operation, weights, chunks))
    return [stream for stream in found if stream.saved_bytes > 0]


def with_streams(graph: Graph, streams: Iterable[Stream], hardware: Hardware) -> Graph:
    """The graph in which these layers fire once a chunk, each chunk brought by an operation of its own."""
    by_name = {stream.operation.name: stream for stream in streams}
    if not by_name:
        return graph
    result = Graph()
    for operation in graph.operations:
        stream = by_name.get(operation.name)
        if stream is None:
            result.add(operation)
            continue
        brought = Link(stream.name, operation.name, stream.chunk_bits, BUFFERS, "double buffers", release="end")
        result.add(_transfer(stream))
        result.add(_in_chunks(stream), replace(brought, latency=hardware.dram_latency_cycles))
    firings = {operation.name: operation.firings for operation in result.operations}
    for link in graph.links:
        if link.dst in by_name:
            link = _read_in_chunks(link, by_name[link.dst])
        if link.src in by_name:
            link = _written_in_chunks(link, by_name[link.src].chunks, firings[link.dst])
        result.links.append(link)
    return result


def _transfer(stream: Stream) -> Operation:
    sizes = [columns * stream.weights.column_bits for columns in stream.columns]
    amounts = tuple(bits * (product.macs > 0) for product in stream.operation.products for bits in sizes)
    return Operation(stream.name, "weights", amounts=amounts)


def _in_chunks(stream: Stream) -> Operation:
    operation = stream.operation
    products = [Product(p.count, p.m, p.k, columns) for p in operation.products for columns in stream.columns]
    return replace(
        operation,
        products=tuple(products),
        weights=replace(stream.weights, resident=False),
        output_bits=-(-operation.output_bits // stream.chunks),
    )


def _read_in_chunks(link: Link, stream: Stream) -> Link:
    """The input of a layer that now fires once a chunk: taken (or, in place, given back) once for all its chunks."""
    chunks, (need, rel) = stream.chunks, link.per_image(stream.operation.firings)
    at_last = link.release == "end"
    before = (0, *rel[:-1])
    given = (
        (*(old,) * (chunks - 1), new) if at_last else (new,) * chunks for old, new in zip(before, rel, strict=True)
    )
    needs = tuple(n for n in need for _ in range(chunks))
    return replace(link, need=needs, rel=tuple(r for firing in given for r in firing))


def _written_in_chunks(link: Link, chunks: int, firings: int) -> Link:
    """The output of such a layer: each token is the part of one chunk."""
    need, rel = link.per_image(firings)
    return replace(
        link,
        token_bits=-(-link.token_bits // chunks),
        depth=link.depth * chunks,
        need=tuple(n * chunks for n in need),
        rel=tuple(r * chunks for r in rel),
    )
