"""The shape of a VisionTransformer, as a value that can be compared, stored and validated. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from vit.errors import InputError, require_choice, require_float, require_int, require_known_keys

STEMS = ("patch", "conv")
POOLS = ("cls", "mean", "seq")
CONV_STEM_WIDTH = 64  # in_planes of CCT's tokenizer (Hassani et al. 2021)

LARGEST = {  # beyond it is a slip of the finger, which would fill the memory before it fails
    "image_size": 8192,
    "patch_size": 8192,
    "in_channels": 4096,
    "num_classes": 1_000_000,
    "dim": 65_536,
    "depth": 4096,
    "heads": 65_536,
}


@dataclass(frozen=True)
class ViTConfig:
    """Shape of a pre-norm Vision Transformer for square images.

    Attributes:
        image_size: height and width of the input, pixels.
        patch_size: pixels a token covers along each axis; divides image_size. With stem "conv" a power of two >= 2.
        in_channels: channels of the input.
        num_classes: width of the classifier.
        dim: width of a token.
        depth: number of transformer blocks.
        heads: attention heads a block; divides dim unless head_dim is given.
        mlp_ratio: hidden width of the MLP over dim.
        stem: "patch" (one strided convolution, Dosovitskiy et al. 2021) or "conv" (the tokenizer of CCT, Hassani et al.
            2021: log2(patch_size) times 3x3 convolution, ReLU, 3x3 max-pooling with stride 2).
        pool: "cls" (class token), "mean" (mean of the tokens) or "seq" (attention-weighted mean, CCT's SeqPool).
        drop_path: stochastic depth rate of the last block; grows linearly from 0 at the first (Huang et al. 2016).
        head_dim: width of one head; None means dim // heads. Set when heads were pruned away.
        block_heads: heads of each block where they differ (structured pruning); None means `heads` everywhere.
        block_hidden: MLP width of each block where it differs; None means int(dim * mlp_ratio) everywhere.

    Raises:
        InputError: a field is out of its range, or fields contradict one another.
    """

    image_size: int = 32
    patch_size: int = 4
    in_channels: int = 3
    num_classes: int = 10
    dim: int = 128
    depth: int = 3
    heads: int = 4
    mlp_ratio: float = 2.0
    stem: str = "patch"
    pool: str = "cls"
    drop_path: float = 0.0
    head_dim: int | None = None
    block_heads: tuple[int, ...] | None = None
    block_hidden: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name, largest in LARGEST.items():
            require_int(name, getattr(self, name), 1, largest)
        object.__setattr__(self, "mlp_ratio", require_float("mlp_ratio", self.mlp_ratio, 0, 64, open_low=True))
        object.__setattr__(self, "drop_path", require_float("drop_path", self.drop_path, 0, 1, open_high=True))
        require_choice("stem", self.stem, STEMS)
        require_choice("pool", self.pool, POOLS)
        if self.image_size % self.patch_size:
            divisors = [d for d in range(1, self.image_size + 1) if self.image_size % d == 0]
            raise InputError("patch_size", self.patch_size, f"a divisor of image_size {self.image_size}: {divisors}")
        if self.stem == "conv" and (self.patch_size < 2 or self.patch_size & (self.patch_size - 1)):
            raise InputError("patch_size", self.patch_size, 'a power of two >= 2 with stem "conv"')
        if self.head_dim is not None:
            require_int("head_dim", self.head_dim)
        elif self.dim % self.heads:
            near = [h for h in range(1, self.dim + 1) if self.dim % h == 0 and h <= 2 * self.heads]
            raise InputError("heads", self.heads, f"a divisor of dim {self.dim}", f"try one of {near[-6:]}")
        if self.hidden < 1:
            raise InputError(
                "mlp_ratio", self.mlp_ratio, f"at least 1/dim = {1 / self.dim:g}, so that one unit is left"
            )
        for name in ("block_heads", "block_hidden"):
            self._check_per_block(name)

    def _check_per_block(self, name: str) -> None:
        value = getattr(self, name)
        if value is None:
            return
        if not isinstance(value, (list, tuple)) or len(value) != self.depth:
            raise InputError(name, value, f"{self.depth} whole numbers, one a block")
        object.__setattr__(self, name, tuple(require_int(name, width) for width in value))

    @property
    def grid(self) -> int:
        """Tokens along each axis of the image."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Tokens in the sequence, the class token included."""
        return self.grid**2 + (self.pool == "cls")

    @property
    def hidden(self) -> int:
        """MLP width of an unpruned block."""
        return int(self.dim * self.mlp_ratio)

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.head_dim or self.dim // self.heads

    def heads_of(self, block: int) -> int:
        """Attention heads of the given block."""
        return self.block_heads[block] if self.block_heads else self.heads

    def hidden_of(self, block: int) -> int:
        """MLP width of the given block."""
        return self.block_hidden[block] if self.block_hidden else self.hidden

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values; widths that were never pruned are left out."""
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        return {name: v for name, v in plain.items() if v is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ViTConfig:
        """The configuration in a mapping as `to_dict` gives it; missing fields take their defaults.

        Raises:
            InputError: an unknown field (the nearest known one is suggested), or a value out of range.
        """
        if not isinstance(values, Mapping):
            raise InputError("config", values, "a table of ViTConfig fields")
        require_known_keys("config", values, [f.name for f in fields(cls)])
        return cls(**values)
