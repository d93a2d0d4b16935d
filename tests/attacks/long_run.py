"""What a long sweep costs its driver: memory and handles for each trial, of stand-ins that take no time.

python -m tests.attacks.long_run --trials 5000
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from sweeps.record.status import read_status

ROOT = Path(__file__).parents[2]
WARM = 500  # trials before which nothing is measured: libraries are loaded, caches fill


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of a driver, after the first 500 trials.

    Attributes:
        trials: how many ended.
        bytes_a_trial: how much its resident memory grew for each: the slope of a line through all samples.
        handles: the fewest and the most files and sockets that were open.
        samples: how often it was looked at.
    """

    trials: int
    bytes_a_trial: float
    handles: tuple[int, int]
    samples: int


def measure(trials: int) -> Cost:
    """Run so many stand-ins on a Ray of their own, and look at the driver twice a second.

    Raises:
        subprocess.CalledProcessError: the sweep failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "benchmarks" / "scale.py"), "--part", "run", folder, str(trials)]
        seen: list[tuple[int, int, int]] = []
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:
            watched = psutil.Process(driver.pid)
            while driver.poll() is None:
                time.sleep(0.5)
                with contextlib.suppress(psutil.Error, ValueError):
                    state = read_status(Path(folder) / "running")
                    if state is not None and state["phase"] == "running":
                        memory = watched.memory_info()
                        seen.append((state["done"], memory.rss - memory.shared, watched.num_fds()))
            output = driver.stdout.read() if driver.stdout is not None else ""
        if driver.returncode:
            raise subprocess.CalledProcessError(driver.returncode, command, output)
    done, memory, handles = np.array([one for one in seen if one[0] >= WARM]).T
    slope = np.polyfit(done, memory, 1)[0]
    return Cost(int(done.max()), float(slope), (int(handles.min()), int(handles.max())), len(done))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.long_run", description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=5000)
    cost = measure(parser.parse_args().trials)
    print(
        f"{cost.trials:,} trials: {cost.bytes_a_trial / 1000:.1f} kB resident a trial after the first {WARM}, "
        f"{cost.handles[0]} to {cost.handles[1]} handles, {cost.samples} samples"
    )
