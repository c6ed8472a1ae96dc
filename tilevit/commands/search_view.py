"""What a person sees while a search runs: the front as it grows, and how far the search is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tilevit.console import cell, percent, progress

if TYPE_CHECKING:
    from optuna import Study
    from rich.console import Console
    from rich.table import Table

    from nas import Progress

ROWS = 12  # of the front that are shown while it grows


@contextmanager
def live_front(trials: int, epochs: int, console: Console | None = None) -> Iterator[Callable[[Progress], None]]:
    """Show the front in the terminal while a search runs; yields what `nas.search` takes as its `progress`.

    Args:
        trials, epochs: of the search, and of each candidate.
        console: where to show it; None is stderr, where without a terminal only a first line is told.
    """
    if console is None and not sys.stderr.isatty():
        with progress("search", trials * epochs) as tick:
            yield lambda state: tick()
        return
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn()
    )
    task = bars.add_task(f"trial 1/{trials}", total=trials * epochs)
    with Live(bars, console=console or Console(stderr=True), refresh_per_second=4, transient=True) as live:

        def show(state: Progress) -> None:
            ended = state.values is not None or state.stopped
            steps = state.done * epochs + (0 if ended else state.epoch)
            bars.update(task, completed=steps, description=f"trial {min(state.done + 1, trials)}/{trials}")
            if ended and state.study is not None:
                live.update(Group(front_table(state.study, ROWS), bars))

        yield show


def show_front(study: Study) -> None:
    """Print the whole front on stdout."""
    from rich.console import Console

    Console().print(front_table(study))


def front_table(study: Study, rows: int | None = None) -> Table:
    """The front of a study, the most accurate first, with how many trials are behind it; `rows` of it, or all."""
    from rich.table import Table

    from nas import front, inherits
    from nas.pareto import ended, finished

    names, best = study.metric_names or [], front(study)
    done = len(finished(study))
    stopped = len(ended(study)) - done
    note = f", {stopped} more stopped early" if stopped else ""
    inherited = ", accuracy with the weights of a supernet" if inherits(study) else ""
    table = Table(title=f"Pareto front of {done} trials{note}{inherited}", title_justify="left")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("candidate", overflow="fold")
    column = names.index("accuracy") if "accuracy" in names else 0
    best.sort(key=lambda trial: -trial.values[column] if "accuracy" in names else trial.values[column])
    for trial in best[:rows]:
        values = [percent(v) if n == "accuracy" else cell(float(v)) for n, v in zip(names, trial.values, strict=True)]
        table.add_row(*values, " ".join(f"{name}={value}" for name, value in trial.params.items()))
    if rows is not None and len(best) > rows:
        table.caption = f"and {len(best) - rows} more"
    return table
