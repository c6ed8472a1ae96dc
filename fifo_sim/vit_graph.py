"""A Vision Transformer as a graph of operations: stem, blocks with their two residuals, pooling, head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from fifo_sim.graph import Graph, Link, Operation, Product, Weights, window_depth
from fifo_sim.hardware import Hardware
from fifo_sim.precision import Precision
from vit.config import ViTConfig
from vit.errors import require_choice, require_int
from vit.layers import LayerInfo

SOURCE = "input"
ATTENTIONS = ("full", "window", "tile")
LARGEST_TILE, DEEPEST_FIFO = 2**20, 2**20


def vit_graph(
    config: ViTConfig, layers: Sequence[LayerInfo], hardware: Hardware, tile: int, fifo: int, attention: str
) -> Graph:
    """The operations of one image and the FIFOs between them, weights all on chip.

    Depths, in tiles of which an image has N: every FIFO has `fifo`, and N more where with full attention a whole image
    has to wait: queries, keys, values, and the residual around attention. Without these it would deadlock; a residual
    shallower than its branch is long merely slows. The keys and values of a window have one tile more than the window,
    line buffers what two neighbouring firings need.

    Raises:
        InputError: tile, fifo or attention is out of its range.
    """
    require_streaming(tile, fifo, attention)
    return _Builder(config, layers, hardware, tile, fifo, attention).build()


def require_streaming(tile: object, fifo: object, attention: object) -> None:
    """Raise an InputError unless these are a tile size, a FIFO depth and an attention mode."""
    require_int("tile", tile, 1, LARGEST_TILE)
    require_int("fifo", fifo, 1, DEEPEST_FIFO)
    require_choice("attention", attention, ATTENTIONS)


def tile_sizes(tokens: int, tile: int) -> list[int]:
    """Tokens in each tile of a sequence; the last tile may be shorter."""
    return [min(tile, tokens - start) for start in range(0, tokens, tile)]


def visible_tiles(index: int, tiles: int, fifo: int, attention: str) -> range:
    """The tiles that the given one attends to."""
    if attention == "full":
        return range(tiles)
    return range(max(0, index + 1 - (fifo if attention == "window" else 1)), index + 1)


@dataclass(frozen=True)
class _Input:
    """A link whose reader is not named yet; `values` fill one slot."""

    src: str
    values: int
    depth: int
    item: str = "fifos"
    need: tuple[int, ...] = ()
    rel: tuple[int, ...] = ()
    release: str = "start"
    latency: int = 1


class _Builder:
    """What every part of the graph needs to know. Each method appends one part and names its last operation."""

    def __init__(
        self, config: ViTConfig, layers: Sequence[LayerInfo], hardware: Hardware, tile: int, fifo: int, attention: str
    ) -> None:
        self.config, self.fifo, self.attention = config, fifo, attention
        self.layers: Mapping[str, LayerInfo] = {layer.name: layer for layer in layers}
        self.precision = Precision(layers, hardware)
        self.parameter_bits = hardware.accumulator_bits
        self.dram_latency = hardware.dram_latency_cycles
        self.graph = Graph()
        self.sizes = tile_sizes(config.tokens, tile)
        self.tiles = len(self.sizes)
        ends = [0, *accumulate(self.sizes)]
        sights = (visible_tiles(k, self.tiles, fifo, attention) for k in range(self.tiles))
        self.seen = [ends[sight.stop] - ends[sight.start] for sight in sights]  # tokens that each tile attends to
        self.barrier = self.tiles if attention == "full" else 0  # tiles that wait until the image is complete

    def build(self) -> Graph:
        last = self._conv_stem() if self.config.stem == "conv" else self._patch_stem()
        for i in range(self.config.depth):
            last = self._mlp(i, self._attention(i, last))
        self._classifier(last)
        return self.graph

    def _patch_stem(self) -> str:
        """Bands of patch_size image rows in, patch products tile by tile, positions and the class token added."""
        c = self.config
        band = c.patch_size * c.image_size * c.in_channels
        source = self._source("stem.proj", band, c.grid)
        patches = [self.sizes[0] - (c.pool == "cls"), *self.sizes[1:]]
        products = [Product(1, m, c.in_channels * c.patch_size**2, c.dim) for m in patches]
        stem = self._matmul("stem.proj", products, self._grid_rows(source, band))
        return self._embed(self._input(stem, c.dim))

    def _conv_stem(self) -> str:
        """Image rows in, one row after pooling a firing; the rows of the last convolution are cut into tiles."""
        c, size, width = self.config, self.config.image_size, self.config.in_channels
        convs = [layer for name, layer in self.layers.items() if name.startswith("stem.convs.")]
        last = self._source(convs[0].name, size * width, size)
        for layer in convs:
            rows = size // 2
            # Pooled row r takes convolved rows 2r-1 to 2r+1, the first kept from before; these take rows 2r-1 to 2r+2.
            need = tuple(min(size, 2 * r + 3) for r in range(rows))
            rel = (*(2 * r + 1 for r in range(rows - 1)), size)
            products = [Product(1, 2 * size, layer.inner, layer.cols)] * rows
            kept_row = size * layer.cols
            last = self._matmul(layer.name, products, self._lines(last, size * width, need, rel, size), inner=kept_row)
            size, width = rows, layer.cols
        return self._embed(self._grid_rows(last, c.grid * c.dim))

    def _embed(self, rows: _Input) -> str:
        c = self.config
        vectors = (c.tokens + (c.pool == "cls")) * c.dim * self.precision.stream
        return self._elementwise("embed", "add", [m * c.dim for m in self.sizes], rows, parameter_bits=vectors)

    def _attention(self, i: int, entry: str) -> str:
        """x + proj(context(softmax(scores(qkv(norm1(x))))))."""
        c, sizes, attn = self.config, self.sizes, f"blocks.{i}.attn"
        heads, inside = c.heads_of(i), c.heads_of(i) * c.head_width
        pairs, most = list(zip(sizes, self.seen, strict=True)), max(self.seen)
        norm = self._norm(f"blocks.{i}.norm1", entry)
        qkv = self._matmul(f"{attn}.qkv", [Product(1, m, c.dim, 3 * inside) for m in sizes], self._input(norm, c.dim))
        scores = self._matmul(
            f"{attn}.scores",
            [Product(heads, m, c.head_width, s) for m, s in pairs],
            self._input(qkv, inside, self.barrier),
            self._keys_or_values(qkv, inside),
        )
        rows = self._input(scores, heads * most)
        softmax = self._elementwise(f"{attn}.softmax", "softmax", [heads * m * s for m, s in pairs], rows)
        context = self._matmul(
            f"{attn}.context",
            [Product(heads, m, s, c.head_width) for m, s in pairs],
            self._input(softmax, heads * most),
            self._keys_or_values(qkv, inside),
        )
        proj = self._matmul(f"{attn}.proj", [Product(1, m, inside, c.dim) for m in sizes], self._input(context, inside))
        return self._residual(f"{attn}.add", proj, entry, waiting=self.barrier)

    def _mlp(self, i: int, entry: str) -> str:
        """x + fc2(act(fc1(norm2(x))))."""
        c, sizes, mlp, hidden = self.config, self.sizes, f"blocks.{i}.mlp", self.config.hidden_of(i)
        norm = self._norm(f"blocks.{i}.norm2", entry)
        fc1 = self._matmul(f"{mlp}.fc1", [Product(1, m, c.dim, hidden) for m in sizes], self._input(norm, c.dim))
        act = self._elementwise(f"{mlp}.act", "gelu", [m * hidden for m in sizes], self._input(fc1, hidden))
        fc2 = self._matmul(f"{mlp}.fc2", [Product(1, m, hidden, c.dim) for m in sizes], self._input(act, hidden))
        return self._residual(f"{mlp}.add", fc2, entry)

    def _classifier(self, entry: str) -> None:
        """Final norm, pooling tile by tile into one vector, and the head, which fires once an image."""
        c, sizes = self.config, self.sizes
        norm = self._norm("norm", entry)
        if c.pool == "seq":
            score = self._matmul("pool_score", [Product(1, m, c.dim, 1) for m in sizes], self._input(norm, c.dim))
            tokens = self._input(norm, c.dim, item="residuals")
            products = [Product(1, 1, m, c.dim) for m in sizes]
            pool = self._matmul("pool", products, self._input(score, 1), tokens)
        else:
            elements = [c.dim, *[0] * (self.tiles - 1)] if c.pool == "cls" else [m * c.dim for m in sizes]
            pool = self._elementwise("pool", "pool", elements, self._input(norm, c.dim))
        once = (self.tiles,)  # as many partial results make the one vector that the head takes
        vectors = _Input(pool, -(-c.dim // self.tiles), self.tiles * self.fifo, need=once, rel=once)
        self._matmul("head", [Product(1, 1, c.dim, c.num_classes)], vectors)

    def _norm(self, name: str, entry: str) -> str:
        width = self.config.dim
        elements = [m * width for m in self.sizes]
        return self._elementwise(
            name, "layernorm", elements, self._input(entry, width), parameter_bits=2 * width * self.parameter_bits
        )

    def _residual(self, name: str, branch: str, bypass: str, waiting: int = 0) -> str:
        width = self.config.dim
        around = self._input(bypass, width, waiting, "residuals")
        return self._elementwise(name, "add", [m * width for m in self.sizes], self._input(branch, width), around)

    def _input(self, src: str, width: int, waiting: int = 0, item: str = "fifos") -> _Input:
        """A FIFO of tiles, `width` values a token; `waiting` tiles must be in it at once."""
        return _Input(src, self.sizes[0] * width, self.fifo + waiting, item)

    def _keys_or_values(self, qkv: str, width: int) -> _Input:
        """The buffer that a tile's keys (or values) stay in for as long as some tile attends to them."""
        if self.attention == "tile":
            return self._input(qkv, width, item="kv")
        tiles, values = self.tiles, self.sizes[0] * width
        if self.attention == "full":
            need, rel = (tiles,) * tiles, (*[0] * (tiles - 1), tiles)
            depth = tiles + self.fifo
        else:
            need = tuple(range(1, tiles + 1))
            rel = (*(max(0, k + 2 - self.fifo) for k in range(tiles - 1)), tiles)
            depth = window_depth(need, rel, tiles)
        return _Input(qkv, values, depth, "kv", need, rel, "end")

    def _grid_rows(self, src: str, values: int) -> _Input:
        """Rows of patches, as the tiles ask for them; tile 0 holds the class token, which is no patch."""
        grid = self.config.grid
        ends = [end - (self.config.pool == "cls") for end in accumulate(self.sizes)]
        need, rel = tuple(-(-end // grid) for end in ends), tuple(end // grid for end in ends)
        return self._lines(src, values, need, rel, grid)

    def _lines(self, src: str, values: int, need: tuple[int, ...], rel: tuple[int, ...], rows: int) -> _Input:
        latency = self.dram_latency if src == SOURCE else 1
        return _Input(src, values, window_depth(need, rel, rows), "lines", need, rel, "end", latency)

    def _source(self, reader: str, values: int, firings: int) -> str:
        """The image as it comes through the DRAM port, some rows a firing."""
        bits = values * self.precision.activations(reader)
        return self.graph.add(Operation(SOURCE, "input", amounts=(bits,) * firings, output_bits=bits))

    def _matmul(self, name: str, products: list[Product], *inputs: _Input, inner: int = 0) -> str:
        operation = Operation(
            name,
            "matmul",
            products=tuple(products),
            activation_bits=self.precision.activations(name),
            weights=self.precision.weights(name),
            output_bits=max(p.count * p.m * p.n for p in products) * self.precision.stream,
            inner_bits=inner * self.precision.stream,
        )
        return self._put(operation, inputs, operation.activation_bits)

    def _elementwise(self, name: str, kind: str, elements: list[int], *inputs: _Input, parameter_bits: int = 0) -> str:
        operation = Operation(
            name,
            kind,
            amounts=tuple(elements),
            weights=Weights(1, parameter_bits, streamable=False) if parameter_bits else None,
            output_bits=max(elements) * self.precision.stream,
        )
        return self._put(operation, inputs, self.precision.stream)

    def _put(self, operation: Operation, inputs: Sequence[_Input], bits: int) -> str:
        links = (
            Link(i.src, operation.name, i.values * bits, i.depth, i.item, i.need, i.rel, i.release, i.latency)
            for i in inputs
        )
        return self.graph.add(operation, *links)
