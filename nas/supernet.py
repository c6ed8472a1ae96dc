"""A weight-sharing supernet: one network whose parts are the candidates of a search space."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nas.fields import ACTIVATIONS, HARDWARE, WEIGHTS, key_of, pattern_of
from nas.space import SearchSpace
from vit.config import ViTConfig
from vit.errors import InputError
from vit.model import VisionTransformer

SHARED = ("dim", "depth", "heads", "mlp_ratio", "head_dim")  # fields in which a candidate is part of a larger one
WITHOUT_WEIGHTS = ("tile", "fifo")  # with full attention they change what a candidate costs, not what it computes


class Supernet(nn.Module):
    """The largest VisionTransformer of a space; every candidate of the space is a part of it and shares its weights.

    A candidate has the first `dim` channels of each token, the first `depth` blocks, the first hidden units of each
    MLP, and the first channels of queries, keys and values, cut into heads of its own: AutoFormer (Chen et al. 2021),
    with depth as in Once-for-All (Cai et al. 2020). The first weights are drawn from torch's generator.

    Input and output are those of VisionTransformer. Called without a config, it is the largest candidate.

    Attributes:
        space: what the candidates come from.
        largest, smallest: the candidates with the most and with the fewest channels, blocks and hidden units.
        whole: the VisionTransformer of `largest`: all weights.

    Raises:
        InputError: a field has several values whose candidates cannot share weights, such as stem or patch_size, or
            attention is not full; or quantised weights.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        _require_shared(space)
        one_of_each = {name: v[:1] if _has_no_weights(name) else v for name, v in space.choices.items()}
        shapes = [space.config(params) for params in SearchSpace(one_of_each, space.fixed)]
        self.space, self.candidates = space, frozenset(shapes)
        self.largest, self.smallest = max(shapes, key=_size), min(shapes, key=_size)
        self.whole = VisionTransformer(self.largest)
        self._shells: dict[ViTConfig, VisionTransformer] = {}

    def forward(self, images: Tensor, config: ViTConfig | None = None) -> Tensor:
        logits: Tensor
        if config is None or config == self.largest:
            logits = self.whole(images)
        else:
            shell = self._shell(config).train(self.training)
            logits = functional_call(shell, self._parts(shell), (images,))
        return logits

    def sample(self, count: int, seed: int = 0) -> list[ViTConfig]:
        """`count` candidates, each drawn from the whole space with equal chances (repeats are possible)."""
        return [self.space.config(params) for params in self.space.sample(count, seed)]

    def subnet(self, config: ViTConfig) -> VisionTransformer:
        """A candidate as a plain network in evaluation mode, with copies of its weights.

        Raises:
            InputError: no candidate of the space.
        """
        shell = self._shell(config)
        with torch.random.fork_rng(devices=[]):  # the fresh weights are thrown away: draw nothing from the caller's
            model = VisionTransformer(config).to(self.whole.pos_embed.device)
        model.load_state_dict(self._parts(shell))
        return model.eval()

    def _shell(self, config: ViTConfig) -> VisionTransformer:
        """The candidate without weights of its own, made once."""
        if config not in self.candidates:
            raise InputError("config", config.to_dict(), "a candidate of the supernet's space")
        if config not in self._shells:
            with torch.device("meta"):
                self._shells[config] = VisionTransformer(config)
        return self._shells[config]

    def _parts(self, shell: VisionTransformer) -> dict[str, Tensor]:
        """{name: its part of the shared weight} for every parameter of a candidate."""
        whole = dict(self.whole.named_parameters())
        return {name: _part(name, whole[name], parameter.shape) for name, parameter in shell.named_parameters()}


def shareable(space: SearchSpace) -> SearchSpace:
    """The space with one value of each field that candidates cannot differ in: the finest patches, else the first.

    >>> space = SearchSpace({"dim": [8, 16], "patch_size": [4, 2], "stem": ["patch", "conv"]}, {"heads": 1})
    >>> shareable(space)
    SearchSpace(choices={'dim': (8, 16)}, fixed={'heads': 1, 'patch_size': 2, 'stem': 'patch'})
    """
    kept = {name: values for name, values in space.choices.items() if name in SHARED or _has_no_weights(name)}
    single = {
        name: min(values) if name == "patch_size" else values[0]
        for name, values in space.choices.items()
        if name not in kept and not _is_rounding(name)
    }
    fixed = {name: value for name, value in space.fixed.items() if not _is_rounding(name)}
    conditions = {name: others for name, others in space.when.items() if name in kept and others.keys() <= kept.keys()}
    return SearchSpace(kept, {**fixed, **single}, conditions)


def _part(name: str, weight: Tensor, shape: torch.Size) -> Tensor:
    """The first places of a weight along every axis, up to `shape`; of queries, keys and values each, in `qkv`."""
    if ".qkv." in name:
        three = weight.view(3, -1, *weight.shape[1:])
        return _part("", three, torch.Size((3, shape[0] // 3, *shape[1:]))).flatten(0, 1)
    return weight[tuple(slice(length) for length in shape)]


def _size(config: ViTConfig) -> tuple[float, ...]:
    return config.dim, config.depth, config.mlp_ratio, config.heads * config.head_width, config.heads


def _has_no_weights(name: str) -> bool:
    return name in (*WITHOUT_WEIGHTS, HARDWARE) or bool(key_of(name))


def _is_rounding(name: str) -> bool:
    return name in (WEIGHTS, ACTIVATIONS) or bool(pattern_of(name))


def _require_shared(space: SearchSpace) -> None:
    for name in (*space.choices, *space.fixed):
        if _is_rounding(name):
            raise InputError("space", name, "left out with a supernet", "its weights are float")
    for name, values in space.choices.items():
        if not (name in SHARED or _has_no_weights(name) or _is_rounding(name)) and len(values) > 1:
            hint = f"its candidates share weights over {', '.join(SHARED)}, not over {name}"
            raise InputError(f"space.{name}", list(values), "a single value with a supernet", hint)
    attention = space.choices.get("attention", (space.value({}, "attention"),))[0]
    if attention != "full":
        raise InputError("space.attention", attention, "full with a supernet", "it is trained without tiles")
