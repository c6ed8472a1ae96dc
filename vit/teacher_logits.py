"""A teacher's logits on disk, epoch by epoch, so that the same augmented images need not be shown to it again."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vit.errors import InputError
from vit.tensorfile import read_tensors, write_tensors
from vit.training import Batch

KIND = "teacher logits"
FOLDER = "teacher_logits"


def rounded(logits: Tensor) -> Tensor:
    """Logits as they are kept and learnt from, float16: less the largest of each row, which no softmax notices.

    The likeliest classes are then next to 0, where float16 is finest, and no logit is too large for it.
    """
    full = logits.float()
    return (full - full.amax(dim=1, keepdim=True)).half()


class TeacherLogits:
    """The rows of one epoch at a time, in order of the training images: `<out>/teacher_logits/epoch_0001.safetensors`.

    An epoch's images depend on the recipe's seed and the epoch alone, so its seed stands for them. A file holds
    float16 in two planes of bytes, deflated: below two bytes a logit, its header included.

    Args:
        out: folder of the training; None keeps nothing.
        identity: what the logits depend on, as JSON values. A file of another identity is not used, and overwritten.
        shape: (training images, classes).
    """

    def __init__(
        self, out: str | Path | None, identity: dict[str, Any], shape: tuple[int, int], device: torch.device
    ) -> None:
        self.folder = None if out is None else Path(out) / FOLDER
        self.identity, self.shape, self.device = identity, shape, device
        self.epoch = -1
        self.rows, self.whole, self.recorded = torch.empty(0), False, 0

    def replay(self, batch: Batch) -> Tensor | None:
        """The kept logits of this batch, float16 (B, classes), or None if its epoch is not on disk."""
        if self.folder is None:
            return None
        if batch.epoch != self.epoch:
            self._open(self.folder, batch.epoch)
        return self.rows[batch.indices] if self.whole else None

    def record(self, batch: Batch, logits: Tensor) -> None:
        """Keep the logits of a batch that had no replay; the last batch of the epoch writes the file.

        Raises:
            InputError: the folder cannot be written.
        """
        if self.folder is None:
            return
        self.rows[batch.indices] = logits
        self.recorded += len(logits)
        if self.recorded == self.shape[0]:
            packed = {"logits": deflated(self.rows.cpu().numpy())}
            write_tensors(self._file(self.folder, batch.epoch), packed, {"identity": self.identity}, kind=KIND)

    def _open(self, folder: Path, epoch: int) -> None:
        kept = self._read(self._file(folder, epoch))
        self.epoch, self.whole, self.recorded = epoch, kept is not None, 0
        rows = torch.empty(self.shape, dtype=torch.float16) if kept is None else torch.from_numpy(kept)
        self.rows = rows.to(self.device)

    def _read(self, file: Path) -> np.ndarray | None:
        """The rows in the file; None if there is none, it is damaged, or what it depends on has changed."""
        if not file.exists():
            return None
        try:
            arrays, metadata = read_tensors(file, kind=KIND, field="out")
            return inflated(arrays["logits"], self.shape) if metadata["identity"] == self.identity else None
        except (InputError, KeyError, ValueError, zlib.error):
            return None

    @staticmethod
    def _file(folder: Path, epoch: int) -> Path:
        return folder / f"epoch_{epoch + 1:04d}.safetensors"


def deflated(rows: np.ndarray) -> np.ndarray:
    """float16 (N, classes) -> uint8: the low bytes, then the high ones, deflated."""
    planes = rows.reshape(-1, 1).view(np.uint8).T.tobytes()
    return np.frombuffer(zlib.compress(planes, level=1), dtype=np.uint8)


def inflated(packed: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """What `deflated` was given.

    Raises:
        ValueError, zlib.error: damaged, or of another shape.
    """
    planes = np.frombuffer(zlib.decompress(packed.tobytes()), dtype=np.uint8)
    return np.ascontiguousarray(planes.reshape(2, -1).T).view(np.float16).reshape(shape)
