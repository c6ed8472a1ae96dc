"""Pieces of LLVM code that the tiles of both matrix products are built from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def load(builder: Any, address: Any, kind: Any, align: int = 1) -> Any:
    """The value of that type at an address."""
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = align
    return value


def store(builder: Any, value: Any, address: Any, align: int = 1) -> None:
    """Put the value at an address."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = align


def carry(values: Iterable[tuple[Any, Any, Any]], before: Any, loop: Any) -> None:
    """Let each phi (phi, first, later) be `first` on coming from the block `before`, and `later` from turn to turn."""
    for phi, first, later in values:
        phi.add_incoming(first, before)
        phi.add_incoming(later, loop)
