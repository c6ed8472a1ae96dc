"""A classifier in an ONNX file, as `export_onnx` and `ptq` write it, for a look at its accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from quant.onnx_graph import IMAGES, LOGITS
from quant.onnx_session import BATCH, accuracy, open_session
from vit.errors import InputError, first_line
from vit.image_set import ImageSet
from vit.preprocessing import Normalisation


class OnnxFile:
    """Normalised `images` (N, C, H, W) to `logits` (N, classes), by onnxruntime on torch's number of threads.

    Attributes:
        path: of the file.
        in_channels, image_size, num_classes: the shapes it takes and gives.
        normalisation: of its images, where the file says so.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the file.

        Raises:
            InputError: it is not there, no ONNX that onnxruntime can run, or of other inputs and outputs.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError("model", str(path), "an ONNX file that is there")
        try:
            self._session = open_session(self.path, torch.get_num_threads())
        except Exception as error:  # onnxruntime's have no common ancestor but this
            allowed = "an ONNX file that onnxruntime can run"
            raise InputError("model", str(path), allowed, first_line(error)) from error
        takes, gives = (
            {one.name: one for one in side} for side in (self._session.get_inputs(), self._session.get_outputs())
        )
        shapes = [takes[IMAGES].shape if [*takes] == [IMAGES] else [], gives[LOGITS].shape if LOGITS in gives else []]
        sizes = [size for shape in shapes for size in shape[1:]]
        if [len(shape) for shape in shapes] != [4, 2] or not all(isinstance(size, int) for size in sizes):
            allowed = f"a file of one input, {IMAGES} (N, C, H, W), and the output {LOGITS} (N, classes)"
            raise InputError("model", str(path), allowed, "as tilevit export and ptq write it")
        self.in_channels, self.image_size, _, self.num_classes = sizes
        self.normalisation = self._said_normalisation()

    def _said_normalisation(self) -> Normalisation | None:
        said = self._session.get_modelmeta().custom_metadata_map
        if not {"mean", "std"} <= said.keys():
            return None
        try:
            mean, std = (tuple(float(value) for value in json.loads(said[key])) for key in ("mean", "std"))
            return Normalisation(mean, std)
        except (ValueError, TypeError) as error:
            raise InputError(
                "model", str(self.path), "an ONNX file with mean and std of its channels", str(error)
            ) from error

    def accuracy(self, images: ImageSet) -> float:
        """Fraction of images whose largest logit is the label's; normalised as the file says, where it does."""
        own = self.normalisation
        return accuracy(self._session, images if own is None else images.normalised_by(own.mean, own.std), BATCH)
