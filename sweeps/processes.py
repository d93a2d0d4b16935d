"""Whether a process that left a note is still there."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PIDS = Path("/proc/self/ns/pid")

HERE = f"{_BOOT.read_text().strip()} {os.readlink(_PIDS)}" if _BOOT.exists() and _PIDS.exists() else platform.node()
"""Names where process numbers are this process's: this machine since it was started, and its container."""


def is_gone(pid: int, where: str) -> bool:
    """Whether process ``pid``, which was one of ``where`` (its :data:`HERE`), has ended; False where that is not known."""
    if where != HERE:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
