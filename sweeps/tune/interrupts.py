"""Ctrl-C and SIGTERM: a sweep ends in good order where it can, and at once where it is asked twice.

While trials run, Ctrl-C once lets them go on to their ends; twice raises KeyboardInterrupt. SIGTERM, after which a kill is
to be expected, leaves them some seconds, the grace, and then raises :class:`GraceOverError`. No trials begin after either.

Python runs a signal's handler when the main thread comes to it, and once for two signals that arrive before. Here a thread
counts them as they come, from the file descriptor that Python's C code writes them to. What the main thread then raises is a
KeyboardInterrupt, whatever the reason: out of Ray's calls nothing else comes whole.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

from analysis.schema import INTERRUPTED, TERMINATED

_AGAIN_SECONDS = 0.5


class GraceOverError(BaseException):
    """Trials still run when the grace after SIGTERM is over."""


class TerminatedError(BaseException):
    """SIGTERM came before any trial ran."""


class Interrupts:
    """What signals ask of one sweep; a context manager, in which signals are taken.

    Signals reach the main thread alone: in another, nothing is changed.

    Args:
        grace_seconds: how long trials may go on after SIGTERM.

    Attributes:
        grace_seconds: as given.
        terminated: whether SIGTERM has come.
    """

    def __init__(self, grace_seconds: float) -> None:
        self.terminated = False
        self.grace_seconds = grace_seconds
        self._asked = 0
        self._ask: Callable[[str], None] | None = None  # while trials run
        self._hurry: Callable[[], None] = lambda: None
        self._finishing = False
        self._deadline: float | None = None
        self._breaks = False  # the main thread is to leave what it does
        self._error: type[BaseException] = KeyboardInterrupt  # as which that comes out
        self._waking = int(signal.SIGINT)
        self._sent: list[int] = []  # signals of our own, to the main thread
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
            self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._take_down()
        if kind is KeyboardInterrupt and self._error is TerminatedError:
            raise TerminatedError from None

    def _take_down(self) -> None:
        if self._before:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._write)
            self._thread.join()
            os.close(self._read)
            self._before = {}

    @contextlib.contextmanager
    def trials(self, ask: Callable[[str], None]) -> Iterator[None]:
        """Within this, trials run.

        Args:
            ask: is called from another thread when the sweep is to end, with the reason: :data:`INTERRUPTED` or
                :data:`TERMINATED`.

        Raises:
            KeyboardInterrupt: the sweep is to stop at once.
            GraceOverError: the grace after SIGTERM is over.
        """
        self._ask = ask
        try:
            yield
        except KeyboardInterrupt:
            if self._error is GraceOverError:
                raise GraceOverError from None
            raise
        finally:
            self._ask = None
            self.finish()

    def finish(self) -> None:
        """From now on no trials run, and SIGTERM lets what there is be written."""
        self._finishing = True

    def on_termination(self, hurry: Callable[[], None]) -> None:
        """Call ``hurry`` when SIGTERM comes, from another thread."""
        self._hurry = hurry

    # In the main thread ------------------------------------------------------------------------------------------------

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if _is_in_destructor(frame):
            return  # Python would print what is raised there, and go on; this is called again
        breaks, self._breaks = self._breaks, False
        if breaks and not (self._error is GraceOverError and self._ask is None):  # else the last trial has just ended
            self._ask = None  # not twice
            raise KeyboardInterrupt

    # In a thread of its own --------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        while True:
            now = time.monotonic()
            if self._deadline is not None and now >= self._deadline:
                self._deadline = None
                if self._ask is not None:
                    self._raise(GraceOverError, signal.SIGTERM)
            waits = [self._deadline - now] if self._deadline is not None else []
            waits += [_AGAIN_SECONDS] if self._breaks else []
            if select.select([self._read], [], [], min(waits, default=None))[0]:
                numbers = os.read(self._read, 64)
                if not numbers:
                    return
                for number in numbers:
                    self._came(number)
            elif self._breaks:
                self._wake()

    def _came(self, number: int) -> None:
        if number in self._sent:
            self._sent.remove(number)
        elif number == signal.SIGINT:
            self._asked += 1
            if self._ask is None or self._asked > 1:
                self._raise(KeyboardInterrupt, number)
            else:
                self._tell(INTERRUPTED)
        elif number == signal.SIGTERM and not self.terminated:
            self.terminated = True
            self._asked += 1
            self._hurry()
            if self._ask is not None:
                self._deadline = time.monotonic() + self.grace_seconds
                self._tell(TERMINATED)
            elif not self._finishing:
                self._raise(TerminatedError, number)

    def _tell(self, reason: str) -> None:
        ask = self._ask
        if ask is not None:
            with contextlib.suppress(Exception):  # a disk that is full keeps no sweep from ending
                ask(reason)

    def _raise(self, error: type[BaseException], number: int) -> None:
        """Have the main thread leave what it does; as ``error``, that comes out."""
        self._error, self._waking, self._breaks = error, number, True
        self._wake()

    def _wake(self) -> None:
        """Send the main thread a signal.

        It is sent again until the main thread has come to it, which may just have begun to wait for something.
        """
        self._sent.append(self._waking)
        signal.pthread_kill(threading.main_thread().ident or 0, self._waking)


def _is_in_destructor(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False
