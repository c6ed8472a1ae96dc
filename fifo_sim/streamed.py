"""The network as streaming hardware computes it: attention tile by tile, in what a tile can see."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from fifo_sim.vit_graph import require_streaming
from vit.attention_core import attentions, put_core
from vit.model import ScaledDotProduct


def streaming(model: nn.Module, tile: int = 8, fifo: int = 4, attention: str = "full") -> nn.Module:
    """A copy of the model whose attention computes what a streaming machine computes; `model` stays as it is.

    Args:
        model: a VisionTransformer (plain, pruned or prepared for QAT), or a timm ViT or DeiT likewise.
        tile: tokens in a tile, the class token first; the last tile may be shorter.
        fifo: "window": how many tiles a tile attends to, itself the last of them. Otherwise it changes no value.
        attention: "full": every token sees every token; a float core does so tile by tile with a running softmax, equal
            to the plain model within rounding. "tile": a tile attends within itself. "window": see `fifo`.

    Raises:
        InputError: tile, fifo or attention is out of range, or the model is no plain Vision Transformer.
    """
    require_streaming(tile, fifo, attention)
    copied = copy.deepcopy(model)
    for layer, core in attentions(copied):
        put_core(layer, StreamingCore(core, tile, fifo, attention).train(core.training))
    return copied


class StreamingCore(nn.Module):
    """Attention restricted to what a tile sees, around a core that multiplies, rounds and normalises as it always does.

    Args:
        core: ScaledDotProduct, or any module called in the same way.
    """

    def __init__(self, core: nn.Module, tile: int, fifo: int, attention: str) -> None:
        super().__init__()
        self.core, self.tile, self.fifo, self.attention = core, tile, fifo, attention

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.attention != "full":
            return self.core(q, k, v, tile_mask(q.shape[-2], self.tile, self.reach).to(q.device))
        if isinstance(self.core, ScaledDotProduct):
            return running_softmax(q, k, v, self.tile)
        return self.core(q, k, v)

    @property
    def reach(self) -> int:
        """Tiles that a tile attends to."""
        return self.fifo if self.attention == "window" else 1

    def extra_repr(self) -> str:
        return f"tile={self.tile}, fifo={self.fifo}, attention={self.attention!r}"


def tile_mask(tokens: int, tile: int, reach: int) -> Tensor:
    """Where a token attends: (tokens, tokens) bool, True for the last `reach` tiles up to the token's own."""
    index = torch.arange(tokens) // tile
    behind = index[:, None] - index[None, :]
    return (behind >= 0) & (behind < reach)


def running_softmax(q: Tensor, k: Tensor, v: Tensor, tile: int) -> Tensor:
    """softmax(q kᵀ / sqrt(head_dim)) v, seeing one tile of keys and values at a time.

    A running maximum and sum correct what was added before (Milakov & Gimelshein 2018, "Online normalizer calculation
    for softmax"). Sums are kept in float64, so that the tile leaves no trace. Shapes (B, heads, T, head_dim).
    """
    scaled = q.double() * q.shape[-1] ** -0.5
    largest = torch.full_like(scaled[..., :1], -math.inf)
    total, context = torch.zeros_like(largest), torch.zeros_like(scaled)
    for keys, values in zip(torch.split(k.double(), tile, dim=-2), torch.split(v.double(), tile, dim=-2), strict=True):
        scores = scaled @ keys.transpose(-2, -1)  # (B, heads, T, tile)
        larger = torch.maximum(largest, scores.amax(-1, keepdim=True))
        weights, correction = (scores - larger).exp(), (largest - larger).exp()
        total = total * correction + weights.sum(-1, keepdim=True)
        context = context * correction + weights @ values
        largest = larger
    return (context / total).to(q.dtype)
