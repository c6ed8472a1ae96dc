"""What is left of the accuracy after units are cut by magnitude, by Taylor expansion and by learned gates.

    python benchmarks/pruning_importance.py [--seeds 2]

A small model is trained on the digits for 25 epochs, and then for 10 more: as it is (then cut by magnitude or Taylor),
or with gates on what is to be cut. So every side has had the same training. What is printed is the validation accuracy
straight after the cut, before any recovery, and before it ("uncut", "with gates"), mean of the seeds.
"""

from __future__ import annotations

import argparse
import copy
import statistics

import torch

from prune import learn_gates, structured_prune
from vit import Recipe, ViTConfig, create_model, evaluate, fit, load_data

SHAPE = ViTConfig(image_size=8, patch_size=2, in_channels=1, dim=48, depth=3, heads=4, pool="mean")
CUTS = {
    "40 % of the heads": {"heads": 0.4, "mlp": 0.0, "channels": 0.0},
    "50 % of the MLP units": {"heads": 0.0, "mlp": 0.5, "channels": 0.0},
    "35 % of the channels": {"heads": 0.0, "mlp": 0.0, "channels": 0.35},
}


def accuracies(seed: int) -> dict[str, dict[str, float]]:
    """{cut: {importance: validation accuracy}}, and of the models uncut."""
    data = load_data("digits")
    torch.manual_seed(seed)
    model = create_model(SHAPE)
    fit(model, data, Recipe.for_data("digits", epochs=25, lr=2e-3, seed=seed))
    more = Recipe.for_data("digits", epochs=10, lr=1e-3, seed=seed)
    plain = copy.deepcopy(model)
    fit(plain, data, more)
    found: dict[str, dict[str, float]] = {}
    for cut, shares in CUTS.items():
        gated, gates = learn_gates(model, data, more, kinds=[kind for kind, share in shares.items() if share])
        sides = {"magnitude": (plain, "magnitude"), "taylor": (plain, "taylor"), "gate": (gated, gates)}
        found[cut] = {"uncut": evaluate(plain, data.val).accuracy, "with gates": evaluate(gated, data.val).accuracy}
        for name, (trained, importance) in sides.items():
            smaller = structured_prune(trained, **shares, round_to=2, importance=importance, data=data)
            found[cut][name] = evaluate(smaller, data.val).accuracy
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = [accuracies(seed) for seed in range(options.seeds)]
    sides = list(next(iter(runs[0].values())))
    print(f"{'cut':24}" + "".join(f"{name:>12}" for name in sides))
    for cut in CUTS:
        means = [100 * statistics.mean(run[cut][name] for run in runs) for name in sides]
        print(f"{cut:24}" + "".join(f"{mean:10.1f} %" for mean in means))


if __name__ == "__main__":
    main()
