"""Ctrl-C, also where its exception gets lost on the way."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest

from tilevit.console import progress
from tilevit.interrupts import heed, remembered


def test_an_interrupt_that_is_swallowed_comes_back_at_the_next_step():
    with remembered():
        with progress("work", 3) as tick:
            tick()
            with suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                tick()
        with pytest.raises(KeyboardInterrupt):
            heed()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with remembered():
        heed()


def test_a_handler_of_somebody_else_stays():
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        with remembered():
            os.kill(os.getpid(), signal.SIGINT)
            heed()
        assert seen == [1]
    finally:
        signal.signal(signal.SIGINT, before)
