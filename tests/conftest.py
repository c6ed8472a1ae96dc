"""Settings that all tests share."""

from __future__ import annotations

import sys
from functools import wraps
from typing import Any

import torch.onnx
from hypothesis import settings
from numba.core.dispatcher import Dispatcher

settings.register_profile("tilevit", deadline=None)  # the first example may compile a kernel
settings.load_profile("tilevit")


def _untraced(function: Any) -> Any:
    """Coverage looks at every call inside compilers, which takes them twice as long for nothing."""

    @wraps(function)
    def called(*arguments: Any, **options: Any) -> Any:
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return function(*arguments, **options)
        finally:
            sys.settrace(tracer)

    return called


Dispatcher.compile = _untraced(Dispatcher.compile)
torch.onnx.export = _untraced(torch.onnx.export)
