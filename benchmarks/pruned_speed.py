"""How much of the work that structured pruning removes is removed from the clock.

    python benchmarks/pruned_speed.py [--rounds 15] [--batch 32] [--threads 1] [--onnx]

A model and its pruned copies predict the same images in turns. The figure is the share of time saved over the share of
multiply-accumulates saved: 1 where the clock follows the arithmetic, 0 where a mask would leave it. The median over the
rounds of the ratio within a round; the target is 0.8 at about 40 % fewer multiply-accumulates.

Beside them runs a skeleton: the same operators, as many of them, at dim 16 and one head, with a hundredth of the
multiply-accumulates. Its time is what torch takes to call them, which no pruning shortens: "beyond the calls" is the
same figure with that time taken off both sides. With --onnx the models are exported, and onnxruntime runs them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from prune import structured_prune
from quant import export_onnx
from quant.onnx_session import open_session
from vit import ViTConfig, create_model
from vit.macs import count_macs

Runner = Callable[[nn.Module, torch.Tensor], Callable[[], object]]
MODELS = {
    "dim 256, depth 8, 32x32": (ViTConfig(dim=256, depth=8, heads=8, mlp_ratio=2.0), 32),
    "dim 192, depth 9, 32x32": (ViTConfig(dim=192, depth=9, heads=6, mlp_ratio=4.0), 32),
    "timm vit_tiny, 224x224": ("vit_tiny_patch16_224", 224),
}
CUTS = {
    "heads and MLP units": {"heads": 0.42, "mlp": 0.42, "channels": 0.0},
    "all three kinds": {"heads": 0.24, "mlp": 0.24, "channels": 0.24},
}


def in_torch(model: nn.Module, images: torch.Tensor) -> Callable[[], object]:
    """A pass of the model itself."""
    return torch.inference_mode()(lambda: model(images))


def in_onnxruntime(model: nn.Module, images: torch.Tensor) -> Callable[[], object]:
    """A pass of the model exported, on as many threads as torch has."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "model.onnx"
        export_onnx(model, file)
        session = open_session(file, torch.get_num_threads())
    return lambda: session.run(None, {session.get_inputs()[0].name: images.numpy()})


def seconds(run: Callable[[], object]) -> float:
    """Time of one pass."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def skeleton_of(spec: ViTConfig | str, size: int) -> nn.Module:
    """A model of the same operators with next to nothing to multiply."""
    if isinstance(spec, ViTConfig):
        return create_model(replace(spec, dim=16, heads=1, mlp_ratio=1.0))
    return create_model({"timm": spec, "embed_dim": 16, "num_heads": 1, "mlp_ratio": 1.0}, 10, size)


def compare(
    title: str, model: nn.Module, skeleton: nn.Module, images: torch.Tensor, rounds: int, runner: Runner
) -> list[float]:
    """Print and return the share of time saved over the share of MACs saved, a figure a cut."""
    sides = [model, *(structured_prune(model, **cut) for cut in CUTS.values()), skeleton]
    macs = [count_macs(side, images[:1]) for side in sides]
    runs = [runner(side, images) for side in sides]
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds + 2):
        for run, kept in zip(runs, times, strict=True):
            kept.append(seconds(run))
    whole, calls = times[0][2:], times[-1][2:]  # the first rounds warm up
    print(
        f"{title}: {macs[0] / 1e6:,.1f} M MACs, {1e3 * statistics.median(whole):.1f} ms for {len(images)} images, "
        f"{1e3 * statistics.median(calls):.1f} of them calls (skeleton: {macs[-1] / 1e6:.1f} M MACs)"
    )
    figures = []
    for name, fewer, measured in zip(CUTS, macs[1:-1], times[1:-1], strict=True):
        rounds_of = list(zip(measured[2:], whole, calls, strict=True))
        saved = statistics.median(1 - one / other for one, other, _ in rounds_of)
        beyond = statistics.median(1 - (one - call) / (other - call) for one, other, call in rounds_of)
        work = 1 - fewer / macs[0]
        figures.append(saved / work)
        print(
            f"  {name:20} {-100 * work:6.1f} % MACs {-100 * saved:6.1f} % time   ratio {saved / work:.2f}, "
            f"{beyond / work:.2f} beyond the calls"
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--onnx", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    where, runner = ("onnxruntime", in_onnxruntime) if options.onnx else (f"torch {torch.__version__}", in_torch)
    print(f"{where}, {options.threads} threads, {options.rounds} rounds")
    figures = []
    for title, (spec, size) in MODELS.items():
        torch.manual_seed(0)
        model = create_model(spec, 10, size).eval()
        images = torch.randn(max(1, options.batch * 32 // size), 3, size, size)
        figures += compare(title, model, skeleton_of(spec, size).eval(), images, options.rounds, runner)
    print(f"smallest ratio: {min(figures):.2f}; the target is 0.8")


if __name__ == "__main__":
    main()
