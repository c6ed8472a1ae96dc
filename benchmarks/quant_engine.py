"""The integer engine against what else multiplies on a CPU: matrix products, and a whole model.

    python benchmarks/quant_engine.py [--rounds 20] [--threads 1]

All sides take turns in this one process; figures are the fastest of all rounds, in processor time where there is one
thread, else in wall time. Products are one-threaded: engine, torch and onnxruntime alike.
"""

from __future__ import annotations

import argparse
import itertools
import math
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper
from onnxruntime.quantization import quantize_dynamic

from kernels import gemm
from quant import convert, encode, prepare_qat
from quant.level_sets import level_set
from vit.config import ViTConfig
from vit.model import VisionTransformer

SHAPES = list(itertools.product((64, 128), (96, 192, 384), (96, 192, 384)))  # rows, inner, columns
BLOCK = 32  # of MatMulNBits


def fastest(
    calls: dict[str, Callable[[], Any]], rounds: int, repeat: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Seconds of one call of each side."""
    best = dict.fromkeys(calls, math.inf)
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            began = clock()
            for _ in range(repeat):
                call()
            best[name] = min(best[name], (clock() - began) / repeat)
    return best


def session(model: Any, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def matmul_nbits(inner: int, columns: int) -> onnxruntime.InferenceSession:
    """onnxruntime's 4-bit product with 8-bit activations (accuracy level 4)."""
    random = np.random.default_rng(0)
    blocks = inner // BLOCK
    packed = random.integers(0, 256, (columns, blocks, BLOCK // 2), dtype=np.uint8)
    scales = random.random(columns * blocks, dtype=np.float32)
    node = helper.make_node(
        "MatMulNBits",
        ["x", "w", "s"],
        ["y"],
        domain="com.microsoft",
        K=inner,
        N=columns,
        bits=4,
        block_size=BLOCK,
        accuracy_level=4,
    )
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", inner])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", columns])],
        [
            helper.make_tensor("w", TensorProto.UINT8, packed.shape, packed.tobytes(), raw=True),
            helper.make_tensor("s", TensorProto.FLOAT, scales.shape, scales.tobytes(), raw=True),
        ],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return session(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString(), 1)


def product_sides(rows: int, inner: int, columns: int) -> dict[str, Callable[[], Any]]:
    """The same product by each side: float input to float output, and whole numbers to whole numbers."""
    random = np.random.default_rng(0)
    x, w = (random.normal(size=shape).astype(np.float32) for shape in ((rows, inner), (columns, inner)))
    codes, tables = encode(w, 0.05, "pot4"), level_set("pot4")
    weights = gemm.arrange(tables.by_code[codes], -128, 127, codes=codes, table=tables.by_code)
    layer = gemm.Layer(weights, np.float32(0.02), np.full(columns, 0.001, np.float32), np.zeros(columns, np.float32))
    whole, sums = np.zeros((rows, inner), np.uint8), np.empty((rows, columns), np.int32)  # as the kernel wants them
    plain, (*_, tile) = tuple(weights), gemm.room([layer], rows)
    x_torch, w_torch = torch.from_numpy(x), torch.from_numpy(w)
    a8, w8 = (
        torch.randint(-128, 128, (rows, inner)).to(torch.int8),
        torch.randint(-64, 65, (inner, columns)).to(torch.int8),
    )
    nbits = matmul_nbits(inner, columns)
    return {
        "engine": lambda: gemm.linear(x, layer),
        "torch float32": lambda: torch.nn.functional.linear(x_torch, w_torch),
        "MatMulNBits": lambda: nbits.run(None, {"x": x}),
        "engine, whole numbers": lambda: gemm.multiply(whole, plain, tile, sums),
        "torch._int_mm": lambda: torch._int_mm(a8, w8),
    }


def products(rounds: int) -> None:
    torch.set_num_threads(1)
    found = []
    for shape in SHAPES:
        found.append(fastest(product_sides(*shape), rounds, 20, time.thread_time))
    pairs = [
        ("engine", "torch float32"),
        ("engine", "MatMulNBits"),
        ("engine, whole numbers", "torch._int_mm"),
        ("engine, whole numbers", "torch float32"),
    ]
    print(f"\nProducts, pot4 weights, {len(SHAPES)} shapes of 64..128 x 96..384 x 96..384: speed-up, geometric mean\n")
    print("| this | over that | speed-up | lowest | highest |\n|---|---|---|---|---|")
    for ours, theirs in pairs:
        ratios = [row[theirs] / row[ours] for row in found]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"| {ours} | {theirs} | {mean:.2f} | {min(ratios):.2f} | {max(ratios):.2f} |")


def models(rounds: int, threads: int) -> None:
    torch.set_num_threads(threads)
    model = VisionTransformer(ViTConfig()).eval()
    packed = convert(prepare_qat(model))
    one, many = (torch.randn(count, 3, 32, 32) for count in (1, 64))
    with tempfile.TemporaryDirectory() as folder:
        plain, dynamic = Path(folder) / "float.onnx", Path(folder) / "dynamic.onnx"
        axes = {"images": {0: "batch"}}
        torch.onnx.export(model, (one,), plain, dynamo=False, input_names=["images"], dynamic_axes=axes)
        quantize_dynamic(plain, dynamic)
        float_session, int_session = session(str(plain), threads), session(str(dynamic), threads)
    clock = time.thread_time if threads == 1 else time.perf_counter
    print(f"\n413,706 parameters, 32x32 images, {threads} thread{'s' * (threads > 1)}\n")
    print("| images at a time | engine, ms | onnxruntime, ms | engine / it | its dynamic int8, ms | engine / it |")
    print("|---|---|---|---|---|---|")
    for images in (one.numpy(), many.numpy()):
        sides = {
            "engine": lambda x=images: packed.predict(x, threads=threads),
            "float": lambda x=images: float_session.run(None, {"images": x}),
            "int8": lambda x=images: int_session.run(None, {"images": x}),
        }
        best = {name: 1e3 * s for name, s in fastest(sides, rounds, 20 if len(images) == 1 else 1, clock).items()}
        engine, plain_ms, int8_ms = best["engine"], best["float"], best["int8"]
        cells = f"{plain_ms:.2f} | {engine / plain_ms:.2f} | {int8_ms:.2f} | {engine / int8_ms:.2f}"
        print(f"| {len(images)} | {engine:.2f} | {cells} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1, help="of the whole models")
    options = parser.parse_args()
    print(f"{platform.machine()}, path {gemm.chosen_path()}, onnxruntime {onnxruntime.__version__}")
    products(options.rounds)
    models(options.rounds, options.threads)


if __name__ == "__main__":
    main()
