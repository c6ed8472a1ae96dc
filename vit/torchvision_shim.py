"""Import torchvision beside a CPU-only torch, where its compiled operators are missing.

The torchvision wheel expects the CUDA build of torch. Beside the CPU build its extension does not load, and its Python
code then fails on registering a fake kernel for an operator that nobody declared. Data sets, transforms.v2, models and
timm need none of these operators: declaring their schemas is enough. `ops.nms` and `io.decode_image` stay unusable.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

MISSING = "operator torchvision::nms does not exist"
SCHEMAS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def import_torchvision() -> ModuleType:
    """The torchvision module, imported in spite of missing compiled operators.

    Raises:
        RuntimeError, ImportError: any other failure of the import, unchanged.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if MISSING not in str(error):
            raise
    import torch

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    for operator, schema in SCHEMAS.items():
        torch.library.define(operator, schema)
    return importlib.import_module("torchvision")


def import_timm() -> ModuleType:
    """The timm module; it imports torchvision, so that comes first."""
    import_torchvision()
    return importlib.import_module("timm")
