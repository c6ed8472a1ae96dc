"""Multiply-accumulates of any model, counted as its operators run."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten


def _fused_attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """FLOPs of softmax(Q K^T) V: (…, queries, width) by (…, keys, width), then by (…, keys, value width)."""
    return 2 * prod(query) * key[-2] + 2 * prod(query[:-1]) * value[-2] * value[-1]


# torch counts every fused attention but the one that its CPU build runs.
FUSED_ON_CPU = {aten._scaled_dot_product_flash_attention_for_cpu: _fused_attention_flops}


def count_macs(model: nn.Module, images: torch.Tensor) -> int:
    """Multiply-accumulates of one forward pass in evaluation mode.

    Counts every multiplication of linear layers, convolutions and both products of attention, fused or not, in any
    module. Not counted, by convention: elementwise products (norms, activations, softmax, quantisers' scales).
    1 MAC is one multiplication and its addition; FLOPs are twice the MACs.

    Args:
        images: (B, C, H, W) as the model takes them; the count is of the whole batch.
    """
    was_training, fast_path = model.training, torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)  # nn.MultiheadAttention's one opaque operator
    try:
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=FUSED_ON_CPU) as counter:
            model(images)
    finally:
        model.train(was_training)
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return counter.get_total_flops() // 2
