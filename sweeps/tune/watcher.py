"""Waits beside a sweep's own Ray: when the driver ends, even by a kill, it ends what is left of Ray, and deletes its folder.

Ray's processes look after each other, but its agents, once they have noticed, try for a minute to tell a server that has
ended before them. Their environment and command line say nothing of whose they are; their logs lie in the driver's folder.

A program, not a module: ``watcher.py FOLDER DRIVER`` reads its input to the end, which comes when the driver has ended or
closes it. The standard library alone is used, so that it is small and there at once. Without ``/proc`` it ends nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

_SECONDS = 10.0
_LOOK_SECONDS = 0.1


def users_of(folder: str) -> list[int]:
    """Ray's processes that have a file below ``folder`` open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            words = (process / "cmdline").read_bytes()
            if (b"ray::" in words or b"/ray/" in words) and any(
                os.readlink(file).startswith(f"{folder}/") for file in (process / "fd").iterdir()
            ):
                found.append(int(process.name))
    return found


def end(folder: str, spared: int) -> None:
    """Kill what uses ``folder`` until nothing does, but for the process ``spared``; then delete it."""
    until = time.monotonic() + _SECONDS
    while (left := [process for process in users_of(folder) if process != spared]) and time.monotonic() < until:
        for process in left:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(_LOOK_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # they are sent to all processes of a service
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end(sys.argv[1], int(sys.argv[2]))
