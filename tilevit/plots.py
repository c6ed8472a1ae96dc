"""The pictures of a run, each a function from its results to a matplotlib figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

Results = Mapping[str, Any]
Row = Mapping[str, Any]

BLUE, ORANGE, GREEN, RED, GREY, PURPLE = "#2f6fb0", "#e08214", "#3a923a", "#c03d3e", "#9a9a9a", "#7a5da8"
STALL_COLOURS = {"busy": GREEN, "starved": BLUE, "blocked": RED, "resource": ORANGE, "drained": "#d9d9d9"}


def figures(results: Results, stats: Sequence[Row]) -> Iterator[tuple[str, str, Figure]]:
    """Every picture of a run as (file name, caption, figure), in the order of the report."""
    yield "pareto", "Search: every candidate, and the Pareto front", pareto(results["search"])
    yield "training", "Training: loss, validation accuracy and learning rate by epoch", training(stats)
    yield (
        "stages",
        "Validation accuracy and size after each stage (checkpoints from pruning on hold the masks too)",
        stages(results["stages"]),
    )
    yield "layers", "Sparsity of each layer of the packed model", layer_sparsity(results["layers"])
    yield "codes", "How often each weight code is used, by layer", code_histograms(results["layers"])
    for mode in dict.fromkeys(row["attention"] for row in results["sweep"]):
        rows = [row for row in results["sweep"] if row["attention"] == mode]
        yield f"sweep_{mode}", f"Sweep of tile and FIFO with attention “{mode}”", heat_maps(rows, mode)
    yield "stalls", "Where each stage's cycles go", stalls(results["simulation"])


def pareto(search: Results) -> Figure:
    """Accuracy against each other objective; dominated candidates in grey."""
    names = search["objectives"]
    others = [i for i, name in enumerate(names) if name != "accuracy"]
    figure = _figure(4.6 * len(others), 3.6)
    accuracy = names.index("accuracy")
    for place, objective in enumerate(others):
        axes = figure.add_subplot(1, len(others), place + 1)
        for on_front, colour, label in ((False, GREY, "dominated"), (True, BLUE, "Pareto front")):
            chosen = [t["values"] for t in search["trials"] if t["front"] is on_front]
            if chosen:
                x, y = [v[objective] for v in chosen], [100 * v[accuracy] for v in chosen]
                axes.scatter(x, y, c=colour, label=label, s=28)
        winner = search["trials"][search["winner"]]["values"]
        x, y = [winner[objective]], [100 * winner[accuracy]]
        axes.scatter(x, y, marker="*", s=170, c=ORANGE, label="winner", edgecolors="black")
        axes.set(xlabel=names[objective], ylabel="validation accuracy, %", xscale="log")
        axes.margins(0.12)
        low, high = axes.get_ylim()
        widen = max(0.0, 2 - (high - low)) / 2  # few trials of nearly the same accuracy are no cliff
        axes.set_ylim(low - widen, high + widen)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.legend(fontsize=8)
    return figure


def training(stats: Sequence[Row]) -> Figure:
    """Loss, validation accuracy and learning rate over the epochs of all stages, one colour a stage."""
    figure = _figure(12, 3.4)
    columns = (("train_loss", "training loss"), ("val_accuracy", "validation accuracy"), ("lr", "learning rate"))
    for place, (key, label) in enumerate(columns):
        axes, start = figure.add_subplot(1, 3, place + 1), 0
        for colour, stage in zip(
            (BLUE, ORANGE, GREEN, PURPLE), dict.fromkeys(row["stage"] for row in stats), strict=False
        ):
            values = [float(row[key]) for row in stats if row["stage"] == stage]
            axes.plot(range(start + 1, start + len(values) + 1), values, c=colour, label=stage, marker=".", ms=3)
            start += len(values)
        axes.set(xlabel="epoch", ylabel=label)
        axes.legend(fontsize=8)
    return figure


CURVES = {
    "training_loss": ("train_loss", "training loss", 1.0),
    "val_accuracy": ("val_accuracy", "validation accuracy, %", 100.0),
    "learning_rate": ("lr", "learning rate", 1.0),
    "epoch_time": ("seconds", "time of an epoch, s", 1.0),
}


def curves(stats: Sequence[Row]) -> Iterator[tuple[str, Figure]]:
    """A picture for each of CURVES, as (file name, figure): every training from its own first epoch."""
    names = list(dict.fromkeys(row["stage"] for row in stats))
    for name, (key, label, scale) in CURVES.items():
        figure = _figure(6, 3.6)
        axes = figure.add_subplot()
        for stage in names:
            rows = [row for row in stats if row["stage"] == stage]
            epochs, values = [float(row["epoch"]) for row in rows], [scale * float(row[key]) for row in rows]
            axes.plot(epochs, values, label=stage, marker=".", ms=3)
        axes.set(xlabel="epoch", ylabel=label)
        if names:
            axes.legend(fontsize=8)
        yield name, figure


def stages(rows: Sequence[Row]) -> Figure:
    """Accuracy and size on disk after each stage, as bars; wide enough for what is written on them."""
    figure = _figure(max(9, 1.5 * len(rows)), 3.4)
    for place, (key, label, scale) in enumerate(
        (("val_accuracy", "validation accuracy, %", 100.0), ("size_bytes", "size on disk, KiB", 1 / 1024))
    ):
        axes = figure.add_subplot(1, 2, place + 1)
        bars = axes.bar([row["name"] for row in rows], [row[key] * scale for row in rows], color=(BLUE, ORANGE)[place])
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
        axes.set_ylabel(label)
        for name in axes.get_xticklabels():
            name.set(rotation=20, ha="right", rotation_mode="anchor")
        axes.margins(y=0.12)
    return figure


def layer_sparsity(layers: Sequence[Row]) -> Figure:
    """Share of weights that are zero, a bar a layer."""
    figure = _figure(10, 0.28 * len(layers) + 1.0)
    axes = figure.add_subplot()
    axes.barh([row["name"] for row in layers], [row["sparsity"] for row in layers], color=BLUE)
    axes.set(xlabel="share of weights that are zero", xlim=(0, 1))
    axes.invert_yaxis()
    return figure


def code_histograms(layers: Sequence[Row]) -> Figure:
    """Share of each weight level in each quantised layer, as a heat map: layers down, levels across."""
    quantised = [row for row in layers if row["codes"]]
    figure = _figure(10, 0.28 * len(quantised) + 1.4)
    axes = figure.add_subplot()
    levels = sorted({int(level) for row in quantised for level in row["codes"]})
    shares = [[row["codes"].get(str(level), 0) / sum(row["codes"].values()) for level in levels] for row in quantised]
    if quantised:
        image = axes.imshow(shares, aspect="auto", cmap="Blues", vmin=0)
        figure.colorbar(image, ax=axes, label="share of weights")
    axes.set_xticks(range(len(levels)), [str(level) for level in levels], fontsize=7)
    axes.set_yticks(range(len(quantised)), [row["name"] for row in quantised], fontsize=7)
    axes.set_xlabel("level (times the channel's scale)")
    return figure


def heat_maps(rows: Sequence[Row], mode: str) -> Figure:
    """Accuracy, cycles and SRAM over tile x FIFO for one attention mode."""
    tiles, fifos = sorted({row["tile"] for row in rows}), sorted({row["fifo"] for row in rows})
    by_place = {(row["tile"], row["fifo"]): row for row in rows}
    figure = _figure(12, 3.6)
    columns = (
        ("accuracy", "validation accuracy, %", 100.0),
        ("cycles", "cycles an image", 1.0),
        ("sram_kib", "SRAM, KiB", 1.0),
    )
    for place, (key, label, scale) in enumerate(columns):
        axes = figure.add_subplot(1, 3, place + 1)
        values = [[_scaled(by_place[tile, fifo][key], scale) for fifo in fifos] for tile in tiles]
        image = axes.imshow(values, aspect="auto", cmap="viridis" if key == "accuracy" else "viridis_r")
        figure.colorbar(image, ax=axes)
        _annotate(axes, values)
        axes.set_xticks(range(len(fifos)), [str(f) for f in fifos])
        axes.set_yticks(range(len(tiles)), [str(t) for t in tiles])
        axes.set(xlabel="FIFO depth, tiles", ylabel="tile, tokens", title=label)
    figure.suptitle(f"attention {mode}", fontsize=10)
    return figure


def _scaled(value: float | None, scale: float) -> float:
    return float("nan") if value is None else value * scale


def _annotate(axes: Axes, values: Sequence[Sequence[float]]) -> None:
    flat = [v for line in values for v in line if v == v]
    spread = max(flat) - min(flat) if flat else 0.0
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            text = "-" if value != value else (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}")
            dark = spread > 0 and (value - min(flat)) / spread < 0.5
            light_text = dark if axes.images[0].get_cmap().name == "viridis" else spread > 0 and not dark
            axes.text(x, y, text, ha="center", va="center", fontsize=7, color="white" if light_text else "black")


def stalls(simulation: Results) -> Figure:
    """The cycles of each stage by cause; each bar is the makespan."""
    ledger: Mapping[str, Mapping[str, int]] = simulation["stalls"]
    figure = _figure(10, 0.2 * len(ledger) + 1.4)
    axes = figure.add_subplot()
    left = [0] * len(ledger)
    for cause, colour in STALL_COLOURS.items():
        widths = [row[cause] for row in ledger.values()]
        axes.barh(list(ledger), widths, left=left, color=colour, label=cause)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_xlabel("cycles")
    axes.tick_params(axis="y", labelsize=6)
    axes.invert_yaxis()
    axes.legend(ncols=5, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.0 + 0.6 / max(1, len(ledger)) + 0.03))
    return figure


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, max(2.0, height)), dpi=110, layout="constrained")
