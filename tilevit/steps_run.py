"""The run of a file of steps: each step taken once, its result kept, all results in one page at the end."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tilevit import __version__
from tilevit.console import say
from tilevit.folder import RunFolder
from tilevit.models import ONNX, load_model
from tilevit.run import VERSIONED
from tilevit.steps_file import KINDS, REFERENCES, Step, StepsConfig, named
from tilevit.steps_report import write_page
from tilevit.training import Place, stats_csv
from vit import DataSplits, load_data, resolve_device
from vit.errors import InputError
from vit.files import write_json, write_text
from vit.teacher import require_timm_name

TRAINED = ("train", "distill")


def run_steps(config: StepsConfig, out: str | Path, *, fresh: bool = False) -> dict[str, Any]:
    """Take every step that is not finished in the folder; returns what results.json holds.

    Raises:
        InputError: bad settings or data, a model that is not there, or a folder that belongs to another run.
    """
    resolve_device(config.device)
    data = load_data(
        config.data, image_size=config.image_size or None, val_fraction=config.val_fraction, seed=config.seed
    )
    _check_models(config, data)
    if any(step.options.get("split", "test" if step.run == "evaluate" else "") == "test" for step in config.steps):
        data.check_test()
    folder = RunFolder(out, config, fresh=fresh)
    try:
        done = {step.name: folder.stage(step.name, *_work(step, config, data, folder)) for step in config.steps}
        return _written(config, data, folder, done)
    finally:
        folder.close()


def _work(
    step: Step, config: StepsConfig, data: DataSplits, folder: RunFolder
) -> tuple[Callable[[], dict[str, Any]], list[str]]:
    """What takes the step, and the files in the folder that later steps read."""
    checkpoints = folder / "checkpoints"
    before = config.steps[: config.steps.index(step)]
    known = {name: file for earlier in before for name, file in earlier.outputs().items()}
    options = {
        key: _resolved(value, known, checkpoints) if key in REFERENCES else value for key, value in step.options.items()
    }
    two = step.run in TRAINED
    at = Place(
        data,
        checkpoints / step.name if step.run == "ptq" else checkpoints,
        checkpoints / f"{step.name}{'_latest' if two else ''}.safetensors",
        checkpoints / f"{step.name}_best.safetensors" if two else None,
        seed=config.seed,
        device=config.device,
        name=step.name,
    )
    files = [f"checkpoints/{file}" for file in dict.fromkeys(step.outputs().values())]
    work = partial(_taken, step, at, options)
    return partial(_moved, work, folder / files[0]) if step.run == "ptq" else work, files


def _taken(step: Step, at: Place, options: Mapping[str, Any]) -> dict[str, Any]:
    with named(step.name):
        result: dict[str, Any] = KINDS[step.run](at, **options)
    return result


def _moved(work: Callable[[], dict[str, Any]], file: Path) -> dict[str, Any]:
    """The result of a quantisation whose ONNX file is moved to `file`."""
    result = work()
    Path(result["path"]).replace(file)
    return result | {"path": str(file)}


def _resolved(value: Any, known: Mapping[str, str], checkpoints: Path) -> Any:
    """The value with names of earlier steps replaced by their checkpoints."""
    if isinstance(value, list):
        return [_resolved(item, known, checkpoints) for item in value]
    return str(checkpoints / known[value]) if isinstance(value, str) and value in known else value


def _check_models(config: StepsConfig, data: DataSplits) -> None:
    """Refuse what is neither an earlier step nor a model before anything is trained."""
    known: dict[str, str] = {}
    for step in config.steps:
        for key in REFERENCES:
            value = step.options.get(key)
            for spec in value if isinstance(value, list) else [value]:
                if isinstance(spec, str) and known.get(spec, "").endswith(ONNX) and step.run != "evaluate":
                    hint = "it is an ONNX file, which can be evaluated alone"
                    raise InputError(f"step {step.name}: {key}", spec, "a step that leaves a checkpoint", hint)
                if spec is None or (isinstance(spec, str) and spec in known):
                    continue
                if key == "teacher" and Path(spec).suffix != ".safetensors":
                    if not Path(spec).exists():  # then a timm name, whose weights may have to be downloaded
                        with named(step.name):
                            require_timm_name(spec)
                    continue
                try:
                    load_model(spec, data, config.seed)
                except InputError as error:
                    steps = f"a step before it ({', '.join(known) or 'there is none'}) or a model"
                    raise InputError(f"step {step.name}: {key}", spec, steps, str(error)) from error
        known |= step.outputs()


def _written(
    config: StepsConfig, data: DataSplits, folder: RunFolder, done: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Write results.json and stats.csv, and the page from them."""
    results = {
        "tilevit": __version__,
        "title": config.title,
        "data": {
            "name": data.name,
            "train": len(data.train),
            "val": len(data.val),
            "image_size": data.image_size,
            "channels": data.in_channels,
            "classes": list(data.class_names),
        },
        "config": config.to_dict(),
        "environment": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in VERSIONED},
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
        },
        "steps": {
            step.name: {
                "run": step.run,
                **{k: v for k, v in done[step.name].items() if k not in ("history", "seconds")},
            }
            for step in config.steps
        },
        "timings": {f"{name}_seconds": result["seconds"] for name, result in done.items()},
    }
    histories = {name: result["history"] for name, result in done.items() if result.get("history")}
    write_text(folder / "stats.csv", stats_csv(histories))
    write_json(folder / "results.json", results)
    say(f"results: {write_page(folder.path)}")
    return results
