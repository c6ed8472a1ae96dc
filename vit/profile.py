"""What a model costs: parameters, multiply-accumulates, bytes, sparsity, and measured time, memory and power."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from vit.errors import InputError, require_float, require_int
from vit.layers import FLOAT_BITS
from vit.macs import count_macs
from vit.masks import prunable_layers
from vit.memory import peak_memory
from vit.power import find_meter, measured_power
from vit.zoo import model_spec


@dataclass(frozen=True)
class Profile:
    """Costs of one model. Every count is of one image; times are of the machine and threads stated.

    Attributes:
        params: weights and biases, pruned ones included.
        macs: multiply-accumulates of linear layers, convolutions and both attention products, exact.
        flops: 2 * macs.
        size_bytes: weights, biases and running statistics as stored, each layer's weight at its `weight_bits`.
        sparsity: fraction of the weights of linear layers and convolutions that are exactly 0.
        latency_ms: median time of one image alone.
        latency_p95_ms: 95th percentile of the same.
        throughput: images a second in batches of `batch_size`, at the median time of a batch.
        peak_memory_bytes: tensors alive at once, at most, while one image is predicted: parameters, buffers, input and
            activations. On a GPU, what torch's allocator reports. None of a model that torch does not run.
        device, threads, batch_size, warmup, rounds: how it was measured; `rounds` timed passes after `warmup` others.
        power_w: while batches are predicted, what `power_source` counted; None where there is no such counter.
        energy_mj: of one image, in millijoules, by the same counter.
        power_source: "NVML, the whole board", "RAPL, the whole processor", or None.
    """

    params: int
    macs: int
    flops: int
    size_bytes: int
    sparsity: float
    latency_ms: float
    latency_p95_ms: float
    throughput: float
    peak_memory_bytes: int | None
    device: str
    threads: int
    batch_size: int
    warmup: int
    rounds: int
    power_w: float | None = None
    energy_mj: float | None = None
    power_source: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Deployed:
    """A model that something else than torch runs on the CPU, such as the integer engine.

    Attributes:
        network: the torch model of the same layers and weights, whose parameters, MACs, bytes and zeros are counted.
        predict: from normalised images, float32 (B, C, H, W), to anything once they are predicted; this is timed.
    """

    network: nn.Module
    predict: Callable[[np.ndarray], object]


def profile_model(
    model: nn.Module,
    input_size: tuple[int, int, int] | int | None = None,
    *,
    batch_size: int = 64,
    warmup: int = 3,
    rounds: int = 20,
    power_seconds: float = 1.0,
) -> Profile:
    """Count and time the model where it is, in evaluation mode, on torch's present number of threads.

    Args:
        input_size: (channels, height, width), or the side of a square of the model's own channels. None is the
            model's own input.
        batch_size: images a batch for the throughput.
        warmup, rounds: passes before timing, and timed.
        power_seconds: how long batches are predicted to read the power, where the machine counts it; 0 is not at all.

    Raises:
        InputError: an input the model does not take, or a number out of range.
    """
    options = {"batch_size": batch_size, "warmup": warmup, "rounds": rounds, "power_seconds": power_seconds}
    return profile_models({"model": model}, input_size, **options)["model"]  # type: ignore[arg-type]


def profile_models(
    models: Mapping[str, nn.Module | Deployed],
    input_size: tuple[int, int, int] | int | None = None,
    *,
    batch_size: int = 64,
    warmup: int = 3,
    rounds: int = 20,
    power_seconds: float = 1.0,
) -> dict[str, Profile]:
    """`profile_model` of several models, timed in turns, so that all meet the same load of the machine."""
    for name, value in (("batch_size", batch_size), ("warmup", warmup), ("rounds", rounds)):
        require_int(name, value)
    require_float("power_seconds", power_seconds, 0, float("inf"), open_high=True)
    sides = [_Side(model, input_size, batch_size) for model in models.values()]
    modes = [side.model.training for side in sides]
    try:
        for side in sides:
            side.model.eval()
        macs = [count_macs(side.model, side.batch[:1]) for side in sides]
        single = _times([side.predict_one for side in sides], warmup, rounds)
        batch = _times([side.predict_batch for side in sides], warmup, rounds)
        power = [side.power(power_seconds) for side in sides]
        memory = [None if side.predict else peak_memory(side.model, side.batch[:1].clone()) for side in sides]
    except (RuntimeError, ValueError, AssertionError) as error:
        raise InputError("input_size", input_size, "an input that the model takes", str(error)) from error
    finally:
        for side, mode in zip(sides, modes, strict=True):
            side.model.train(mode)
    return {
        name: Profile(
            params=sum(parameter.numel() for parameter in side.model.parameters()),
            macs=macs[i],
            flops=2 * macs[i],
            size_bytes=size_bytes(side.model),
            sparsity=_sparsity(side.model),
            latency_ms=1e3 * float(np.median(single[i])),
            latency_p95_ms=1e3 * float(np.percentile(single[i], 95)),
            throughput=batch_size / float(np.median(batch[i])),
            peak_memory_bytes=memory[i],
            device=torch.cuda.get_device_name(side.place) if side.place.type == "cuda" else "cpu",
            threads=torch.get_num_threads(),
            batch_size=batch_size,
            warmup=warmup,
            rounds=rounds,
            **power[i],
        )
        for i, (name, side) in enumerate(zip(models, sides, strict=True))
    }


class _Side:
    """A model with images of its shape where it is."""

    def __init__(
        self, model: nn.Module | Deployed, input_size: tuple[int, int, int] | int | None, batch_size: int
    ) -> None:
        self.model: nn.Module = model.network if isinstance(model, Deployed) else model
        self.predict: Callable[[np.ndarray], object] | None = model.predict if isinstance(model, Deployed) else None
        self.place = next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))
        self.batch = torch.zeros(batch_size, *_input_shape(self.model, input_size), device=self.place)

    def predict_one(self) -> None:
        """One image, to its end."""
        self._predict(self.batch[:1])

    def predict_batch(self) -> None:
        """The whole batch, to its end."""
        self._predict(self.batch)

    def power(self, seconds: float) -> dict[str, Any]:
        """The power fields of a Profile; none where nothing counts."""
        meter = find_meter(self.place) if seconds else None
        if meter is None:
            return {}
        watts, joules = measured_power(self.predict_batch, meter, seconds)
        return {"power_w": watts, "energy_mj": 1e3 * joules / len(self.batch), "power_source": meter.source}

    @torch.inference_mode()
    def _predict(self, images: torch.Tensor) -> None:
        if self.predict is not None:
            self.predict(images.numpy())
            return
        self.model(images)
        if self.place.type == "cuda":
            torch.cuda.synchronize(self.place)


def size_bytes(model: nn.Module) -> int:
    """Bytes of the model's parameters and floating-point buffers, a weight at its layer's `weight_bits`."""
    layers = {id(_stored_weight(layer)): layer for layer in prunable_layers(model).values()}
    bits = 0
    for parameter in model.parameters():
        layer = layers.get(id(parameter))
        each = getattr(layer, "weight_bits", FLOAT_BITS) if layer else 8 * parameter.element_size()
        bits += parameter.numel() * each
    bits += sum(8 * buffer.numel() * buffer.element_size() for buffer in model.buffers() if buffer.is_floating_point())
    return (bits + 7) // 8


def _times(runs: Sequence[Callable[[], None]], warmup: int, rounds: int) -> list[list[float]]:
    """Seconds of `rounds` calls of each function, in turns, after `warmup` others."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(warmup + rounds):
        for run, kept in zip(runs, times, strict=True):
            began = time.perf_counter()
            run()
            kept.append(time.perf_counter() - began)
    return [kept[warmup:] for kept in times]


def _input_shape(model: nn.Module, input_size: tuple[int, int, int] | int | None) -> tuple[int, int, int]:
    if isinstance(input_size, (tuple, list)):
        if len(input_size) != 3:
            raise InputError("input_size", input_size, "(channels, height, width)")
        channels, height, width = (require_int("input_size", side) for side in input_size)
        return channels, height, width
    spec = model_spec(model)
    side = spec["image_size"] if input_size is None else require_int("input_size", input_size)
    return spec["in_channels"], side, side


def _sparsity(model: nn.Module) -> float:
    weights: list[Any] = [layer.weight for layer in prunable_layers(model).values()]
    return sum(int((weight == 0).sum()) for weight in weights) / max(1, sum(weight.numel() for weight in weights))


def _stored_weight(layer: nn.Module) -> Any:
    """The parameter behind the layer's weight, which a parametrization hides."""
    hidden = getattr(layer, "parametrizations", None)
    return hidden.weight.original if hidden is not None and "weight" in hidden else layer.weight
