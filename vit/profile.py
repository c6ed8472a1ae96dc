"""What a model costs: parameters, multiply-accumulates, bytes, sparsity, and measured time and memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from vit.errors import InputError, require_int
from vit.layers import FLOAT_BITS
from vit.macs import count_macs
from vit.masks import prunable_layers
from vit.memory import peak_memory
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
            activations. On a GPU, what torch's allocator reports.
        device, threads, batch_size, warmup, rounds: how it was measured; `rounds` timed passes after `warmup` others.
    """

    params: int
    macs: int
    flops: int
    size_bytes: int
    sparsity: float
    latency_ms: float
    latency_p95_ms: float
    throughput: float
    peak_memory_bytes: int
    device: str
    threads: int
    batch_size: int
    warmup: int
    rounds: int

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)


def profile_model(
    model: nn.Module,
    input_size: tuple[int, int, int] | int | None = None,
    *,
    batch_size: int = 64,
    warmup: int = 3,
    rounds: int = 20,
) -> Profile:
    """Count and time the model where it is, in evaluation mode, on torch's present number of threads.

    Args:
        input_size: (channels, height, width), or the side of a square of the model's own channels. None is the
            model's own input.
        batch_size: images a batch for the throughput.
        warmup, rounds: passes before timing, and timed.

    Raises:
        InputError: an input the model does not take, or a count below 1.
    """
    for name, value in (("batch_size", batch_size), ("warmup", warmup), ("rounds", rounds)):
        require_int(name, value)
    shape = _input_shape(model, input_size)
    place = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    images = torch.zeros(batch_size, *shape, device=place)
    was_training = model.training
    model.eval()
    try:
        macs = count_macs(model, images[:1])
        with torch.inference_mode():
            single = _times(lambda: model(images[:1]), place, warmup, rounds)
            batch = _times(lambda: model(images), place, warmup, rounds)
        memory = peak_memory(model, torch.zeros(1, *shape, device=place))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise InputError("input_size", input_size, "an input that the model takes", str(error)) from error
    finally:
        model.train(was_training)
    return Profile(
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=macs,
        flops=2 * macs,
        size_bytes=size_bytes(model),
        sparsity=_sparsity(model),
        latency_ms=1e3 * float(np.median(single)),
        latency_p95_ms=1e3 * float(np.percentile(single, 95)),
        throughput=batch_size / float(np.median(batch)),
        peak_memory_bytes=memory,
        device=torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        batch_size=batch_size,
        warmup=warmup,
        rounds=rounds,
    )


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


def _times(run: Callable[[], Any], device: torch.device, warmup: int, rounds: int) -> list[float]:
    """Seconds of each of `rounds` runs, after `warmup` others."""

    def timed() -> float:
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    return [timed() for _ in range(warmup + rounds)][warmup:]


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
