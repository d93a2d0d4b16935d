"""What stands beside a sweep's own Ray: when the driver ends, nothing of Ray is left, and nothing else is touched."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.tune import watcher

pytestmark = pytest.mark.process

PATIENCE = 60.0
HOLD = "import signal, sys; file = open(sys.argv[1], 'w'); print('up', flush=True); signal.pause()"


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def holding(started: list[subprocess.Popen[bytes]], file: Path, *words: str) -> subprocess.Popen[bytes]:
    """A process that has ``file`` open."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(file), *words], stdout=subprocess.PIPE)
    started.append(process)
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    return process


def test_what_ray_leaves_ends_with_the_driver(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    folder, other = tmp_path / "ray-1", tmp_path / "ray-12"
    folder.mkdir()
    other.mkdir()
    agent = holding(started, folder / "agent.log", "ray::DashboardAgent")
    driver = holding(started, folder / "driver.log", "ray::driver")
    another = holding(started, other / "agent.log", "ray::DashboardAgent")
    reader = holding(started, folder / "notes")  # a person looks at the logs
    assert sorted(watcher.users_of(str(folder))) == sorted([agent.pid, driver.pid])

    words = [sys.executable, "-I", "-S", watcher.__file__, str(folder), str(driver.pid)]
    beside = subprocess.Popen(words, stdin=subprocess.PIPE)
    started.append(beside)
    assert agent.poll() is None and folder.is_dir()
    assert beside.stdin is not None
    beside.stdin.close()  # as the kernel does when the driver is killed
    assert beside.wait(PATIENCE) == 0
    assert agent.wait(PATIENCE) == -9 and not folder.exists()
    assert [process.poll() for process in (driver, another, reader)] == [None] * 3 and other.is_dir()


def test_it_needs_nothing_but_python() -> None:
    """It is there at once, and small."""
    words = [sys.executable, "-I", "-S", "-X", "importtime", watcher.__file__, "/nonexistent", str(os.getpid())]
    said = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stderr
    assert not any(name in said for name in ("torch", "numpy", "psutil", "site-packages"))
