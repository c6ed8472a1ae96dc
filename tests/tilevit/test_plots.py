"""The pictures of a run where there is little to show."""

from itertools import pairwise

import pytest

from tilevit.plots import pareto, stages


def search_of(values, front):
    trials = [{"params": {}, "values": v, "front": f} for v, f in zip(values, front, strict=True)]
    return {"objectives": ["accuracy", "params", "cycles"], "trials": trials, "winner": 0}


@pytest.mark.parametrize(
    ("values", "front", "labels"),
    [
        ([[0.9, 100, 50]], [True], ["Pareto front", "winner"]),
        ([[0.9, 100, 50], [0.901, 200, 50]], [True, True], ["Pareto front", "winner"]),
        ([[0.9, 100, 50], [0.2, 200, 60]], [True, False], ["dominated", "Pareto front", "winner"]),
    ],
)
def test_a_front_of_few_trials_is_readable(values, front, labels):
    figure = pareto(search_of(values, front))
    for i, axes in enumerate(figure.axes, start=1):
        assert [text.get_text() for text in axes.get_legend().get_texts()] == labels
        low, high = axes.get_ylim()
        assert high - low >= 2  # points of accuracy
        left, right = axes.get_xlim()
        for value in values:
            assert low < 100 * value[0] < high
            assert left < value[i] < right


def test_the_names_and_figures_on_many_bars_keep_clear_of_one_another():
    rows = [{"name": f"pruned_{i}_by_magnitude", "val_accuracy": 0.5, "size_bytes": 42_790_000} for i in range(12)]
    figure = stages(rows)
    figure.draw_without_rendering()
    for axes in figure.axes:
        written = [text.get_window_extent() for text in axes.texts]
        assert all(left.x1 < right.x0 for left, right in pairwise(written))
        ends = [name.get_window_extent().x1 for name in axes.get_xticklabels()]  # each name ends below its bar
        assert all(end < text.x1 for end, text in zip(ends, written, strict=True))
