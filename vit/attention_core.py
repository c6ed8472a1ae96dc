"""The replaceable core of each attention layer: our own layers have one, timm's are given one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from vit.layers import config_of
from vit.model import Attention, ScaledDotProduct


class AttentionWithCore:
    """Mixed into timm's plain attention: what turns queries, keys and values into context is its `core`, as in ours."""

    def forward(self: Any, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, head_dim)
        context = self.core(q, k, v) if attn_mask is None else self.core(q, k, v, attn_mask)
        return self.proj_drop(self.proj(context.transpose(1, 2).reshape(batch, tokens, -1)))


def attentions(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Each attention layer of a model, with its core (timm's layers without one: the plain ScaledDotProduct).

    Raises:
        InputError: neither a VisionTransformer nor a plain timm ViT or DeiT.
    """
    config_of(model)
    for block in model.blocks:  # type: ignore[union-attr]
        layer: Any = block.attn
        yield layer, getattr(layer, "core", None) or ScaledDotProduct()


def put_core(layer: nn.Module, core: nn.Module) -> None:
    """Let an attention layer compute with this core from now on."""
    if not isinstance(layer, (Attention, AttentionWithCore)):
        layer.__class__ = subclass(type(layer), AttentionWithCore)
    layer.core = core


def subclass(base: type, mixin: type) -> Any:
    """`base` with `mixin` in front, under base's own name: the other packages know timm's classes by it."""
    return type(base.__name__, (mixin, base), {"__module__": base.__module__})
