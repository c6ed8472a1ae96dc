"""A network as hardware sees it: operations that fire tile by tile, and the FIFOs between them. Sizes, but no times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from fifo_sim.parts import Edge

MATMUL = "matmul"
PASSES = {"layernorm": 2, "softmax": 2, "gelu": 1, "add": 1, "pool": 1}  # over each element; see docs/hardware.md
TRANSFERS = ("input", "weights")  # what the DRAM port carries


@dataclass(frozen=True)
class Product:
    """`count` independent products of an m x k by a k x n matrix."""

    count: int
    m: int
    k: int
    n: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.count * self.m * self.k * self.n


@dataclass(frozen=True)
class Weights:
    """What an operation reads besides its inputs: `columns` of `column_bits` each (biases included).

    Attributes:
        streamable: may come from DRAM column by column; the small vectors of norms and positions may not.
        bits: width of one weight.
        coding: "int", "pot" or "apot": what multiplying by one of them costs.
        density: fraction that is multiplied by; below 1 where the machine skips zeros.
        resident: on chip for the whole run.
    """

    columns: int
    column_bits: int
    streamable: bool = True
    bits: int = 0
    coding: str = "int"
    density: float = 1.0
    resident: bool = True

    @property
    def total_bytes(self) -> int:
        """Size of all columns."""
        return bytes_of(self.columns * self.column_bits)


@dataclass(frozen=True)
class Operation:
    """One stage of the machine; all sequences hold one entry a firing, for one image.

    Attributes:
        name: the module it stands for.
        kind: "matmul", "layernorm", "softmax", "gelu", "add", "pool", "input" or "weights" (a transfer from DRAM).
        products: matmul: what each firing multiplies.
        amounts: otherwise the elements each firing goes through, or the bits it transfers.
        activation_bits: matmul: width of its inputs.
        weights: what it reads besides; None if nothing.
        output_bits: size of what one firing makes, before it is in a FIFO.
        inner_bits: memory it keeps for itself (the convolution row that pooling needs again).
    """

    name: str
    kind: str
    products: tuple[Product, ...] = ()
    amounts: tuple[int, ...] = ()
    activation_bits: int = 0
    weights: Weights | None = None
    output_bits: int = 0
    inner_bits: int = 0

    @property
    def firings(self) -> int:
        """Firings for one image."""
        return len(self.products or self.amounts)


@dataclass(frozen=True)
class Link:
    """A FIFO between two operations.

    Attributes:
        src, dst: names of operations.
        token_bits: size of one slot.
        depth: slots.
        item: line of the memory ledger: "fifos", "residuals", "kv", "lines" or "double buffers".
        need, rel: as in a pipeline, for one image; empty means k + 1.
        release: "start" of the firing (it then works on a copy) or "end" (it works in place).
        latency: cycles from push to visibility.
    """

    src: str
    dst: str
    token_bits: int
    depth: int
    item: str = "fifos"
    need: tuple[int, ...] = ()
    rel: tuple[int, ...] = ()
    release: str = "start"
    latency: int = 1

    @property
    def total_bytes(self) -> int:
        """Size of all slots."""
        return bytes_of(self.token_bits) * self.depth

    @property
    def taken(self) -> int:
        """Most tokens that one firing of the reader gives back: what it works on a copy of."""
        rel = self.rel or (1,)
        return max(after - before for before, after in pairwise((0, *rel)))

    def per_image(self, firings: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """`need` and `rel` of the firings for one image, defaults spelt out."""
        plain = tuple(range(1, firings + 1))
        return self.need or plain, self.rel or plain

    def edge(self, tokens: int) -> Edge:
        """The edge of a pipeline over any number of images; `tokens` are written for each."""
        need = {"repeat": self.need, "step": tokens} if self.need else None
        rel = {"repeat": self.rel, "step": tokens} if self.rel else None
        return Edge(self.src, self.dst, self.depth, self.latency, need, rel, self.release)


@dataclass
class Graph:
    """Operations in the order of execution, and the links between them."""

    operations: list[Operation] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)

    def add(self, operation: Operation, *inputs: Link) -> str:
        """Append an operation and the links that lead to it; its name."""
        self.operations.append(operation)
        self.links.extend(inputs)
        return operation.name

    def named(self) -> dict[str, Operation]:
        """Operations by name."""
        return {operation.name: operation for operation in self.operations}

    def of_kind(self, *kinds: str) -> Iterator[Operation]:
        """The operations of these kinds, in order."""
        return (operation for operation in self.operations if operation.kind in kinds)


def bytes_of(bits: int) -> int:
    """Whole bytes that hold `bits`."""
    return -(-bits // 8)


def window_depth(need: tuple[int, ...], rel: tuple[int, ...], tokens: int) -> int:
    """Slots with which all that the next firing needs can arrive while a firing holds what it still uses.

    That is the largest need[k+1] - rel[k-1], images back to back; `tokens` are written for each image.
    """
    needs = [*need, *(n + tokens for n in need), need[0] + 2 * tokens]
    rels = [0, *rel, *(r + tokens for r in rel)]
    return max(1, needs[0], *(after - before for (_, after), before in zip(pairwise(needs), rels, strict=False)))
