"""Options that would change nothing where they are given: refused, because who gives one means it to count.

Not so --data, --val-fraction, --seed and --device: one set of them serves all commands of a script.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vit.errors import InputError


def refuse_idle(given: Mapping[str, Any], names: Iterable[str], where: str, prefix: str = "") -> None:
    """Refuse the options called `names` here.

    Args:
        given: the options that were given, {name: value}, without those left at their defaults.
        where: why they are idle, such as "without --data".
        prefix: of the name in the message.

    Raises:
        InputError: one of them was given.
    """
    for name in names:
        if name in given:
            value = str(given[name]) if isinstance(given[name], Path) else given[name]
            raise InputError(prefix + name, value, f"left out {where}", "it would change nothing")


def refuse_idle_in_step(kind: str, given: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse what changes nothing in a step of this kind, be it a command or a table in a file of steps.

    Raises:
        InputError: such an option was given.
    """
    from tilevit.training import AFTER_PRUNING, AFTER_QUANTISING, retraining_table

    def trained_after(usual: Mapping[str, Any]) -> bool:
        return bool(retraining_table(given.get("recipe"), given.get("epochs"), None, usual)["epochs"])

    def refuse(used: object, names: tuple[str, ...], where: str) -> None:
        if not used:
            refuse_idle(given, names, where, prefix)

    overridden = "epochs" in given  # 0 beside a recipe says that its epochs are not wanted
    if kind == "distill":
        refuse(not given.get("hard"), ("temp",), "with hard")
    elif kind == "prune":
        gated = given.get("importance") == "gate"
        trains = trained_after(AFTER_PRUNING)
        refuse("sparsity" in given, ("scope",), "without sparsity")
        refuse(any(given.get(name) for name in ("heads", "mlp", "channels")), ("round_to",), "unless units are cut")
        refuse(gated, ("gate_epochs", "gate_penalty"), "unless importance is gate")
        refuse(gated or trains, ("lr",), "without epochs")
        refuse(trains or overridden, ("recipe",), "without epochs")
    elif kind == "qat":
        trains = trained_after(AFTER_QUANTISING)
        budgets = [name for name in ("budget_kib", "budget_nj") if name in given]
        refuse(not budgets, ("weights",), f"beside {' and '.join(budgets)}")
        refuse(budgets, ("schemes",), "without budget_kib or budget_nj")
        refuse("budget_nj" in given, ("hardware",), "without budget_nj")
        refuse(trains, ("lr",), "without epochs")
        refuse(trains or overridden, ("recipe",), "without epochs")
