"""Training throughput beside that of timm's train script: the same model, images, batches, augmentation and optimiser.

    python benchmarks/training_throughput.py [--rounds 3] [--epochs 3] [--images 1510] [--threads 2] [--data FOLDER]
        [--only TEXT]

timm's train.py is neither in its wheel nor in its source package; `timm_script` does what it does on a CPU, out of
timm's public parts that it is made of: create_dataset, create_loader (prefetcher, worker processes),
create_optimizer_v2, create_scheduler_v2, LabelSmoothingCrossEntropy, dispatch_clip_grad, AverageMeter, accuracy,
CheckpointSaver. Its loader decodes and augments image by image, each epoch anew, and leaves out what does not fill a
batch; `fit` decodes the images once and augments whole batches as tensors.

Each side trains from a folder of JPEGs, decoding included, validates after each epoch and keeps a checkpoint. The first
round warms up and finds the number of loader processes that timm is fastest with, of none, one and two; then the sides
take turns. A ratio is the median over the rounds of ours over timm's images a second, of the whole training and of its
fastest epoch; above 1, ours is faster. Memory is what a fresh process grows by at its peak while it trains: `fit` keeps
the decoded images, a byte a value, and timm's loader keeps none of them.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from vit import Recipe, create_model, fit, load_data
from vit.fresh_process import peak_bytes
from vit.torchvision_shim import import_timm

SIZE, CLASSES, BATCH, VAL_FRACTION = 32, 10, 128, 0.15
MODELS: dict[str, dict[str, Any]] = {
    "VisionTransformer dim 64, depth 3": {"dim": 64, "depth": 3, "heads": 4},
    "timm vit_tiny at 32x32, dim 96, depth 3": {
        "timm": "vit_tiny_patch16_224", "patch_size": 4, "embed_dim": 96, "depth": 3, "num_heads": 3
    },
}  # fmt: skip
AUGMENTATIONS = {"crop and flip": 0, "crop, flip and RandAugment": 2}  # its operations
WORKERS = (0, 1, 2)


@dataclass(frozen=True)
class Folders:
    """The same images twice: train/ as `load_data` takes it, and split into train/ and validation/ as timm does."""

    ours: Path
    timms: Path
    train: int  # images that are trained on


@dataclass(frozen=True)
class Speed:
    """Images a second: of the whole training, and of its fastest epoch."""

    whole: float
    epoch: float


def ours(model: nn.Module, folders: Folders, recipe: Recipe) -> Speed:
    """`fit`, from an empty cache of decoded images."""
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        data = load_data(folders.ours, root=place, val_fraction=VAL_FRACTION)
        result = fit(model, data, recipe, out=place)
        seconds = time.perf_counter() - began
        fastest = min(row["seconds"] for row in result.history)
        return Speed(recipe.epochs * len(data.train) / seconds, len(data.train) / fastest)


def timm_script(model: nn.Module, folders: Folders, recipe: Recipe, workers: int) -> Speed:
    """What timm's train.py does on a CPU: --opt adamw --smoothing --clip-grad, and --aa where there is RandAugment."""
    import_timm()
    from timm.data import create_dataset, create_loader
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import AverageMeter, CheckpointSaver, accuracy, dispatch_clip_grad

    began = time.perf_counter()
    cpu = torch.device("cpu")
    shared: dict[str, Any] = {
        "input_size": (3, SIZE, SIZE), "batch_size": recipe.batch_size, "mean": (0.5,) * 3, "std": (0.25,) * 3,
        "num_workers": workers, "device": cpu, "persistent_workers": workers > 0,
    }  # fmt: skip
    loader = create_loader(
        create_dataset("", root=str(folders.timms), split="train", is_training=True),
        is_training=True,
        hflip=0.5,
        color_jitter=0.0,
        interpolation="bilinear",
        auto_augment=f"rand-m{recipe.randaugment_magnitude}-n{recipe.randaugment}" if recipe.randaugment else None,
        **shared,
    )
    validation = create_loader(create_dataset("", root=str(folders.timms), split="validation"), crop_pct=1.0, **shared)
    optimiser = create_optimizer_v2(model, opt="adamw", lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule, _ = create_scheduler_v2(
        optimiser, num_epochs=recipe.epochs, warmup_epochs=1, step_on_epochs=False, updates_per_epoch=len(loader)
    )
    learns, judges = LabelSmoothingCrossEntropy(recipe.label_smoothing), nn.CrossEntropyLoss()
    epochs, images_an_epoch = [], len(loader) * recipe.batch_size
    with tempfile.TemporaryDirectory() as place:
        saver = CheckpointSaver(model, optimiser, checkpoint_dir=place, recovery_dir=place, max_history=1)
        for epoch in range(recipe.epochs):
            started = time.perf_counter()
            model.train()
            losses, top1 = AverageMeter(), AverageMeter()
            for step, (images, labels) in enumerate(loader, start=epoch * len(loader) + 1):
                loss = learns(model(images), labels)
                optimiser.zero_grad()
                loss.backward()
                dispatch_clip_grad(model.parameters(), value=recipe.clip_grad, mode="norm")
                optimiser.step()
                losses.update(loss.item(), len(images))
                schedule.step_update(num_updates=step, metric=losses.avg)
            model.eval()
            with torch.inference_mode():
                for images, labels in validation:
                    said = model(images)
                    losses.update(judges(said, labels).item(), len(images))
                    top1.update(accuracy(said, labels, topk=(1, 5))[0].item(), len(images))
            schedule.step(epoch + 1, top1.avg)
            saver.save_checkpoint(epoch, metric=top1.avg)
            epochs.append(time.perf_counter() - started)
    seconds = time.perf_counter() - began
    return Speed(recipe.epochs * images_an_epoch / seconds, images_an_epoch / min(epochs))


@contextlib.contextmanager
def folders_of(data: Path | None, images: int) -> Iterator[Folders]:
    """`images` JPEGs in equal classes: of noise, or links to those of a data folder."""
    with tempfile.TemporaryDirectory() as place:
        root, each = Path(place), images // CLASSES
        split = each - round(VAL_FRACTION * each)
        names = [f"class{i}" for i in range(CLASSES)]
        if data is not None:
            names = sorted(entry.name for entry in (data / "train").iterdir() if entry.is_dir())[:CLASSES]
        generator = np.random.default_rng(0)
        for name in names:
            sources = None if data is None else sorted((data / "train" / name).iterdir())[:each]
            for i in range(each):
                part = "train" if i < split else "validation"
                file = root / "timms" / part / name / f"{i:04d}.jpg"
                file.parent.mkdir(parents=True, exist_ok=True)
                if sources is None:
                    pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                    Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(file, quality=90)
                else:
                    file.symlink_to(sources[i].resolve())
                for other in ("train", "test") if i == 0 else ("train",):
                    link = root / "ours" / other / name / file.name
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(file)
        yield Folders(root / "ours", root / "timms", split * len(names))


def grown(workers: int | None, folders: Folders, recipe: Recipe) -> int:
    """Bytes by which this fresh process grows at its peak: `fit`, or timm's loop with that many workers."""
    import_timm()
    model = create_model(next(iter(MODELS.values())), num_classes=CLASSES, image_size=SIZE)
    before = peak_bytes()
    with contextlib.redirect_stdout(io.StringIO()):
        ours(model, folders, recipe) if workers is None else timm_script(model, folders, recipe, workers)
    return peak_bytes() - before


def compare_memory(folders: Folders, recipe: Recipe) -> None:
    """Print by how much the processes of both sides grow."""
    peaks = []
    for workers in (None, 0):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            peaks.append(fresh.submit(grown, workers, folders, recipe).result() / 2**20)
    decoded = folders.train / (1 - VAL_FRACTION) * 3 * SIZE * SIZE / 2**20
    print(
        f"memory: ours grows by {peaks[0]:.0f} MiB (decoded images: {decoded:.1f}), timm by {peaks[1]:.0f} (no workers)"
    )


def compare(title: str, spec: dict[str, Any], folders: Folders, recipe: Recipe, rounds: int) -> list[float]:
    """Print the images a second of both sides; the two ratios."""
    torch.manual_seed(0)
    model = create_model(spec, num_classes=CLASSES, image_size=SIZE)

    def side(workers: int | None) -> Speed:
        with contextlib.redirect_stdout(io.StringIO()):
            trained = copy.deepcopy(model)
            return ours(trained, folders, recipe) if workers is None else timm_script(trained, folders, recipe, workers)

    side(None)
    workers = max(WORKERS, key=lambda count: side(count).whole)
    pairs = [(side(None), side(workers)) for _ in range(rounds)]
    print(title)
    ratios = []
    for part in ("whole", "epoch"):
        mine, timms = ([getattr(speed, part) for speed in speeds] for speeds in zip(*pairs, strict=True))
        ratio = statistics.median(one / other for one, other in zip(mine, timms, strict=True))
        name = "whole training" if part == "whole" else "one epoch"
        print(
            f"  {name:15} ours {statistics.median(mine):7,.0f} images/s, timm {statistics.median(timms):7,.0f} "
            f"({workers} workers)   ratio {ratio:.2f}"
        )
        ratios.append(ratio)
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=1510)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", type=Path, help="a folder with train/<class>/*.jpg in place of generated JPEGs")
    parser.add_argument("--only", default="", help="only the comparisons with this in their title, or memory")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable(logging.INFO)
    print(f"torch {torch.__version__}, timm {import_timm().__version__}, {options.threads} threads, {options}")
    ratios = []
    with folders_of(options.data, options.images) as folders:
        for augmented, operations in AUGMENTATIONS.items():
            recipe = Recipe(epochs=options.epochs, batch_size=BATCH, ema=0.0, randaugment=operations)
            for name, spec in MODELS.items():
                title = f"{name}; {folders.train} images of {SIZE}x{SIZE}, batches of {BATCH}, {augmented}"
                if options.only in title:
                    ratios += compare(title, spec, folders, recipe, options.rounds)
        if options.only in "memory":
            compare_memory(folders, Recipe(epochs=1, batch_size=BATCH, ema=0.0, randaugment=0))
    if ratios:
        print(f"smallest ratio: {min(ratios):.2f}; the target is 1")


if __name__ == "__main__":
    main()
