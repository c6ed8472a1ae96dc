"""The timeline of a run as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fifo_sim.given import pipeline_of
from fifo_sim.replay import Replay, refuse_long_runs
from fifo_sim.simulator import simulate
from fifo_sim.spans import STATES
from fifo_sim.window import window_of
from vit.errors import InputError
from vit.files import written_aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fifo_sim.given import Given

MOST_BARS = 20_000  # more cannot be told apart
MOST_STAGES = 500
COLOURS = ("#3a923a", "#2f6fb0", "#c03d3e", "#e08214", "#d9d9d9")  # of the states, in their order


def gantt(pipeline: Given, path: str | Path | None = None, begin: int = 0, end: int | None = None) -> Figure:
    """Simulate a pipeline and draw what each stage does when: busy, starved, blocked, waiting for a port, drained.

    A picture has at most MOST_BARS bars: a longer timeline ends where they are used up; its title states the cycles.

    Args:
        pipeline: a Pipeline, a dict of the kind `Pipeline.from_dict` reads, or what `lower` gives.
        path: file to write as well, whole or not at all; the suffix says what kind (png, svg, pdf).
        begin, end: the cycles wanted; by default all.

    Raises:
        InputError: the cycles are no window of the run, more than 500 stages or 2^22 firings, an unknown suffix, or a
            file that cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    asked = pipeline_of(pipeline)
    refuse_long_runs(asked, "a picture")
    if len(asked.stages) > MOST_STAGES:
        raise InputError("stages", f"{len(asked.stages)} stages", f"at most {MOST_STAGES} in a picture", "try a trace")
    result = simulate(asked)
    window = window_of(Replay(asked, result), begin, end, MOST_BARS, fills=False)
    figure = Figure(figsize=(14, 1.6 + 0.24 * len(asked.stages)), layout="constrained")
    axes = figure.add_subplot()
    for row, spans in enumerate(window.slices):
        bars = np.stack([spans.begin, spans.end - spans.begin], axis=1)
        colours = [COLOURS[state] for state in spans.state.tolist()]
        axes.broken_barh(bars.tolist(), (row - 0.42, 0.84), facecolors=colours, linewidth=0)
    total = f"deadlock after {result.horizon:,}" if result.deadlock else f"{result.horizon:,}"
    shown = "" if window.begin == 0 and window.end == result.horizon else f", shown: {window.begin:,} to {window.end:,}"
    axes.set(
        title=f"{total} cycles{shown}",
        xlabel="cycle",
        xlim=(window.begin, window.end),
        ylim=(len(asked.stages) - 0.5, -0.5),
        yticks=range(len(asked.stages)),
        yticklabels=[stage.name for stage in asked.stages],
    )
    keys = [Patch(color=colour, label=state) for colour, state in zip(COLOURS, STATES, strict=True)]
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False)
    if path is not None:
        _save(figure, Path(path))
    return figure


def _save(figure: Figure, path: Path) -> None:
    known = figure.canvas.get_supported_filetypes()
    kind = path.suffix.removeprefix(".").lower()
    if kind not in known:
        raise InputError("output", str(path), "a file name that ends in " + ", ".join(f".{name}" for name in known))
    with written_aside(path) as aside:
        figure.savefig(aside, format=kind, dpi=120)
