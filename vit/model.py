"""The Vision Transformer, readable on one screen: pre-norm blocks, two stems, three poolings."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vit.config import CONV_STEM_WIDTH, ViTConfig


class PatchStem(nn.Module):
    """One strided convolution: every patch becomes a token."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.in_channels, config.dim, config.patch_size, stride=config.patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, tokens, dim)


class ConvStem(nn.Module):
    """CCT's tokenizer: log2(patch_size) times 3x3 convolution without bias, ReLU, 3x3 max-pooling with stride 2."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        count = config.patch_size.bit_length() - 1
        widths = [config.in_channels] + [CONV_STEM_WIDTH] * (count - 1) + [config.dim]
        self.convs = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 3, padding=1, bias=False) for i in range(count))

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for conv in self.convs:
            x = F.max_pool2d(F.relu(conv(x)), kernel_size=3, stride=2, padding=1)  # (B, width, H/2, W/2)
        return x.flatten(2).transpose(1, 2)  # (B, tokens, dim)


class ScaledDotProduct(nn.Module):
    """The core of attention; the quantiser and `streaming` put their own in its place, called in the same way.

    Each of q, k, v and the context is (B, heads, T, head_dim). A query attends where `mask` (bool, broadcastable to
    (B, heads, T, T), one place a row at least) is True, without a mask to all tokens.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class Attention(nn.Module):
    """Multi-head self-attention; `core` is what turns queries, keys and values into context."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.qkv = nn.Linear(dim, 3 * heads * head_dim)
        self.core: nn.Module = ScaledDotProduct()
        self.proj = nn.Linear(heads * head_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, head_dim)
        context = self.core(q, k, v).transpose(1, 2).reshape(batch, tokens, self.heads * self.head_dim)
        return self.proj(context)


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class DropPath(nn.Module):
    """Stochastic depth: while training, drop the whole branch of an image with probability `rate`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = torch.rand(x.shape[0], 1, 1, device=x.device) >= self.rate
        return x * keep / (1.0 - self.rate)


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ViTConfig, index: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=1e-6)
        self.attn = Attention(config.dim, config.heads_of(index), config.head_width)
        self.norm2 = nn.LayerNorm(config.dim, eps=1e-6)
        self.mlp = MLP(config.dim, config.hidden_of(index))
        self.drop_path = DropPath(config.drop_path * index / max(1, config.depth - 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    """A small Vision Transformer (Dosovitskiy et al. 2021) of the shape in `config`.

    Input: images (B, in_channels, image_size, image_size), normalised floats. Output: logits (B, num_classes).
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = ConvStem(config) if config.stem == "conv" else PatchStem(config)
        if config.pool == "cls":
            self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.tokens, config.dim))
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        if config.pool == "seq":
            self.pool_score = nn.Linear(config.dim, 1)
        self.head = nn.Linear(config.dim, config.num_classes)
        self._initialise()

    def _initialise(self) -> None:
        """Every product keeps the variance of its input (LeCun et al. 1998), and positions are as loud as patches.

        DeiT's deviation of 0.02 everywhere is made for dim 768: at dim 64 it learns several times slower.
        """
        nn.init.trunc_normal_(self.pos_embed, std=0.5)
        if self.config.pool == "cls":
            nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu" if module.bias is None else "linear")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward_features(self, images: Tensor) -> Tensor:
        """The normalised tokens after the last block, (B, tokens, dim)."""
        x = self.stem(images)
        if self.config.pool == "cls":
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def pool(self, tokens: Tensor) -> Tensor:
        """One vector an image from its tokens: (B, tokens, dim) -> (B, dim)."""
        if self.config.pool == "cls":
            return tokens[:, 0]
        if self.config.pool == "mean":
            return tokens.mean(dim=1)
        weights = self.pool_score(tokens).softmax(dim=1)  # (B, tokens, 1)
        return (weights.transpose(1, 2) @ tokens).squeeze(1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.forward_features(images)))
