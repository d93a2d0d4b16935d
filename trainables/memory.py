"""Peak memory of a stretch of code, on the CPU (resident set, Linux) or on a CUDA device."""

from __future__ import annotations

import resource
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def _status_bytes(key: str) -> int | None:
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def resident_bytes(*, peak: bool = False) -> int:
    """Resident set of this process, or the largest that it has been."""
    known = _status_bytes("VmHWM" if peak else "VmRSS")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if known is None else known


def data_bytes() -> int:
    """What this process has allocated for itself, used or not: what ``RLIMIT_DATA`` limits (Linux; elsewhere 0)."""
    return _status_bytes("VmData") or 0


def reset_peak() -> None:
    """Make the present resident set the largest so far."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        pass  # not permitted in some containers: the peak is then the process's own


class PeakMemory:
    """Measures what is allocated on top of what there was at the start.

    ``with PeakMemory(device) as peak: ...`` then ``peak.bytes``: on CUDA the allocator's own peak; on the CPU the peak of
    the resident set less the resident set at the start (None where the system does not tell).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes: int | None = None
        self._start = 0

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._start = torch.cuda.memory_allocated(self.device)
            return self
        reset_peak()
        self._start = resident_bytes()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self._start
            return
        self.bytes = max(0, resident_bytes(peak=True) - self._start)
