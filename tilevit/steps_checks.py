"""What is wrong with a step's options whatever its model is: told before any step of a file is taken.

The bounds are those of the functions that take the options; here they are only called early.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fifo_sim import Hardware
from prune.gates import require_penalty
from prune.magnitude import require_target
from prune.nm import require_pattern
from prune.structured import require_cut
from quant import QuantConfig
from quant.onnx_quantiser import METHODS
from tilevit.mixed_precision import require_one_budget, require_schemes
from tilevit.training import recipe_table, retraining_table
from vit.distillation import Terms
from vit.errors import InputError, require_choice, require_int
from vit.recipe import Recipe

SPLITS = ("test", "val", "train")  # of evaluate
PROFILE_SPLITS = ("val", "test")
Options = Mapping[str, Any]


def check_values(kind: str, options: Options) -> None:
    """Refuse choices and numbers that a step of this kind can do nothing with.

    Args:
        options: all that its function takes, with the defaults of what was not given.

    Raises:
        InputError: such a value was given.
    """
    CHECKS[kind](options)


def nm_of(text: str) -> tuple[int, int]:
    """The two numbers of a pattern N:M.

    Raises:
        InputError: another text, or N no less than M.
    """
    n, _, m = text.partition(":")
    if not (n.isdecimal() and m.isdecimal()):
        raise InputError("nm", text, "N:M, such as 2:4")
    require_pattern(int(n), int(m))
    return int(n), int(m)


def require_one_way(sparsity: float | None, nm: str | None, shares: Mapping[str, float], importance: str) -> None:
    """Raise an InputError unless a step prunes in one way, and an importance is given only where units are cut."""
    cut = any(shares.values())
    ways = [sparsity is not None, nm is not None, cut]
    if sum(ways) != 1:
        raise InputError("prune", f"{sum(ways)} ways given", "one of --sparsity, --nm, or --heads/--mlp/--channels")
    if importance != "magnitude" and not cut:
        raise InputError("importance", importance, "magnitude, unless --heads, --mlp or --channels are cut")


def _check_training(options: Options) -> None:
    given = {name: options[name] for name in ("epochs", "batch_size", "lr") if options.get(name) is not None}
    Recipe.from_dict({**recipe_table(options["recipe"]), **given})


def _check_retraining(options: Options) -> None:
    """As `_check_training`, of a step that may also go without: 0 epochs are none."""
    table = retraining_table(options["recipe"], options["epochs"], options["lr"], {"epochs": 0})
    Recipe.from_dict({**table, "epochs": table["epochs"] or 1})


def _check_distill(options: Options) -> None:
    Terms(**{name: options[name] for name in ("temp", "lam_kd", "lam_f", "lam_ce", "hard")})
    _check_training(options)


def _check_prune(options: Options) -> None:
    shares = {name: options[name] for name in ("heads", "mlp", "channels")}
    require_cut(shares, options["round_to"], options["importance"])
    require_one_way(options["sparsity"], options["nm"], shares, options["importance"])
    if options["sparsity"] is not None:
        require_target(options["sparsity"], options["scope"])
    if options["nm"] is not None:
        nm_of(options["nm"])
    require_int("gate_epochs", options["gate_epochs"])
    require_penalty("gate_penalty", options["gate_penalty"])
    _check_retraining(options)


def _check_qat(options: Options) -> None:
    names = ("weights", "activations", "probabilities")
    QuantConfig(**{name: options[name] for name in names}, skip=tuple(options["skip"] or ()))
    require_one_budget(options["budget_kib"], options["budget_nj"])
    if options["schemes"] is not None:
        require_schemes(options["schemes"])
    if options["hardware"] is not None:
        Hardware.load(options["hardware"])
    _check_retraining(options)


def _check_ptq(options: Options) -> None:
    require_choice("method", options["method"], METHODS)
    require_int("calibration_images", options["calibration_images"])


def _check_evaluate(options: Options) -> None:
    require_choice("split", options["split"], SPLITS)


def _check_profile(options: Options) -> None:
    require_choice("split", options["split"], PROFILE_SPLITS)
    require_int("batch", options["batch"])
    require_int("rounds", options["rounds"])
    if options["hardware"] is not None:
        Hardware.load(options["hardware"])


CHECKS: dict[str, Callable[[Options], None]] = {
    "train": _check_training,
    "distill": _check_distill,
    "prune": _check_prune,
    "qat": _check_qat,
    "ptq": _check_ptq,
    "evaluate": _check_evaluate,
    "profile": _check_profile,
}
