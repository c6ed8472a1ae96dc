"""How a supernet is trained, once for all its candidates, and how accurate they are without a training of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.space import SearchSpace
from nas.supernet import Supernet
from vit.config import ViTConfig
from vit.distillation import soft_loss
from vit.errors import require_int
from vit.evaluation import evaluate
from vit.image_set import DataSplits
from vit.recipe import Recipe
from vit.training import Batch, Row, fit

BETWEEN = 2  # candidates drawn a step, as in Yu & Huang 2019


def train_supernet(
    space: SearchSpace,
    data: DataSplits,
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    between: int = BETWEEN,
    device: str | torch.device = "cpu",
    on_epoch: Callable[[Row], None] | None = None,
) -> Supernet:
    """Train all candidates of a space at once, as parts of one network.

    Each step trains the largest candidate on the labels, and the smallest and `between` others on what the largest says
    of the same images: the sandwich rule and in-place distillation (Yu & Huang 2019, Universally Slimmable Networks).
    The loss is the sum of the largest's cross-entropy and the others' KL divergence from it, whose gradient does not
    reach the largest.

    Same arguments give the same weights, bit for bit, also when the training was killed and started again with the same
    `out`. The history's validation accuracy is that of the largest. The test images are not touched.

    Args:
        space: of candidates that can share weights (see Supernet).
        recipe: as for `fit`; its seed draws the first weights too.
        out: folder for `supernet_state.safetensors`, from which a stopped training goes on, or its end is loaded.
        between: candidates drawn a step, besides the largest and the smallest.
        on_epoch: called with each row of the history.

    Returns:
        The supernet in evaluation mode, on `device`.

    Raises:
        InputError: a field of the space whose candidates cannot share weights, and what `fit` refuses.
    """
    require_int("between", between, low=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        supernet = Supernet(space)
    loss = Sandwich(between)
    same = {"supernet": {"choices": space.to_dict()["choices"], "between": between}}
    fit(supernet, data, recipe, out, device=device, loss=loss, identity=same, on_epoch=on_epoch, name="supernet")
    return supernet


def inherited_accuracy(supernet: Supernet, config: ViTConfig, data: DataSplits) -> float:
    """Accuracy on the validation images of a candidate with the supernet's weights, without training it.

    Raises:
        InputError: no candidate of the supernet's space.
    """
    return evaluate(supernet.subnet(config), data.val).accuracy


class Sandwich:
    """The loss of one step: the largest learns the labels, the smallest and some between learn from the largest."""

    def __init__(self, between: int) -> None:
        self.between = between

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, Supernet)
        said = model(batch.images)
        loss = F.cross_entropy(said, batch.targets, label_smoothing=batch.label_smoothing)
        drawn = int(torch.randint(2**31, ()))  # `fit` seeds torch at every epoch
        for config in (model.smallest, *model.sample(self.between, drawn)):
            loss = loss + soft_loss(model(batch.images, config), said.detach(), temp=1.0)
        return loss
