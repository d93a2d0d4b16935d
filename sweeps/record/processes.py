"""Whether a process that left a note is still there."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PIDS = Path("/proc/self/ns/pid")
# Where process numbers are this process's: this machine since it was started, and its container.
_HERE = f"{_BOOT.read_text().strip()} {os.readlink(_PIDS)}" if _BOOT.exists() and _PIDS.exists() else platform.node()


def note() -> str:
    """What to leave where others may ask whether this process is still there."""
    return f"{os.getpid()} {_started(os.getpid())} {_HERE}"


def is_gone(left: str) -> bool:
    """Whether the process that left a note has ended; False where that is not known, as on another machine."""
    process, _, rest = left.partition(" ")
    started, _, where = rest.partition(" ")
    return where == _HERE and process.isdecimal() and _started(int(process)) != started


def is_here(left: str) -> bool:
    """Whether it is a note of a process of this machine."""
    return left.endswith(f" {_HERE}")


def _started(process: int) -> str | None:
    """When a process was started, in the kernel's ticks (numbers of processes are used again); None: it is not there."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except ProcessLookupError:
        return None
    except (OSError, IndexError):  # not ours to signal, or a system without /proc
        return ""
