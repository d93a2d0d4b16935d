"""Whether a process that left a note is still there."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PIDS = Path("/proc/self/ns/pid")
# Where process numbers are this process's: this machine since it was started, and its container. psutil knows of neither.
_HERE = f"{_BOOT.read_text().strip()} {os.readlink(_PIDS)}" if _BOOT.exists() and _PIDS.exists() else platform.node()
_TICKS = 100  # a second, as the kernel counts


def note() -> str:
    """What to leave where others may ask whether this process is still there."""
    return f"{os.getpid()} {_started(os.getpid())} {_HERE}"


def is_gone(left: str, *, on_own_disk: bool = False) -> bool:
    """Whether the process that left a note has ended; False where that is not known, as on another machine.

    Args:
        left: its note.
        on_own_disk: the note was found where only this machine leaves any. One of another boot is then of a process that
            ended with that, and what is no note is of nobody.
    """
    process, _, rest = left.partition(" ")
    started, _, where = rest.partition(" ")
    if on_own_disk and where.partition(" ")[0] != _HERE.partition(" ")[0]:
        return True
    if where != _HERE or not process.isdecimal():
        return False
    try:
        return _started(int(process)) != started
    except psutil.AccessDenied:
        return False


def is_here(left: str) -> bool:
    """Whether it is a note of a process of this machine."""
    return left.endswith(f" {_HERE}")


def number(left: str) -> str:
    """The process number in a note; "?" where it has none."""
    return left.partition(" ")[0] or "?"


def _started(process: int) -> str | None:
    """When a process was started, in ticks since the machine was (numbers of processes are used again); None: it has ended.

    The time is counted from the start of the machine, so that setting the clock does not change it.

    Raises:
        psutil.AccessDenied: the system does not say.
    """
    try:
        boot, there = psutil.boot_time(), psutil.Process(process)
        if there.status() == psutil.STATUS_ZOMBIE:  # ended; its parent has not asked how
            return None
        return str(round((there.create_time() - boot) * _TICKS))
    except psutil.NoSuchProcess:
        return None
