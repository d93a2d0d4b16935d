"""A Ray of this sweep's own: on this machine, for this machine only, and gone when the sweep is."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import ray

from sweeps.storage.temporary import ray_folder
from sweeps.tune import watcher
from sweeps.tune.ray_internals import RayLostError, kill_own, no_good_byes, no_signal_handlers, on_loopback

_END_SECONDS = 15.0


@contextlib.contextmanager
def own_ray() -> Iterator[None]:
    """Within this, Ray runs on this machine and listens on loopback alone; afterwards, nothing of it is left.

    Workers import what this process does: its packages are found by the same path, wherever it was started from.
    """
    paths = [path for path in sys.path if path and Path(path).is_dir() and "site-packages" not in path]
    with ray_folder() as folder, _watched(folder):
        try:
            with on_loopback(), no_signal_handlers(), _sigterm_blocked():
                ray.init(
                    address="local",  # not whatever cluster somebody left on this machine
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}},
                    _temp_dir=str(folder),
                )
            yield
        except RayLostError:
            kill_own()  # `ray.shutdown` would wait without end for what hangs
            raise
        finally:
            with no_good_byes():
                ray.shutdown()


@contextlib.contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Within this, new processes have SIGTERM blocked, as have theirs, until one unblocks it.

    A service manager, or a shell's ``kill %1``, sends it to all processes: trials have their grace only while Ray is there.
    This process takes it still, in a thread that is there already.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _watched(folder: Path) -> Iterator[None]:
    """Within this, a small process waits for the end of this one; see :mod:`sweeps.tune.watcher`."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", watcher.__file__, str(folder), str(os.getpid())],
        stdin=subprocess.PIPE,
        start_new_session=True,  # else the Ctrl-C of a terminal would reach it
    )
    try:
        yield
    finally:
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
