"""Ctrl-C: once to end in good order, twice to stop at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def on_interrupt(first: Callable[[], None]) -> Iterator[None]:
    """Within this, the first SIGINT calls ``first`` and goes on; the second raises KeyboardInterrupt.

    Signals reach the main thread alone: in another, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        first()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
