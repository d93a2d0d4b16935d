"""What every attack must keep to: a result or one line of refusal, no code run, nothing written elsewhere, little memory.

:func:`attempt` makes one attack in this process. :class:`Guarded` has a process of its own do it, which is ended when an
attack takes more than ten seconds of processor time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import importlib
import logging
import multiprocessing
import os
import re
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from embedding_frontier_reader import ReadError

from quantizers import InputError

MOST_BYTES = 10**9
MOST_SECONDS = 10.0  # of processor time: this machine may do other work
UNHEARD_SECONDS = 600.0
LONGEST_LINE = 2500
_STACK = "stack.txt"
HELD = ("result", "refused")
# What no reader does, whatever it reads. Opening files to write is told apart by the path.
_EVENTS = {
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.forkpty",
    "subprocess.Popen",
    "socket.connect",
    "pty.spawn",
}
_WRITE = re.compile("[wax+]")


class BrokenPromiseError(AssertionError):
    """An attack found what must not be; ``kind`` is a word for the table: lost, leaked, wrong, lines."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How an attack ended: ``kind`` is "result" or "refused" where all held, and else what fell."""

    kind: str
    reason: str = ""
    seconds: float = 0.0

    @property
    def held(self) -> bool:
        return self.kind in HELD


class _Watch:
    """What happens in this process while an attack is made."""

    def __init__(self) -> None:
        self.places: tuple[str, ...] | None = None
        self.seen: list[str] = []
        self.hooked = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.places is None:
            return
        if event in _EVENTS:
            self.seen.append(f"{event} {str(arguments)[:200]}")
        elif event == "open" and isinstance(arguments[0], str) and _WRITE.search(str(arguments[1] or "")):
            path = os.path.realpath(arguments[0])
            if not path.startswith(self.places) and not path.endswith(".pyc"):
                self.seen.append(f"writes {path}")

    @contextlib.contextmanager
    def over(self, *places: str) -> Iterator[list[str]]:
        if not self.hooked:
            sys.addaudithook(self)
            self.hooked = True
        self.seen = []
        self.places = tuple(os.path.realpath(place) for place in places)
        try:
            yield self.seen
        finally:
            self.places = None


_WATCH = _Watch()


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return 1024 * int(line.split()[1])
    raise AssertionError(name)


def one_line(message: str) -> None:
    """Refuse a message that is not one short line that prints."""
    if not message.strip() or not message.isprintable() or len(message) > LONGEST_LINE:
        raise BrokenPromiseError("lines", f"{len(message)} characters: {message[:300]!r}")


def attempt(work: Callable[[], Any], place: Path, *, reads: bool = True) -> Outcome:
    """Make one attack.

    Args:
        work: reads what was damaged. InputError, and the reader's ReadError, are refusals.
        place: the folder of the attack, the only one in which it may write.
        reads: False of a whole sweep, which starts programs and reaches servers as it is told.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak of resident memory begins anew
    before, began = _memory("VmRSS"), time.process_time()
    kind, reason = "result", ""
    with _WATCH.over(str(place), "/dev") as seen:
        try:
            work()
        except (InputError, ReadError) as error:
            kind, reason = "refused", str(error)
        except BrokenPromiseError as error:
            kind, reason = error.kind, str(error)
        except BaseException as error:
            kind = "traceback"
            frames = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in frames if "site-packages" not in frame.filename]
            where = ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in ours[-2:])
            reason = f"{type(error).__name__}: {str(error)[:300]} [{where}]"
    if kind == "refused":
        try:
            one_line(reason)
        except BrokenPromiseError as error:
            kind, reason = error.kind, str(error)
    if seen and reads:
        kind, reason = "code", "; ".join(seen[:3])
    elif _memory("VmHWM") - before > MOST_BYTES:
        kind, reason = "memory", f"{(_memory('VmHWM') - before) / 1e9:.1f} GB"
    return Outcome(kind, reason, time.process_time() - began)


def _serve(part: str, seed: int, place: str, requests: Connection) -> None:
    """The process that makes attacks: one number after another."""
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + 8 * MOST_BYTES, resource.RLIM_INFINITY))
    module = importlib.import_module(f"tests.attacks.{part}")
    logging.disable()
    requests.send(module.attack(seed, requests.recv(), Path(place)))
    stack = Path(place, _STACK).open("w")  # noqa: SIM115
    faulthandler.register(signal.SIGUSR1, file=stack)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (as long as the process)
    warnings.simplefilter("ignore")
    while True:
        requests.send(module.attack(seed, requests.recv(), Path(place)))


class Guarded:
    """Attacks of one part in another process, which is ended where one takes too long."""

    def __init__(self, part: str, seed: int, place: Path) -> None:
        self._about = (part, seed, str(place))
        self._process: Any = None
        self._requests: Connection

    def __enter__(self) -> Guarded:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    def _stack(self) -> str:
        """Where the process is, innermost first."""
        os.kill(self._process.pid, signal.SIGUSR1)
        time.sleep(0.5)
        lines = re.findall(r'File "([^"]+)", line (\d+) in (\S+)', (Path(self._about[2]) / _STACK).read_text())
        return ", ".join(f"{Path(file).name}:{line} {name}" for file, line, name in lines[:8])

    def attack(self, number: int) -> tuple[str, Outcome]:
        """The attack's name and its outcome."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._requests, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(*self._about, theirs), daemon=True)
            self._process.start()
            theirs.close()
            # The first attack waits for imports, which no limit is for.
            self._requests.send(-1)
            self._requests.recv()
        watched = psutil.Process(self._process.pid)
        used, began = sum(watched.cpu_times()[:2]), time.monotonic()
        self._requests.send(number)
        try:
            while not self._requests.poll(0.2):
                spent = sum(watched.cpu_times()[:2]) - used
                if spent > MOST_SECONDS or time.monotonic() - began > UNHEARD_SECONDS:
                    where = self._stack()
                    self._end()
                    return f"number {number}", Outcome("hang", f"{spent:.0f} s of processor time: {where}", spent)
            return self._requests.recv()  # type: ignore[no-any-return]
        except (EOFError, ConnectionError, psutil.NoSuchProcess):
            code = self._process.exitcode
            self._end()
            return f"number {number}", Outcome("died", f"the process that read it ended with {code}")
