"""Quantisation after training: an ONNX file with fewer bits, measured beside the float one it was made from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from quant.onnx_export import export_onnx
from quant.onnx_graph import save_model
from quant.onnx_quantiser import FLOAT_BITS, METHODS, Quantiser
from quant.onnx_session import BATCH, accuracy, latencies, open_session
from quant.packed import PackedModel
from quant.qat import is_prepared
from vit.errors import InputError, require_choice, require_float, require_int
from vit.image_set import DataSplits
from vit.preprocessing import as_trained
from vit.zoo import model_spec

_TARGET, _TARGETS = 0.005, {"int4-weight": 0.015}  # the loss of accuracy to stay within
_SLACK = 1e-9  # accuracies are quotients: a loss that is the target but for rounding is within it
_WARMUP, _ROUNDS = 5, 50


@dataclass(frozen=True)
class PtqResult:
    """A quantised file and what it costs and keeps.

    Attributes:
        method: one of METHODS.
        path, float_path: the ONNX files.
        accuracy, float_accuracy: of the two files on the validation images, in batches of `batch_size`.
        target: the loss of accuracy that the method is meant to stay within, as a fraction.
        size_bytes, float_size_bytes: of the two files.
        latency_ms, float_latency_ms: median time of one image alone, on `threads` threads, both timed in turns.
        bits: of each layer's weight; 32 is float.
        sensitivity: of each layer, the squared error of the logits, as a share of their squares, when it alone is
            quantised; on the calibration images.
        calibration_images: how many training images were looked at.
        batch_size, threads: how accuracy and latency were measured.
    """

    method: str
    path: Path
    float_path: Path
    accuracy: float
    float_accuracy: float
    target: float
    size_bytes: int
    float_size_bytes: int
    latency_ms: float
    float_latency_ms: float
    bits: dict[str, int]
    sensitivity: dict[str, float]
    calibration_images: int
    batch_size: int
    threads: int

    @property
    def change(self) -> float:
        """Accuracy gained, as a fraction: negative where some was lost."""
        return self.accuracy - self.float_accuracy

    @property
    def compression(self) -> float:
        """How many times smaller the file is."""
        return self.float_size_bytes / self.size_bytes

    @property
    def within_target(self) -> bool:
        """Whether no more accuracy was lost than `target`."""
        return self.change >= -self.target - _SLACK

    @property
    def kept_in_float(self) -> list[str]:
        """The layers that were left in float because they cost too much accuracy."""
        return [name for name, bits in self.bits.items() if bits == FLOAT_BITS]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        plain = {**asdict(self), "path": str(self.path), "float_path": str(self.float_path)}
        derived = ("change", "compression", "within_target", "kept_in_float")
        return {**plain, **{name: getattr(self, name) for name in derived}}


def ptq(
    model: nn.Module,
    method: str,
    data: DataSplits,
    out: str | Path | None = None,
    *,
    calibration_images: int = 128,
    fallback: float = 0.25,
    threads: int | None = None,
) -> PtqResult:
    """Quantise a trained model without training it further, into `out`/<method>.onnx, and measure it.

    "fp16" halves every number but LayerNorm's and softmax's. "int8-dynamic" and "int8-static" hold the weights of the
    linear layers in 8 bits, one scale an output channel, and round what comes in by the range it has at that moment or
    had on the calibration images. "int4-weight" holds weights alone, in 4 bits with a scale for every 32; first layer,
    convolutions and classifier in 8. Scales minimise the squared error, and biases take up the mean error that is left.
    Where the loss is above the target, the most sensitive layers go back to float (in int4-weight to 8 bits) until it
    is not, or until the share `fallback` of the weights is used up.

    Args:
        model: a float model, ours or timm's.
        method: one of "fp16", "int8-dynamic", "int8-static", "int4-weight".
        data: calibration images come from `train`, accuracy is of `val`; `test` is not touched.
        out: folder of the files, "outputs/ptq" if left out; the float model goes there too, as float.onnx.
        calibration_images: how many training images ranges, corrections and sensitivities are taken from.
        fallback: share of the weights that may be spared, in [0, 1].
        threads: of onnxruntime; as many as torch uses if left out.

    Raises:
        InputError: unknown method, a model that is quantised already or that torch cannot export, data of another shape
            than the model's, or a place that cannot be written.
    """
    require_choice("method", method, METHODS)
    require_int("calibration_images", calibration_images)
    require_float("fallback", fallback, 0, 1)
    threads = torch.get_num_threads() if threads is None else require_int("threads", threads)
    _require_float_model(model)
    _require_fit(model, data)
    data = as_trained(model, data)
    folder = Path("outputs/ptq" if out is None else out)
    float_path, path = folder / "float.onnx", folder / f"{method}.onnx"
    export_onnx(model, float_path)
    train = data.train.take(np.random.default_rng(0).permutation(len(data.train))[:calibration_images])
    quantiser = Quantiser(onnx.load(str(float_path)), method, train, threads)
    target = _TARGETS.get(method, _TARGET)
    floats = open_session(float_path, threads)
    float_accuracy = accuracy(floats, data.val, BATCH)
    bits = quantiser.choose(data.val, BATCH, float_accuracy - target - _SLACK, fallback)
    save_model(quantiser.model(bits), path)
    session = open_session(path, threads)
    times = latencies([session, floats], data.val.normalise(data.val.images[:1]).numpy(), _WARMUP, _ROUNDS)
    return PtqResult(
        method=method,
        path=path,
        float_path=float_path,
        accuracy=accuracy(session, data.val, BATCH),
        float_accuracy=float_accuracy,
        target=target,
        size_bytes=path.stat().st_size,
        float_size_bytes=float_path.stat().st_size,
        latency_ms=times[0],
        float_latency_ms=times[1],
        bits=bits,
        sensitivity=quantiser.sensitivity,
        calibration_images=len(train),
        batch_size=BATCH,
        threads=threads,
    )


def _require_float_model(model: object) -> None:
    if isinstance(model, PackedModel) or not isinstance(model, nn.Module):
        raise InputError("model", type(model).__name__, "a float model: ours, or timm's")
    if is_prepared(model):
        hint = "this one is prepared for QAT: export or convert it"
        raise InputError("model", type(model).__name__, "a float model", hint)


def _require_fit(model: nn.Module, data: object) -> None:
    if not isinstance(data, DataSplits):
        raise InputError("data", type(data).__name__, "the splits that load_data gives")
    spec = model_spec(model)
    for name in ("image_size", "in_channels", "num_classes"):
        if spec[name] != getattr(data, name):
            raise InputError(f"data {name}", getattr(data, name), f"{spec[name]}, as the model takes")
