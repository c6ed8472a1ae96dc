"""How much of the work that structured pruning removes is removed from the clock.

    python benchmarks/pruned_speed.py [--rounds 15] [--batch 32] [--threads 1]

A model and its pruned copies predict the same images in turns. The figure is the share of time saved over the share of
multiply-accumulates saved: 1 where the clock follows the arithmetic, 0 where a mask would leave it. The median over the
rounds of the ratio within a round; the target is 0.8 at about 40 % fewer multiply-accumulates.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from prune import structured_prune
from vit import ViTConfig, create_model
from vit.macs import count_macs

MODELS = {
    "dim 256, depth 8, 32x32": (ViTConfig(dim=256, depth=8, heads=8, mlp_ratio=2.0), 32),
    "dim 192, depth 9, 32x32": (ViTConfig(dim=192, depth=9, heads=6, mlp_ratio=4.0), 32),
    "timm vit_tiny, 224x224": ("vit_tiny_patch16_224", 224),
}
CUTS = {
    "heads and MLP units": {"heads": 0.42, "mlp": 0.42, "channels": 0.0},
    "all three kinds": {"heads": 0.24, "mlp": 0.24, "channels": 0.24},
}


def seconds(model: nn.Module, images: torch.Tensor) -> float:
    """Time of one pass."""
    began = time.perf_counter()
    with torch.inference_mode():
        model(images)
    return time.perf_counter() - began


def compare(title: str, model: nn.Module, images: torch.Tensor, rounds: int) -> list[float]:
    """Print and return the share of time saved over the share of MACs saved, a figure a cut."""
    sides = [model, *(structured_prune(model, **cut) for cut in CUTS.values())]
    macs = [count_macs(side, images[:1]) for side in sides]
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds + 2):
        for side, kept in zip(sides, times, strict=True):
            kept.append(seconds(side, images))
    whole = times[0][2:]  # the first rounds warm up
    print(f"{title}: {macs[0] / 1e6:,.1f} M MACs, {1e3 * statistics.median(whole):.1f} ms for {len(images)} images")
    figures = []
    for name, fewer, measured in zip(CUTS, macs[1:], times[1:], strict=True):
        saved = statistics.median(1 - one / other for one, other in zip(measured[2:], whole, strict=True))
        work = 1 - fewer / macs[0]
        figures.append(saved / work)
        print(f"  {name:20} {-100 * work:6.1f} % MACs {-100 * saved:6.1f} % time   ratio {saved / work:.2f}")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, {options.rounds} rounds")
    figures = []
    for title, (spec, size) in MODELS.items():
        torch.manual_seed(0)
        model = create_model(spec, 10, size).eval()
        figures += compare(title, model, torch.randn(max(1, options.batch * 32 // size), 3, size, size), options.rounds)
    print(f"smallest ratio: {min(figures):.2f}; the target is 0.8")


if __name__ == "__main__":
    main()
