"""A model as an ONNX file: a float one traced by torch, a quantised one built from its whole numbers."""

from __future__ import annotations

import ast
import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper
from torch import nn

from quant.conversion import convert
from quant.onnx_graph import IMAGES, IR_VERSION, LOGITS, OPSET, save_model
from quant.onnx_integer import integer_model
from quant.onnx_session import open_session
from quant.packed import PackedModel
from quant.qat import is_prepared
from vit.errors import InputError, require_int
from vit.masks import prunable_layers, remove_mask
from vit.preprocessing import normalisation_of
from vit.zoo import model_spec

TOLERANCE = 1e-4  # of the largest logit, or of 1 where all are smaller
_TRIED = 3  # images by which file and model are compared: another number than the file was traced with
_SCOPES = "pkg.torch.onnx.name_scopes"  # where the exporter notes the modules that a node came from


def export_onnx(model: nn.Module | PackedModel, path: str | Path, batch: int | None = None) -> float:
    """Write the model as an ONNX file, once onnxruntime has computed the model's own logits with it.

    The file takes normalised `images` (N, C, H, W), float32, and gives `logits` (N, classes); its metadata hold `mean`
    and `std` of the images, where the model says them. In a float model every linear layer is a MatMul and an Add, and
    pruned weights are plain zeros. A model from `prepare_qat`, or its packed form, becomes whole-number arithmetic on
    the very codes it was trained with, equal to `PackedModel.predict`.

    Args:
        model: a VisionTransformer or a timm model, float or prepared for QAT; or a PackedModel.
        batch: number of images the file takes; None is any number.

    Returns:
        the largest difference of a logit between file and model on a few random images.

    Raises:
        InputError: torch cannot trace the model, the file computes something else, or the place cannot be written.
    """
    if batch is not None:
        require_int("batch", batch)
    if not isinstance(model, (nn.Module, PackedModel)):
        raise InputError("model", type(model).__name__, "a torch model or a PackedModel")
    if isinstance(model, PackedModel) or is_prepared(model):
        packed = model if isinstance(model, PackedModel) else convert(model)
        proto = integer_model(packed, batch)
        images = _random_images(batch, packed.config.in_channels, packed.config.image_size)
        expected = packed.predict(images)
    else:
        spec, plain = model_spec(model), plain_copy(model)
        proto = float_model(plain, batch)
        images = _random_images(batch, spec["in_channels"], spec["image_size"])
        with torch.inference_mode():
            expected = plain(torch.from_numpy(images)).numpy()
    difference = float(np.abs(open_session(proto).run(None, {IMAGES: images})[0] - expected).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):  # also refuses NaN
        hint = f"logits differ by {difference:g}: does it hold NaN, or draw random numbers?"
        raise InputError("model", type(model).__name__, "a model that computes the same as its ONNX form", hint)
    save_model(proto, path)
    return difference


def float_model(model: nn.Module, batch: int | None = None) -> ModelProto:
    """The ONNX form of a float model: each Conv, and each MatMul by a constant, named as the module it came from.

    Raises:
        InputError: torch cannot trace the model, or it is neither ours nor timm's.
    """
    spec, plain = model_spec(model), plain_copy(model)
    example = torch.from_numpy(_random_images(batch or 2, spec["in_channels"], spec["image_size"]))
    shapes = ({0: torch.export.Dim.DYNAMIC},) if batch is None else None
    try:
        with _silence():
            program: Any = torch.onnx.export(
                plain,
                (example,),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=[IMAGES],
                output_names=[LOGITS],
                opset_version=OPSET,
                verbose=False,
            )
    except (RuntimeError, TypeError, ValueError) as error:  # torch's export errors are RuntimeErrors
        cause = str(error.__cause__ or error).strip().partition("\n")[0]
        raise InputError("model", type(model).__name__, "a model that torch can export", cause) from error
    proto, own = _named_and_plain(program.model_proto), normalisation_of(model)
    if own is not None:
        helper.set_model_props(proto, {"mean": json.dumps(own.mean), "std": json.dumps(own.std)})
    return proto


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's warnings about its own parts, and the graphs it prints when it fails, from the reader."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def plain_copy(model: nn.Module) -> nn.Module:
    """A float32 copy on the CPU in evaluation mode, its masks now zeros in ordinary weights."""
    plain = copy.deepcopy(model).cpu().float().eval()
    for layer in prunable_layers(plain).values():
        remove_mask(layer)
    return plain


def _random_images(batch: int | None, channels: int, size: int) -> NDArray[np.float32]:
    shape = (batch or _TRIED, channels, size, size)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _named_and_plain(traced: ModelProto) -> ModelProto:
    """The same graph without the exporter's notes, its layers named, each Gemm a MatMul and an Add: onnxruntime's own
    tools do not quantise a Gemm of a transposed weight."""
    constants = {constant.name: constant for constant in traced.graph.initializer}
    nodes = [part for node in traced.graph.node for part in _split_gemm(node, constants)]
    layers: dict[str, str] = {}  # name of a constant weight: name of its layer
    for node in nodes:
        if node.op_type in ("MatMul", "Conv") and node.input[1] in constants:
            name = _module_of(node)
            node.name = f"{name}.{node.output[0]}" if name in layers.values() else name
            layers.setdefault(node.input[1], node.name)
    read = {name for node in nodes for name in node.input}
    kept = [constant for name, constant in constants.items() if name in read]
    for node in nodes:
        node.input[:] = [f"{layers[name]}.weight" if name in layers else name for name in node.input]
    for constant in kept:
        constant.name = f"{layers[constant.name]}.weight" if constant.name in layers else constant.name
    for part in (*nodes, *kept, *traced.graph.input, *traced.graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    graph = helper.make_graph(nodes, "model", traced.graph.input, traced.graph.output, kept)
    return helper.make_model(
        graph,
        producer_name="tilevit",
        ir_version=IR_VERSION,
        opset_imports=traced.opset_import,
        functions=traced.functions,
    )


def _split_gemm(node: NodeProto, constants: dict[str, onnx.TensorProto]) -> list[NodeProto]:
    """x @ w.T + b of a linear layer as MatMul and Add, by a transposed constant; other nodes as they are."""
    options = {option.name: helper.get_attribute_value(option) for option in node.attribute}
    plain = options.get("alpha", 1.0) == options.get("beta", 1.0) == 1.0 and not options.get("transA", 0)
    if node.op_type != "Gemm" or not plain or node.input[1] not in constants:
        return [node]
    weight = node.input[1]
    if options.get("transB", 0):
        weight = f"{node.input[1]}_transposed"
        value = numpy_helper.to_array(constants[node.input[1]]).T
        constants[weight] = numpy_helper.from_array(np.ascontiguousarray(value), weight)
    biased = len(node.input) == 3
    product = f"{node.output[0]}_product" if biased else node.output[0]
    matmul = helper.make_node("MatMul", [node.input[0], weight], [product], node.name)
    matmul.metadata_props.extend(node.metadata_props)
    add = helper.make_node("Add", [product, node.input[2]], node.output, f"{node.name}_bias") if biased else None
    return [matmul, add] if add else [matmul]


def _module_of(node: NodeProto) -> str:
    """Path of the module whose layer this node is."""
    if node.input[1].endswith(".weight"):
        return node.input[1].removesuffix(".weight")
    notes = {note.key: note.value for note in node.metadata_props}
    scopes = ast.literal_eval(notes.get(_SCOPES, "[]"))  # from the model down to the operator
    return (scopes[-2] if len(scopes) > 1 else "") or node.name
