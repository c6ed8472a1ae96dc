"""What a search is about: its candidates, what they cost, how they are trained, who proposes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler

from nas.cost_aware import CostAwareSampler
from nas.costs import METRICS, TRAINED, Constraint, Costs
from nas.pool import Encoder
from nas.samplers import GENERAL, FeasibleSampler, general_sampler, seed_of
from nas.space import Params, SearchSpace
from vit.errors import InputError, require_choice, require_int
from vit.layers import layers_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fifo_sim import Hardware
    from nas.supernet import Supernet
    from vit.image_set import DataSplits
    from vit.recipe import Recipe

OBJECTIVES = ("accuracy", "params", "cycles")
SAMPLERS = ("cost-aware", *GENERAL)
STARTUP = 6  # trials before the cost-aware sampler models accuracy: trainings are dear, studies short
POOL = 1024  # candidates whose costs are computed for the cost-aware sampler: each takes some milliseconds
DRAWS, LISTED = 64, 65_536  # candidates drawn to find a feasible one; looked at before saying that there is none
SUPERNET = "supernet"  # setting of a study: the weights that its accuracies are inherited from, or null
NOTHING_TRAINED = "its candidates are not trained"
EPOCHS = 8  # of a candidate, where no recipe is given


class Task:
    """Everything about a search but its study. The arguments are those of `nas.search`."""

    def __init__(
        self,
        space: SearchSpace,
        data: DataSplits,
        hardware: Hardware | str | Path | None,
        objectives: Sequence[str],
        constraints: Sequence[str],
        seed: int,
        recipe: Recipe | None,
        sampler: str | Callable[[int], BaseSampler],
        device: str | torch.device,
        supernet: Supernet | None = None,
    ) -> None:
        _require_kinds(space, data, recipe, supernet)
        self.space, self.data, self.device, self.supernet = space, data, device, supernet
        self.seed = require_int("seed", seed, low=0)
        self.objectives = _objectives(objectives)
        self.constraints = [Constraint.parse(text) for text in constraints]
        self._require_fit()
        if supernet is not None:
            if supernet.space != space:
                raise InputError("supernet", supernet.space.to_dict(), "one of the very space that is searched")
            if recipe is not None:
                raise InputError("recipe", recipe, "left out with a supernet", NOTHING_TRAINED)
        exact = [name for name in self.objectives if name not in TRAINED]
        self.costs = Costs(space, hardware, [*exact, *(c.metric for c in self.constraints)])
        self.recipe = recipe or _default_recipe(data.name, seed)
        self.distributions: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(values) for name, values in space.choices.items()
        }
        self._encode = Encoder(self.distributions)
        if not callable(sampler):
            require_choice("sampler", sampler, SAMPLERS)
        self._sampler = sampler
        self.any_candidate(seed)  # there is one
        known = {i: self.costs.of(name) for i, name in enumerate(self.objectives) if name not in TRAINED}
        self._cost_aware: BaseSampler | None = None
        if known:
            self._cost_aware = CostAwareSampler(
                self.distributions,
                known,
                self.violations,
                seed,
                startup=STARTUP,
                pool=POOL,
                draw=space.sample,
                retry=True,
            )

    def traits(self, params: Params) -> tuple[float, ...]:
        """A candidate as numbers, the nearer the more alike (`nas.pool.Encoder`)."""
        return tuple(self._encode([params])[0].tolist())

    def sampler(self, begun: int) -> BaseSampler:
        """The sampler of the trial that starts after `begun` finished and running ones."""
        if self._sampler == "cost-aware" and self._cost_aware is not None:
            return self._cost_aware
        seed = seed_of(self.seed, begun)
        if callable(self._sampler):
            inner = self._sampler(seed)
        else:
            inner = general_sampler("tpe" if self._sampler == "cost-aware" else self._sampler, seed)
        return FeasibleSampler(
            inner, self.distributions, lambda p: not any(self.violations(p)), lambda: self.any_candidate(seed)
        )

    def any_candidate(self, seed: int) -> Params:
        """A feasible candidate drawn by the seed; an InputError, told with what refuses how many, if there is none."""
        for params in self.space.sample(DRAWS, seed):
            if not self.costs.broken(params, self.constraints):
                return params
        listed = self.space if len(self.space) <= LISTED else self.space.sample(LISTED, seed)
        return self.costs.feasible(listed, self.constraints)[0]

    @property
    def epochs(self) -> int:
        """Of the training of a candidate; none where it inherits its weights."""
        return self.recipe.epochs if self.supernet is None else 0

    def violations(self, params: Params) -> list[float]:
        """[1.0] for a candidate that may not be trained, [0.0] for one that may."""
        broken = self.space.broken_rules(params) or self.costs.broken(params, self.constraints)
        return [float(bool(broken))]

    def settings(self) -> dict[str, Any]:
        """What the values of the trials depend on."""
        return {
            "space": self.space.to_dict(),
            "data": {"name": self.data.name, "images": _digest(self.data)},
            "hardware": None if self.costs.hardware is None else self.costs.hardware.to_dict(),
            "machines": self.costs.named_machines() or None,
            "objectives": list(self.objectives),
            "constraints": [str(constraint) for constraint in self.constraints],
            "seed": self.seed,
            "recipe": None if self.supernet is not None else asdict(self.recipe),
            "sampler": self._sampler if isinstance(self._sampler, str) else "own",
            SUPERNET: None if self.supernet is None else {"weights": self._checksum(self.supernet)},
        }

    def accuracy(self, params: Params, on_epoch: Callable[[dict[str, float]], None]) -> float:
        """Validation accuracy of a candidate after training by the recipe."""
        return trained_accuracy(self.space, params, self.data, self.recipe, self.device, on_epoch)

    def inherited_accuracy(self, params: Params) -> float:
        """Validation accuracy of a candidate with the weights of the supernet, of which there is one."""
        from nas.supernet_training import inherited_accuracy

        assert self.supernet is not None
        return inherited_accuracy(self.supernet, self.space.config(params), self.data)

    def trained_by(self, params: Params) -> str:
        """What the accuracy of a candidate depends on: tile and FIFO depth count only where they cut attention."""
        streaming = self.space.streaming(params)
        config, quantisation = self.space.config(params), self.space.quantisation(params)
        parts: list[Any] = [config.to_dict(), streaming if streaming["attention"] != "full" else None]
        if quantisation is not None:
            schemes = [quantisation.scheme_of(layer.name) for layer in layers_of(config)]
            parts += [schemes, quantisation.activations]
        return json.dumps(parts, sort_keys=True)

    def _checksum(self, supernet: Supernet) -> str:
        from vit.resume import fingerprint

        return str(fingerprint(supernet.whole, self.data, self.recipe)["model"])

    def _require_fit(self) -> None:
        for name in ("image_size", "in_channels", "num_classes"):
            have, want = self.space.value({}, name), getattr(self.data, name)
            if have != want:
                raise InputError(f"space.fixed.{name}", have, f"{want}, as in data {self.data.name}")


def trained_accuracy(
    space: SearchSpace,
    params: Params,
    data: DataSplits,
    recipe: Recipe,
    device: str | torch.device,
    on_epoch: Callable[[dict[str, float]], None],
) -> float:
    """Validation accuracy of a candidate after training, with the weights and attention that its hardware computes.

    A quantised candidate is rounded from its first step on.
    """
    import torch

    from vit.model import VisionTransformer
    from vit.training import fit

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model: nn.Module = VisionTransformer(space.config(params))
    quantisation = space.quantisation(params)
    if quantisation is not None:
        from quant import prepare_qat

        model = prepare_qat(model, quantisation)
    if space.value(params, "attention") != "full":
        from fifo_sim import streaming

        model = streaming(model, **space.streaming(params))
    return fit(model, data, recipe, device=device, on_epoch=on_epoch).val_accuracy


def _require_kinds(space: object, data: object, recipe: object, supernet: object) -> None:
    """Refuse an argument of `nas.search` that is of another kind, such as a name in place of what it names."""
    from vit.image_set import DataSplits
    from vit.recipe import Recipe

    if not isinstance(space, SearchSpace):
        raise InputError("space", space, "a nas.SearchSpace", "nas.SearchSpace.load reads one from a TOML file")
    if not isinstance(data, DataSplits):
        raise InputError("data", data, "a vit.DataSplits", "vit.load_data gives one for a name or a folder")
    if recipe is not None and not isinstance(recipe, Recipe):
        raise InputError("recipe", recipe, "a vit.Recipe or None", "vit.Recipe(**fields) makes one")
    if supernet is not None:
        from nas.supernet import Supernet

        if not isinstance(supernet, Supernet):
            raise InputError("supernet", supernet, "a nas.Supernet or None", "nas.train_supernet gives one")


def _objectives(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not names:
        raise InputError("objectives", names, "a list of at least one of " + ", ".join(METRICS))
    for name in names:
        require_choice("objectives", name, METRICS)
    if len(set(names)) < len(names):
        raise InputError("objectives", list(names), "objectives that differ")
    return tuple(names)


def _default_recipe(data: str, seed: int) -> Recipe:
    from vit.recipe import Recipe

    return Recipe.for_data(data, epochs=EPOCHS, seed=seed)


def _digest(data: DataSplits) -> str:
    """SHA-256 of the training and validation images and labels."""
    digest = hashlib.sha256()
    for part in (data.train, data.val):
        for tensor in (part.images, part.labels):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
