"""Public names of a package, imported on first use (PEP 562).

Keeps `import tilevit` light: torch, numba and matplotlib load when a name that needs them is first touched.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_exports(
    package: str, exports: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose public names are `exports`: {submodule: names}.

    Raises:
        ValueError: a public name is also a submodule; importing that would put the module in the name's place.
    """
    home = {name: module for module, names in exports.items() for name in names}
    for name in home:
        if importlib.util.find_spec(f"{package}.{name}") is not None:
            raise ValueError(f"{package}.{name} is a public name and a submodule: rename the submodule")

    def __getattr__(name: str) -> Any:
        if name in home:
            return getattr(importlib.import_module(f"{package}.{home[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted(home)

    return __getattr__, __dir__, sorted(home)
