"""The pipeline behind `tilevit run`: stages in order, each finished once, strung from the floors below."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fifo_sim import Hardware, lower, simulate, streaming, sweep
from nas import Progress, SearchSpace, front, pick, search
from prune import magnitude_prune, sparsity
from quant import PackedModel, QuantConfig, convert, load_qat, prepare_qat, save_qat
from tilevit import __version__
from tilevit.console import progress, say
from tilevit.folder import RunFolder
from tilevit.metrics import packed_accuracy
from tilevit.report import write_report
from tilevit.settings import RunConfig
from tilevit.training import stats_csv
from vit import (
    DataSplits,
    Recipe,
    VisionTransformer,
    ViTConfig,
    describe,
    evaluate,
    fit,
    load_checkpoint,
    load_data,
    resolve_device,
    save_checkpoint,
)
from vit.files import write_json, write_text

PACKED = "packed.safetensors"
OBJECTIVES = ("accuracy", "params", "cycles")
VERSIONED = ("torch", "torchvision", "numpy", "numba", "optuna", "scikit-learn", "timm")
CALIBRATION_IMAGES = 256


def run_pipeline(config: RunConfig, out: str | Path, *, fresh: bool = False) -> dict[str, Any]:
    """Search, train, prune, quantise, pack, simulate, sweep, test and report; returns what results.json holds.

    Args:
        config: the resolved settings.
        out: the run's folder; finished stages in it are read back instead of run again.
        fresh: forget what the folder holds first.

    Raises:
        InputError: bad settings or data, or a folder that belongs to another run.
    """
    resolve_device(config.device)
    hardware = Hardware.load(config.hardware)
    data = load_data(
        config.data, image_size=config.image_size or None, val_fraction=config.val_fraction, seed=config.seed
    )
    run = _Run(config, data, hardware)
    data.check_test()
    folder = RunFolder(out, config, fresh=fresh)
    try:
        return run.in_folder(folder)
    finally:
        folder.close()


class _Run:
    """One run: each stage is a method that leaves its files in the folder and returns its JSON result."""

    folder: RunFolder

    def __init__(self, config: RunConfig, data: DataSplits, hardware: Hardware) -> None:
        self.config, self.data, self.hardware = config, data, hardware
        self.space = _search_space(config, data)
        _quantiser(config)  # refused now rather than after training

    def in_folder(self, folder: RunFolder) -> dict[str, Any]:
        """Run or read back every stage, then write results.json, stats.csv and the report."""
        self.folder = folder
        done: dict[str, dict[str, Any]] = {}
        for name, work, files in self._stages():
            done[name] = folder.stage(name, work, files)
        results = self._collected(done)
        histories = {"train": done["train"], "finetune": done["prune"], "qat": done["qat"]}
        write_text(folder / "stats.csv", stats_csv({name: result["history"] for name, result in histories.items()}))
        write_json(folder / "results.json", results)
        say(f"report: {write_report(folder.path)}")
        return results

    def _stages(self) -> Iterator[tuple[str, Callable[[], dict[str, Any]], Sequence[str]]]:
        """Name, work, and the files that later stages or the user read."""
        yield "search", self._search, ()
        yield "train", self._train, ["checkpoints/float.safetensors"]
        yield "prune", self._prune, ["checkpoints/pruned.safetensors"]
        yield "qat", self._qat, ["checkpoints/qat.safetensors"]
        yield "pack", self._pack, [PACKED]
        yield "simulate", self._simulate, ()
        yield "sweep", self._sweep, ()
        yield "test", self._test, ()

    def _search(self) -> dict[str, Any]:
        config = self.config
        recipe = self._recipe(config.search_epochs, config.lr)
        with progress("search", config.trials * config.search_epochs) as tick:

            def show(state: Progress) -> None:
                if state.values is None:
                    tick(f"trial {state.done + 1}/{state.total}")

            study = search(
                self.space,
                self.data,
                self.hardware,
                objectives=OBJECTIVES,
                trials=config.trials,
                storage=self.folder / "search" / "study" / "journal.log",
                seed=config.seed,
                recipe=recipe,
                device=config.device,
                progress=show,
            )
        trials = [trial for trial in study.get_trials(deepcopy=False) if trial.values is not None]
        on_front = {trial.number for trial in front(study)}
        winner = pick(study, slack=config.slack)
        return {
            "objectives": list(OBJECTIVES),
            "trials": [
                {"params": dict(t.params), "values": list(t.values), "front": t.number in on_front} for t in trials
            ],
            "winner": [t.number for t in trials].index(winner.number),
            "config": self.space.config(winner.params).to_dict(),
        }

    def _train(self) -> dict[str, Any]:
        config = ViTConfig.from_dict({**self._done("search")["config"], "drop_path": self.config.drop_path})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            model = VisionTransformer(config)
        history = self._fit(model, "train", self.config.epochs, self.config.lr)
        return self._kept(model, "float", history)

    def _prune(self) -> dict[str, Any]:
        model = load_checkpoint(self._checkpoint("float")).model
        magnitude_prune(model, self.config.sparsity, self.config.scope)
        before = self._val_accuracy(model)
        history = self._fit(model, "finetune", self.config.finetune_epochs, self.config.finetune_lr)
        return {**self._kept(model, "pruned", history), "val_accuracy_before_finetuning": before}

    def _qat(self) -> dict[str, Any]:
        model = load_checkpoint(self._checkpoint("pruned")).model
        quantiser = _quantiser(self.config)
        images = self.data.train.take(torch.arange(min(CALIBRATION_IMAGES, len(self.data.train)))).floats()
        prepared = prepare_qat(model, quantiser, calibration=images)
        before = self._val_accuracy(prepared)
        history = self._fit(prepared, "qat", self.config.qat_epochs, self.config.qat_lr)
        return {**self._kept(prepared, "qat", history), "val_accuracy_before_training": before}

    def _pack(self) -> dict[str, Any]:
        model, _ = load_qat(self._checkpoint("qat"))
        train = self.data.train
        packed_file = self.folder / PACKED
        convert(model, mean=train.mean, std=train.std).save(packed_file)
        packed = PackedModel.load(packed_file)
        accuracy, predictions = packed_accuracy(packed, self.data.val)
        agreeing = int((predictions == evaluate(model, self.data.val).predictions.numpy()).sum())
        return {
            "val_accuracy": accuracy,
            "agreement_with_qat": f"{agreeing}/{len(predictions)} validation images",
            "size_bytes": packed_file.stat().st_size,
            "size_over_fp32": packed_file.stat().st_size / (4 * self._done("train")["params"]),
            "sparsity": packed.sparsity()["total"],
            "layers": _layer_table(model, packed),
        }

    def _simulate(self) -> dict[str, Any]:
        config = self.config
        lowered = lower(self._qat_model, self.hardware, config.tile, config.fifo, config.attention)
        result = simulate(lowered.pipeline, history=False)
        return {
            "hardware": self.hardware.name,
            "tile": config.tile,
            "fifo": config.fifo,
            "attention": config.attention,
            "deadlock": result.deadlock,
            "cycles": result.cycles,
            "latency_ms": lowered.latency_ms(result.cycles) if result.cycles is not None else None,
            "sram_kib": lowered.memory.sram_kib,
            "memory_bytes": lowered.memory.by_item(),
            "dram_bytes": lowered.memory.total_dram_bytes,
            "energy_pj": lowered.energy().to_dict(),
            "stalls": result.stalls,
        }

    def _sweep(self) -> dict[str, Any]:
        config = self.config
        count = len(config.tiles) * len(config.fifos) * len(config.attentions)
        with progress("sweep tile x FIFO", count) as tick:
            rows = sweep(
                self._qat_model,
                self.hardware,
                config.tiles,
                config.fifos,
                attention=config.attentions,
                data=self.data.val,
                progress=lambda row: tick(),
            )
        return {"rows": list(rows)}

    def _test(self) -> dict[str, Any]:
        test = self.data.test
        qat, config = self._qat_model, self.config
        streamed = streaming(qat, config.tile, config.fifo, config.attention)
        accuracy, predictions = packed_accuracy(PackedModel.load(self.folder / PACKED), test)
        quantised = evaluate(qat, test)
        agreeing = int((predictions == quantised.predictions.numpy()).sum())
        return {
            "images": len(test),
            "accuracy": {
                "float": evaluate(load_checkpoint(self._checkpoint("float")).model, test).accuracy,
                "pruned": evaluate(load_checkpoint(self._checkpoint("pruned")).model, test).accuracy,
                "quantised (QAT graph)": quantised.accuracy,
                "packed (integer engine)": accuracy,
                f"streamed (tile {config.tile}, FIFO {config.fifo}, {config.attention})": evaluate(
                    streamed, test
                ).accuracy,
            },
            "agreement_of_packed_with_qat": f"{agreeing}/{len(test)} test images",
        }

    def _collected(self, done: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        """results.json: all but `timings` is the same for every run with the same settings."""
        data = self.data
        stages = [("float", done["train"]), ("pruned", done["prune"]), ("QAT", done["qat"]), ("packed", done["pack"])]
        keys = ("val_accuracy", "sparsity", "size_bytes")
        infos = describe(ViTConfig.from_dict(done["search"]["config"]))
        return {
            "tilevit": __version__,
            "data": {
                "name": data.name,
                "classes": list(data.class_names),
                "train": len(data.train),
                "val": len(data.val),
                "test": done["test"]["images"],
                "image_size": data.image_size,
                "channels": data.in_channels,
            },
            "config": self.config.to_dict(),
            "environment": {
                "python": platform.python_version(),
                **{name: metadata.version(name) for name in VERSIONED},
                "machine": platform.machine(),
                "threads": torch.get_num_threads(),
            },
            "search": _without(done["search"], "seconds", "config"),
            "model": {
                "config": done["search"]["config"],
                "params": done["train"]["params"],
                "macs": sum(info.macs for info in infos),
            },
            "stages": [{"name": name, **{key: result[key] for key in keys}} for name, result in stages],
            "pruning": {"val_accuracy_before_finetuning": done["prune"]["val_accuracy_before_finetuning"]},
            "quantisation": _without(done["pack"], "seconds", "layers", *keys)
            | {"val_accuracy_before_training": done["qat"]["val_accuracy_before_training"]},
            "layers": done["pack"]["layers"],
            "simulation": _without(done["simulate"], "seconds"),
            "sweep": done["sweep"]["rows"],
            "test": _without(done["test"], "seconds", "images"),
            "timings": {f"{name}_seconds": result["seconds"] for name, result in done.items()},
        }

    def _fit(self, model: nn.Module, name: str, epochs: int, lr: float) -> list[dict[str, float]]:
        """Train in place, resuming what was stopped; the history, one row an epoch."""
        if not epochs:
            return []
        with progress(name, epochs) as tick:
            result = fit(
                model,
                self.data,
                self._recipe(epochs, lr),
                out=self.folder / "checkpoints",
                device=self.config.device,
                on_epoch=lambda row: tick(f"validation {row['val_accuracy']:.3f}"),
                name=name,
            )
        model.to("cpu")
        return result.history

    def _recipe(self, epochs: int, lr: float) -> Recipe:
        c = self.config
        return Recipe(
            epochs=epochs,
            batch_size=c.batch_size,
            lr=lr,
            weight_decay=c.weight_decay,
            label_smoothing=c.label_smoothing,
            mixup=c.mixup,
            cutmix=c.cutmix,
            seed=c.seed,
        )

    def _kept(self, model: nn.Module, name: str, history: list[dict[str, float]]) -> dict[str, Any]:
        """Save the checkpoint and tell what the stage reached."""
        path = self._checkpoint(name)
        (save_qat if name == "qat" else save_checkpoint)(path, model)
        return {
            "val_accuracy": self._val_accuracy(model),
            "sparsity": sparsity(model)["total"],
            "size_bytes": path.stat().st_size,
            "params": sum(parameter.numel() for parameter in model.parameters()),
            "history": history,
        }

    def _val_accuracy(self, model: nn.Module) -> float:
        return evaluate(model, self.data.val).accuracy

    def _checkpoint(self, name: str) -> Path:
        return self.folder / "checkpoints" / f"{name}.safetensors"

    def _done(self, stage: str) -> dict[str, Any]:
        return self.folder.finished(stage)

    @cached_property
    def _qat_model(self) -> nn.Module:
        return load_qat(self._checkpoint("qat"))[0]


def _quantiser(config: RunConfig) -> QuantConfig:
    return QuantConfig(config.weights, config.activations, probabilities=config.probabilities)


def _search_space(config: RunConfig, data: DataSplits) -> SearchSpace:
    return SearchSpace.for_image(
        data.image_size,
        data.in_channels,
        data.num_classes,
        dim=config.dims,
        depth=config.depths,
        heads=config.heads,
        mlp_ratio=config.mlp_ratios,
        patch_size=config.patch_sizes,
        stem=config.stems,
        pool=config.pools,
        tile=config.tile,
        fifo=config.fifo,
        attention=config.attention,
    )


def _layer_table(model: nn.Module, packed: PackedModel) -> list[dict[str, Any]]:
    """A row for each layer with weights: shape, sparsity, bits, and how often each level is used."""
    rows = []
    for info in describe(model):
        if info.kind == "attention":
            continue
        levels = packed.layers[info.name].levels
        values, counts = np.unique(levels, return_counts=True) if levels is not None else ((), ())
        rows.append(
            {
                "name": info.name,
                "params": info.params,
                "macs": info.macs,
                "weight_bits": info.weight_bits,
                "sparsity": packed.sparsity()[info.name],
                "codes": {str(int(value)): int(count) for value, count in zip(values, counts, strict=True)},
            }
        )
    return rows


def _without(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}
