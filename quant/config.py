"""How a network is to be quantised, as a value that can be compared, stored and validated. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

from quant.level_sets import SCHEMES
from vit.errors import InputError, did_you_mean, require_choice, require_known_keys

FLOAT = "float"
ACTIVATIONS = ("int8", "int6", "int4", FLOAT)
UNIFORM, LOG2 = "uniform", "log2"
PROBABILITIES = (UNIFORM, LOG2)


@dataclass(frozen=True)
class QuantConfig:
    """Which layer's weights and activations take which levels.

    Attributes:
        weights: a scheme ("pot4" "pot6" "apot4" "apot6" "int4" "int6" "int8"), or a table from layer pattern to scheme,
            e.g. {"blocks.*.mlp.*": "apot6", "*": "pot4"}; the first pattern that fits a layer counts, and a layer that
            none fits stays in float.
        activations: "int8", "int6", "int4", or "float" for weights alone. Inputs of the linear layers, queries, keys,
            values and attention probabilities are rounded to it; LayerNorm, softmax, GELU and the residual stay float.
        per_channel: one weight scale an output channel; otherwise one a layer.
        skip: layers that stay in float: patterns as above. Here and there a pattern that fits a module means all layers
            below it ("stem", "blocks.*.mlp").
        power_of_two_scales: restrict every scale to a power of two, so that scaling is a shift.
        probabilities: of attention: "uniform", whole multiples of 1 / (2^b - 1) at the b bits of the activations; or
            "log2", the nearest of 0 and 2^0, 2^-1 ... 2^-14, so that multiplying by one is a shift: 16 codes, 4 bits,
            whatever the activations (after FQ-ViT, Lin et al. 2022, which rounds the logarithm and has no 0).

    Raises:
        InputError: a field is out of its range.
    """

    weights: str | Mapping[str, str] = "pot4"
    activations: str = "int8"
    per_channel: bool = True
    skip: tuple[str, ...] = ()
    power_of_two_scales: bool = False
    probabilities: str = UNIFORM

    def __post_init__(self) -> None:
        if isinstance(self.weights, Mapping):
            object.__setattr__(self, "weights", dict(self.weights))
            for pattern, scheme in self.weights.items():
                require_choice(f"weights[{pattern!r}]", scheme, (*SCHEMES, FLOAT))
        else:
            require_choice("weights", self.weights, SCHEMES)
        require_choice("activations", self.activations, ACTIVATIONS)
        require_choice("probabilities", self.probabilities, PROBABILITIES)
        if self.probabilities == LOG2 and self.activations == FLOAT:
            raise InputError(
                "probabilities", LOG2, "uniform where activations stay float", "queries, keys and values would"
            )
        for name in ("per_channel", "power_of_two_scales"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(name, getattr(self, name), "true or false")
        if isinstance(self.skip, str) or not isinstance(self.skip, Sequence):
            raise InputError("skip", self.skip, "a list of layer patterns")
        for pattern in self.skip:
            if not isinstance(pattern, str):
                raise InputError("skip", pattern, "a layer pattern, e.g. 'head' or 'blocks.0.*'")
        object.__setattr__(self, "skip", tuple(self.skip))

    def scheme_of(self, layer: str) -> str:
        """The scheme of a layer's weights, or "float" where it is left alone."""
        if any(fits(layer, pattern) for pattern in self.skip):
            return FLOAT
        if isinstance(self.weights, str):
            return self.weights
        return next((scheme for pattern, scheme in self.weights.items() if fits(layer, pattern)), FLOAT)

    def require_layers(self, layers: Sequence[str]) -> None:
        """Raise an InputError where a pattern of the weights fits none of these layers."""
        for pattern in self.weights if isinstance(self.weights, Mapping) else ():
            if not any(fits(layer, pattern) for layer in layers):
                raise InputError("weights", pattern, "patterns that fit a layer", did_you_mean(pattern, layers))

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {**asdict(self), "skip": list(self.skip)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QuantConfig:
        """The configuration in a mapping as `to_dict` gives it; missing fields take their defaults.

        Raises:
            InputError: an unknown field, or a value out of range.
        """
        if not isinstance(values, Mapping):
            raise InputError("quant", values, "a table of QuantConfig fields")
        require_known_keys("quant", values, [f.name for f in fields(cls)])
        return cls(**values)


def fits(layer: str, pattern: str) -> bool:
    """Whether a pattern of `weights` or `skip` means this layer: a shell pattern, or the path of a module above it."""
    return fnmatchcase(layer, pattern) or fnmatchcase(layer, f"{pattern}.*")
