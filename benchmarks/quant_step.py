"""One training step of a W4A4 network against the float one: ViT of dim 96, depth 6, MLP x4, batch 128, 32x32 images.

    python benchmarks/quant_step.py [--rounds 5] [--threads 1] [--brevitas]

All take turns in this one process; the ratio is that of their fastest steps. Peak memory is that of a fresh process a
side. `--brevitas` adds Brevitas' layers of 4 bits, where that package is installed; it wants another setuptools than
torch's newest, so an environment of its own:

    python -m venv --system-site-packages brevitas
    brevitas/bin/pip install --no-deps brevitas dependencies==2.0.1 unfoldNd "setuptools<81"
    PYTHONPATH=. brevitas/bin/python benchmarks/quant_step.py --brevitas
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quant import QuantConfig, prepare_qat
from vit.config import ViTConfig
from vit.model import VisionTransformer

CONFIG = ViTConfig(dim=96, depth=6, heads=3, mlp_ratio=4.0)
BATCH = 128


def step_of(model: nn.Module, batch: int = BATCH) -> Callable[[], None]:
    """A function that trains the model on one batch."""
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    images, labels = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()

    return step


def float_model() -> nn.Module:
    torch.manual_seed(0)
    return VisionTransformer(CONFIG)


def quantised_model() -> nn.Module:
    return prepare_qat(float_model(), QuantConfig(weights="pot4", activations="int4"))


def brevitas_model(**levels: Any) -> nn.Module:
    """The same network with Brevitas' linear layers; `levels` are their options. Attention's products stay float."""
    from brevitas.nn import QuantLinear

    model = float_model()
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear):
            quantised = QuantLinear(layer.in_features, layer.out_features, bias=True, **levels)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, quantised)
    return model


def brevitas_int() -> nn.Module:
    """4-bit whole numbers, -7 to 7."""
    from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerTensorFloat

    quantisers = {"weight_quant": Int8WeightPerTensorFloat, "input_quant": Int8ActPerTensorFloat}
    return brevitas_model(**quantisers, weight_bit_width=4, input_bit_width=4)


def brevitas_float() -> nn.Module:
    """Floats of a sign, 3 exponent bits and no mantissa: the 15 values of pot4, for weights and inputs alike."""
    from brevitas.quant.float import Fp8e4m3ActPerTensorFloat, Fp8e4m3WeightPerTensorFloat

    widths = {"bit_width": 4, "exponent_bit_width": 3, "mantissa_bit_width": 0}
    both = {f"{side}_{name}": value for side in ("weight", "input") for name, value in widths.items()}
    return brevitas_model(weight_quant=Fp8e4m3WeightPerTensorFloat, input_quant=Fp8e4m3ActPerTensorFloat, **both)


SIDES = {
    "float": float_model,
    "pot4 by int4": quantised_model,
    "Brevitas int4 by int4": brevitas_int,
    "Brevitas 3-exponent-bit float by itself": brevitas_float,
}


def status_mib(field: str) -> float:
    """A field of /proc/self/status, MiB (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def peak_memory(side: str, threads: int) -> float:
    """MiB that three steps take at most, over what the process holds with its kernels compiled (Linux)."""
    command = [sys.executable, __file__, "--memory", side, "--threads", str(threads)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--brevitas", action="store_true")
    parser.add_argument("--memory", choices=list(SIDES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.brevitas and find_spec("brevitas") is None:
        parser.error("--brevitas needs the package: see the top of this file")
    torch.set_num_threads(options.threads)
    if options.memory:
        model = SIDES[options.memory]()
        step_of(model, batch=2)()  # compiles the kernels
        before = status_mib("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
        step = step_of(model, BATCH)
        for _ in range(3):
            step()
        print(status_mib("VmHWM") - before)
        return
    names = [name for name in SIDES if options.brevitas or "Brevitas" not in name]
    steps = {name: step_of(SIDES[name]()) for name in names}
    for step in steps.values():
        step()  # compiles kernels, fills caches
    wall: dict[str, list[float]] = {name: [] for name in names}
    processor: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name, step in steps.items():
            began, used = time.perf_counter(), time.process_time()
            step()
            wall[name].append(time.perf_counter() - began)
            processor[name].append(time.process_time() - used)
    memory = {name: peak_memory(name, options.threads) for name in names}
    print(f"{options.threads} threads, {options.rounds} rounds, fastest of each")
    print("| network | step, ms | ratio | processor time, ms | ratio | peak memory of steps, MiB | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        figures = [
            value
            for kind, first in ((min(wall[name]), min(wall["float"])), (min(processor[name]), min(processor["float"])))
            for value in (f"{1e3 * kind:.0f}", f"{kind / first:.2f}")
        ]
        ratio = memory[name] / memory["float"]
        print(f"| {name} | {' | '.join(figures)} | {memory[name]:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
