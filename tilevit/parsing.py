"""How the options of a command are read: what typer would let through and a person did not mean is refused."""

from __future__ import annotations

from collections import Counter

import typer
from typer.core import TyperCommand


class Command(TyperCommand):
    """A command that refuses an option given twice, of which the first would be lost, and an empty value."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
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
