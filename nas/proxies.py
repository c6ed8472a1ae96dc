"""Zero-cost proxies: what an untrained network tells of its accuracy. They have to beat counting its parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from vit.errors import InputError, require_choice
from vit.model import MLP, Attention, VisionTransformer


def count(model: VisionTransformer, images: Tensor, labels: Tensor) -> float:
    """Logarithm of the number of parameters: the baseline that a proxy has to beat."""
    return float(np.log(sum(weight.numel() for weight in model.parameters())))


def grad_norm(model: VisionTransformer, images: Tensor, labels: Tensor) -> float:
    """Euclidean norm of the gradient of the cross-entropy of one batch (Abdelfattah et al. 2021)."""
    loss = F.cross_entropy(model(images), labels)
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return float(torch.stack([g.norm() for g in gradients if g is not None]).norm())


def synflow(model: VisionTransformer, images: Tensor, labels: Tensor) -> float:
    """Logarithm of the sum of |weight * gradient| of what flows through the absolute weights (Tanaka et al. 2020).

    No data is looked at: the image is all ones. Norms are left out and every token attends to all alike, as neither
    conserves the flow; queries and keys so get none. In float64, as the flow grows with every layer.
    """
    copied = copy.deepcopy(model).double().eval()
    for norm in [name for name, module in copied.named_modules() if isinstance(module, nn.LayerNorm)]:
        parent, _, child = norm.rpartition(".")
        setattr(copied.get_submodule(parent), child, nn.Identity())
    for module in copied.modules():
        if isinstance(module, Attention):
            module.core = _Uniform()
    with torch.no_grad():
        for weight in copied.parameters():
            weight.abs_()
    weights = list(copied.parameters())
    flow = copied(torch.ones_like(images[:1], dtype=torch.float64)).sum()
    gradients = torch.autograd.grad(flow, weights, allow_unused=True)
    parts = [(w * g).abs().sum() for w, g in zip(weights, gradients, strict=True) if g is not None]
    return float(torch.stack(parts).sum().log().detach())


def naswot(model: VisionTransformer, images: Tensor, labels: Tensor) -> float:
    """How differently images switch the hidden units on: log-determinant of the agreement of their codes.

    A code has one bit for each hidden unit of each MLP and token: whether its input is positive. The kernel counts the
    bits in which two images agree (Mellor et al. 2021); a millionth of all bits on its diagonal
    keeps it regular where two images have one code.
    """
    codes: list[Tensor] = []
    hooks = [
        mlp.act.register_forward_hook(lambda _, inputs, __: codes.append((inputs[0] > 0).flatten(1)))
        for mlp in model.modules()
        if isinstance(mlp, MLP)
    ]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    bits = torch.cat(codes, dim=1).double()
    agreement = bits @ bits.T + (1 - bits) @ (1 - bits).T
    regular = 1e-6 * bits.shape[1] * torch.eye(len(bits), dtype=torch.float64)
    return float(torch.linalg.slogdet(agreement + regular).logabsdet)


PROXIES: Mapping[str, Callable[[VisionTransformer, Tensor, Tensor], float]] = {
    "params": count,
    "grad_norm": grad_norm,
    "synflow": synflow,
    "naswot": naswot,
}


def score(model: VisionTransformer, proxy: str, images: Tensor, labels: Tensor) -> float:
    """What a proxy says of an untrained model: higher is meant to be better. The model stays as it is.

    Args:
        proxy: one of PROXIES.
        images, labels: a batch of normalised training images (B, C, H, W) and their classes (B,).

    Raises:
        InputError: an unknown proxy.
    """
    require_choice("proxy", proxy, PROXIES)
    was_training = model.training
    model.eval()
    try:
        return PROXIES[proxy](model, images, labels)
    finally:
        model.train(was_training)


def rank_correlation(scores: Sequence[float], accuracies: Sequence[float]) -> dict[str, float]:
    """{"spearman", "kendall"} of scores with trained accuracies; Kendall's is tau-b, which allows for ties.

    Raises:
        InputError: fewer than two, or not as many of the one as of the other.
    """
    if len(scores) != len(accuracies) or len(scores) < 2:
        raise InputError("scores", len(scores), f"as many as accuracies ({len(accuracies)}), at least 2")
    return {
        "spearman": float(spearmanr(scores, accuracies).statistic),
        "kendall": float(kendalltau(scores, accuracies).statistic),
    }


class _Uniform(nn.Module):
    """Attention of every token to all alike: the mean of the values."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Any = None) -> Tensor:
        return v.mean(dim=2, keepdim=True).expand_as(v)
