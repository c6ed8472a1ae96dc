"""Ctrl-C that lasts: what swallows the exception of an interrupt (a destructor, a callback from C) does not undo it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_pressed = threading.Event()


@contextmanager
def remembered() -> Iterator[None]:
    """Within the block an interrupt is remembered; not off the main thread, or where somebody else handles them."""
    _pressed.clear()
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def press(*_: Any) -> None:
        _pressed.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, press)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def heed() -> None:
    """Raise KeyboardInterrupt if one came since `remembered` began: work calls this between its steps."""
    if _pressed.is_set():
        raise KeyboardInterrupt
