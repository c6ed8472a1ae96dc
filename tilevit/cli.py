"""The `tilevit` command: its subcommands, and how a mistake is told (one line, exit code 2)."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from tilevit import __version__
from tilevit.commands import (
    compress_commands,
    hardware_commands,
    profile_command,
    run_commands,
    search_commands,
    training_commands,
)
from tilevit.console import say
from tilevit.parsing import Command, Group

HELP = """Find a tiny Vision Transformer together with the streaming hardware that runs it.

**Start here**: `tilevit run --data digits` goes from images to a report in one command: search, training,
pruning, 4-bit power-of-two quantisation, cycle-exact FIFO simulation. The other commands are its steps, one by one.

Every command takes `--help`. `--json` prints the result alone on stdout; progress goes to stderr. Work that is stopped
goes on where it was when the same command is given again. Bad input is told in one line, with exit code 2.
"""

INTERRUPTED = 130
NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)

app = typer.Typer(
    cls=Group,
    help=HELP,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=True,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"tilevit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


for room in (run_commands, search_commands, training_commands, compress_commands, hardware_commands, profile_command):
    room.register(app)
for registered in app.registered_commands:
    registered.cls = Command


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; leaves through SystemExit with 0, 1 (a defect), 2 (bad input) or 130 (interrupted)."""
    sys.exit(_exit_code(list(sys.argv[1:] if arguments is None else arguments)))


def _exit_code(arguments: list[str]) -> int:
    usage_error: Any = typer.BadParameter.__base__  # click's, which typer carries inside itself
    try:
        result = typer.main.get_command(app)(arguments, prog_name="tilevit", standalone_mode=False)
        if result == INTERRUPTED:  # typer has made an exit code of the interrupt
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except usage_error as error:
        return _refuse(_usage(error, arguments))
    except (KeyboardInterrupt, typer.Abort):
        say("stopped; the same command goes on from here")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in NO_PLACE:
            raise
        return _refuse(f"{error.filename or 'output'}: a writable place with free space is needed; {error.strerror}")
    except ValueError as error:
        from vit.errors import InputError

        if not isinstance(error, InputError):
            raise
        return _refuse(str(error))


def _usage(error: Any, arguments: Sequence[str]) -> str:
    """What is wrong with the options, in one line, with the value that was given: the parser leaves it out."""
    message = " ".join(error.format_message().split()) or "a command is needed; see tilevit --help"
    for option in getattr(getattr(error, "param", None), "opts", ()):
        for i, argument in enumerate(arguments):
            if argument == option and i + 1 < len(arguments):
                return f"{message} (given: {arguments[i + 1]!r})"
            if argument.startswith(f"{option}="):
                return f"{message} (given: {argument.partition('=')[2]!r})"
    return message


def _refuse(message: str) -> int:
    say(f"tilevit: {message}")
    return 2
