"""One pipeline under many depth settings: the front door for sweeps and for searches over FIFO sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import kernels.sim_layout as at
from fifo_sim.compile import layout_of
from fifo_sim.pattern import LARGEST
from fifo_sim.pipeline import Pipeline
from fifo_sim.simulator import run
from vit.errors import InputError

Depths = npt.NDArray[np.int64] | Sequence[Sequence[int]]


def simulate_many(pipeline: Pipeline | Mapping[str, Any], depths: Depths) -> npt.NDArray[np.int64]:
    """Cycles of a pipeline under each of many settings of its FIFO depths.

    Args:
        pipeline: a Pipeline, or a dict of the kind `Pipeline.from_dict` reads; its own depths do not matter.
        depths: whole numbers >= 1 of shape (configs, edges), columns in edge order.

    Returns:
        int64 array of shape (configs,): what `simulate` gives as cycles, or -1 where it deadlocks.

    Raises:
        InputError: depths of another shape or kind, or a run beyond 2^61 cycles.
    """
    if not isinstance(pipeline, Pipeline):
        pipeline = Pipeline.from_dict(pipeline)
    settings = _checked(depths, len(pipeline.edges))
    layout = layout_of(pipeline)
    cycles = np.empty(len(settings), np.int64)
    for i, setting in enumerate(settings):
        state = layout.state(setting, history=False)
        run(layout, state)
        finished = (state.stages[:, at.FIRED] == state.stages[:, at.FIRINGS]).all()
        cycles[i] = state.stages[:, at.FREE].max() if finished else -1
    return cycles


def _checked(depths: Depths, edges: int) -> npt.NDArray[np.int64]:
    try:
        array = np.asarray(depths)
    except ValueError:
        array = np.empty(0)
    if array.ndim != 2 or array.shape[1] != edges or (array.size and array.dtype.kind not in "iu"):
        shown = f"array of {array.dtype} with shape {array.shape}"
        raise InputError("depths", shown, f"whole numbers of shape (configs, {edges}), one column an edge")
    if array.size and (array.min() < 1 or array.max() > LARGEST):
        wrong = array.min() if array.min() < 1 else array.max()
        raise InputError("depths", int(wrong), "whole numbers from 1 to 2^61")
    return array.astype(np.int64)
