"""AdamW with warm-up, cosine and clipping, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vit.recipe import Recipe


def learning_rate(step: int, total_steps: int, recipe: Recipe) -> float:
    """Rate of the step counted from 0: linear from lr / warm-up steps to lr, then half a cosine towards zero."""
    warmup = round(recipe.warmup * total_steps)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trained parameters in two groups: weight matrices and kernels decay, everything else does not."""
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_weight = name.endswith(("weight", "weight.original")) and parameter.ndim >= 2
            (decayed if is_weight else free).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


class Optimiser:
    """AdamW on its schedule, for exactly `total_steps` steps."""

    def __init__(self, model: nn.Module, recipe: Recipe, total_steps: int) -> None:
        self.recipe, self.total_steps = recipe, total_steps
        self.adamw = torch.optim.AdamW(parameter_groups(model, recipe.weight_decay), lr=recipe.lr, fused=True)
        self.parameters = [parameter for group in self.adamw.param_groups for parameter in group["params"]]

    def step(self, loss: Tensor, step: int) -> None:
        """Take the step counted from 0, against the gradient of `loss`."""
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate(step, self.total_steps, self.recipe)
        self.adamw.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.recipe.clip_grad:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_grad)
        self.adamw.step()

    def state(self) -> dict[str, Tensor]:
        """AdamW's moments and counters, by index of the parameter and name."""
        state: dict[int, dict[str, Tensor]] = self.adamw.state_dict()["state"]
        return {f"{index}/{name}": value for index, values in state.items() for name, value in values.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave; the fused kernel needs the moments in their parameter's memory layout."""
        restored: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            index, _, name = key.partition("/")
            if value.ndim:
                value = torch.empty_like(self.parameters[int(index)]).copy_(value)
            restored.setdefault(int(index), {})[name] = value
        self.adamw.load_state_dict({**self.adamw.state_dict(), "state": restored})


class WeightAverage:
    """Exponential moving average of a model's trained parameters and floating-point buffers.

    The decay of a step is min(decay, (1 + step) / (10 + step)), so that the first weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        running = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self.live: list[Tensor] = [*trained, *running]
        self.average = [tensor.detach().clone() for tensor in self.live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, [tensor.detach() for tensor in self.live], 1 - decay)

    def swap(self) -> None:
        """Exchange the model's weights and the average."""
        for live, average in zip(self.live, self.average, strict=True):
            live.data, average.data = average.data, live.data

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block, the model has the averaged weights."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def state(self) -> dict[str, Tensor]:
        """The averages, by index."""
        return {str(i): tensor for i, tensor in enumerate(self.average)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        for i, tensor in enumerate(self.average):
            tensor.copy_(state[str(i)])
