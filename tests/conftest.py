"""Settings that all tests share."""

from __future__ import annotations

import sys
from functools import wraps
from typing import Any

from hypothesis import settings
from numba.core.dispatcher import Dispatcher

settings.register_profile("tilevit", deadline=None)  # the first example may compile a kernel
settings.load_profile("tilevit")


def _untraced(compile_one: Any) -> Any:
    """Coverage looks at every call inside numba's compiler, which takes it twice as long for nothing."""

    @wraps(compile_one)
    def compiled(*arguments: Any) -> Any:
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return compile_one(*arguments)
        finally:
            sys.settrace(tracer)

    return compiled


Dispatcher.compile = _untraced(Dispatcher.compile)
