"""How a command line is read and its options are shown: typer's way, where a person is not misled by it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from tilevit.folder import FRESH
from vit.errors import EarlierWork, InputError

SHOWN = {  # what stands behind an option in --help, by typer's name of its type
    "<int>": "N",
    "<int range>": "N",
    "<float>": "X",
    "<float range>": "X",
    "<str>": "TEXT",
    "<list[str]>": "TEXT",
    "<path>": "PATH",
}


class Command(TyperCommand):
    """A command that refuses an option given twice, of which the first would be lost, and an empty value.

    One that can forget earlier work says so where that stands in the way.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Check, then parse as typer does."""
        if not ctx.resilient_parsing:  # completion of an unfinished line
            values, _, order = self.make_parser(ctx).parse_args(args=list(args))
            for param, times in Counter(order).items():
                name, value = param.opts[0], values.get(param.name)
                if times > 1 and not getattr(param, "multiple", False):
                    ctx.fail(f"{name} is given {times} times: allowed is once")
                if value == "" or (isinstance(value, (list, tuple)) and "" in value):
                    ctx.fail(f"{name} = '': allowed is a value that is not empty")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        try:
            return super().invoke(ctx)
        except EarlierWork as error:
            if not any("--fresh" in param.opts for param in self.params):
                raise
            raise InputError(error.field, error.value, error.allowed, f"{error.hint}; {FRESH}") from error

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, with `--json` in place of `--json <bool>`."""
        return _shown_well(super().get_params(ctx), ctx)


class Group(TyperGroup):
    """The commands together."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, with `--version` in place of `--version <bool>`."""
        return _shown_well(super().get_params(ctx), ctx)


def _shown_well(params: list[Any], ctx: typer.Context) -> list[Any]:
    for param in params:
        if isinstance(param, TyperOption) and param.metavar is None:
            param.metavar = "" if param.is_flag else SHOWN.get(str(param.display_type(ctx)))
    return params
