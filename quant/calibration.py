"""What a network's layers see and give on calibration images, and the range in which to round what they see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from quant.onnx_graph import IMAGES, LOGITS, Graph, OnnxLayer
from quant.onnx_layers import ActivationRange
from quant.onnx_session import open_session
from vit.image_set import ImageSet

F32 = NDArray[np.float32]
_BATCH = 8  # images at a time: every layer's input and output are in memory at once
_SAMPLE = 2**15  # values of an input that are kept
_SHRINK = np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])  # of the range's two ends, tried in every pair
_TOP = 255


@dataclass(frozen=True)
class Sample:
    """Values of a tensor.

    Attributes:
        values: some of them, drawn at random.
        count: how many there are in all.
        low, high: the smallest and the largest of all.
    """

    values: F32
    count: int
    low: float
    high: float


@dataclass(frozen=True)
class Observed:
    """What a run over the calibration images showed.

    Attributes:
        logits: (images, classes).
        means: of each layer asked for, the mean output of each channel, before a MatMul's bias.
        inputs: of each MatMul asked for, the values that came in.
    """

    logits: F32
    means: dict[str, NDArray[np.float64]]
    inputs: dict[str, Sample]


def observe(
    model: ModelProto, layers: Sequence[OnnxLayer], images: ImageSet, threads: int, *, with_inputs: bool = False
) -> Observed:
    """Run the images through the model and watch these layers, by the names their tensors have in the float graph."""
    graph = Graph(model)
    read = [layer for layer in layers if with_inputs and layer.op == "MatMul"]
    watched = {layer.y for layer in layers} | {layer.x for layer in read}
    added = sorted(watched - {IMAGES, LOGITS})
    graph.add_outputs(added)
    session = open_session(graph.model, threads)
    generator = np.random.default_rng(0)
    share = _SAMPLE // -(-len(images) // _BATCH)
    logits: list[F32] = []
    sums = {layer.name: np.zeros(()) for layer in layers}
    seen: dict[str, list[Sample]] = {layer.name: [] for layer in read}
    for batch, _ in images.batches(_BATCH):
        found = session.run(None, {IMAGES: batch.numpy()})
        tensors = {IMAGES: batch.numpy(), LOGITS: found[0], **dict(zip(added, found[1:], strict=True))}
        logits.append(found[0])
        for layer in layers:
            y = tensors[layer.y]
            others = tuple(axis for axis in range(y.ndim) if axis != (1 if layer.op == "Conv" else y.ndim - 1))
            sums[layer.name] = sums[layer.name] + y.mean(others, dtype=np.float64) * len(batch)
        for layer in read:
            values = tensors[layer.x].reshape(-1)
            chosen = values[generator.integers(len(values), size=share)]
            seen[layer.name].append(Sample(chosen, len(values), float(values.min()), float(values.max())))
    means = {name: total / len(images) for name, total in sums.items()}
    return Observed(np.concatenate(logits), means, {name: _joined(parts) for name, parts in seen.items()})


def logit_error(found: F32, expected: F32) -> float:
    """Squared error of logits as a share of their own squares."""
    wide = expected.astype(np.float64)
    return float(np.square(found - wide).sum() / max(np.square(wide).sum(), np.finfo(np.float64).tiny))


def activation_range(sample: Sample) -> ActivationRange:
    """The uint8 range that rounds with the least squared error, of those that shrink the whole one at either end.

    0 is among the values it holds exactly. The two extremes count once each, whether they were drawn or not: a rare
    one is clipped, one that every image has is kept.
    """
    low, high = min(0.0, sample.low), max(0.0, sample.high)
    extremes = np.array([sample.low, sample.high], np.float32)
    best, least = ActivationRange(1.0, 0), np.inf
    for bottom in np.unique(low * _SHRINK):
        for top in np.unique(high * _SHRINK):
            scale = np.float32((top - bottom) / _TOP)
            if scale < np.finfo(np.float32).tiny:
                continue
            chosen = ActivationRange(float(scale), int(np.rint(-bottom / scale)))
            drawn = _squared_errors(sample.values, chosen).mean(dtype=np.float64)
            error = sample.count * float(drawn) + float(_squared_errors(extremes, chosen).sum())
            if error < least:
                best, least = chosen, error
    return best


def _squared_errors(values: F32, chosen: ActivationRange) -> F32:
    scale = np.float32(chosen.scale)
    codes = np.clip(np.rint(values / scale) + chosen.zero, 0, _TOP)
    return np.square((codes - chosen.zero) * scale - values)


def _joined(parts: Sequence[Sample]) -> Sample:
    values = np.concatenate([part.values for part in parts])
    count = sum(part.count for part in parts)
    return Sample(values, count, min(part.low for part in parts), max(part.high for part in parts))
