"""Sessions of onnxruntime on the CPU: logits, accuracy, latency."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from quant.onnx_graph import IMAGES, LOGITS
from vit.image_set import ImageSet

F32 = NDArray[np.float32]
_ERRORS_ONLY = 3
BATCH = 64  # images at a time of an accuracy, on which that of int8-dynamic depends a little


def open_session(model: ModelProto | str | Path, threads: int = 1) -> Any:
    """A session on a file or a model in memory, on the CPU with this many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = _ERRORS_ONLY
    source = model.SerializeToString() if isinstance(model, ModelProto) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def accuracy(session: Any, images: ImageSet, batch_size: int) -> float:
    """Fraction of images whose largest logit is the label's; a session of a fixed batch gets as many at a time."""
    right, fixed = 0, session.get_inputs()[0].shape[0]
    for batch, labels in images.batches(fixed if isinstance(fixed, int) else batch_size):
        pixels = batch.numpy()
        if isinstance(fixed, int):
            pixels = np.concatenate([pixels, np.zeros((fixed - len(pixels), *pixels.shape[1:]), np.float32)])
        logits = session.run([LOGITS], {IMAGES: pixels})[0][: len(labels)]
        right += int((logits.argmax(1) == labels.numpy()).sum())
    return right / len(images)


def latencies(sessions: Sequence[Any], image: F32, warmup: int, rounds: int) -> list[float]:
    """Median time in ms of one image (1, C, H, W) for each session; they take turns, so that all meet the same load."""
    times: list[list[float]] = [[] for _ in sessions]
    for _ in range(warmup + rounds):
        for session, kept in zip(sessions, times, strict=True):
            began = time.perf_counter()
            session.run(None, {IMAGES: image})
            kept.append(1e3 * (time.perf_counter() - began))
    return [float(np.median(kept[warmup:])) for kept in times]
