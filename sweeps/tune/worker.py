"""What runs on a Ray worker: one trial, with its failure as a result like any other."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from quantizers import FitStep, Table
from quantizers.errors import InputError
from quantizers.fitting.checkpoint import Stopwatch, saved_by
from sweeps.record.checkpoints import Checkpoints
from sweeps.record.ledger import Ledger, Turn
from sweeps.storage import join
from sweeps.storage.base import RETRY_SECONDS
from sweeps.storage.layout import artifact_name, artifact_names
from sweeps.storage.through_driver import Place
from sweeps.tune.queue import PATIENT, REGARDLESS, WAIT_SECONDS
from sweeps.tune.resources import Share
from sweeps.tune.task_files import Carried, unpack
from trainables import trial
from trainables.memory import data_bytes
from trainables.registry import make_task
from trainables.tables.formats import from_shared
from trainables.trial import TrialResult, TrialSpec

# Longer than all that the driver may rightly do before it asks for more: a call to a storage that is away (when it gives up,
# the sweep ends), and a minute for a search that fits its model. No longer, since after a cut link nobody else notices.
_UNHEARD_SECONDS = RETRY_SECONDS + 60.0
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all trials of a sweep have in common; small, and pickled to the workers once."""

    run: Place
    ledger: Place
    remember_results: bool
    claims_trials: bool  # others may run the same trials on the same ledger
    tasks: tuple[Any, ...]
    data_dir: str | None
    keeps_files: bool  # whether compressed files may stay after the sweep
    report_seconds: float  # between two reports of a fit, at the least: each is a round trip to the driver

    def open_ledger(self) -> Ledger:
        """The sweep's ledger."""
        return Ledger(self.ledger.open(), remember_results=self.remember_results)

    @contextlib.contextmanager
    def turn(self, key: str, how: str) -> Iterator[Turn]:
        """Whose turn it is to run a trial; ``how`` as :class:`sweeps.tune.queue.Queue` says."""
        if not self.claims_trials or how == REGARDLESS:
            yield Turn.OURS
            return
        with self.open_ledger().turn(key, WAIT_SECONDS if how == PATIENT else 0.0) as turn:
            yield turn

    def data_folder(self, data: Carried | None) -> Path | None:
        """Where the tasks' files are on this node; ``data`` are those that came along, None on the driver's own."""
        return None if self.data_dir is None else Path(self.data_dir) if data is None else unpack(data)


def device_of(share: Share) -> torch.device:
    """Where a trial with this share fits: Ray shows it no other GPU than its own, which then is the first."""
    return torch.device("cuda", 0) if share.gpu and torch.cuda.is_available() else torch.device("cpu")


_TABLES: dict[str, Table] = {}


def _table(shared: dict[str, Any]) -> Table:
    """The shared table, made once for each worker process; its vectors stay in the object store."""
    digest = str(shared["digest"])
    if digest not in _TABLES:
        _TABLES.clear()
        _TABLES[digest] = from_shared(shared)
    return _TABLES[digest]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        result: its row, whatever happened.
        out_of_memory: whether it may do better with more memory to itself.
        device_memory_bytes: the most that it took of its device; None on the CPU.
    """

    result: TrialResult
    out_of_memory: bool = False
    device_memory_bytes: int | None = None


def run_one(
    spec: TrialSpec,
    shared: dict[str, Any],
    data: Carried | None,
    weights: np.ndarray | None,
    settings: Settings,
    share: Share,
    *,
    report: Callable[[FitStep], None],
) -> Outcome:
    """Run ``spec``; whatever goes wrong becomes a row with status ``failed`` and the reason."""
    device = device_of(share)
    table = _table(shared)
    try:
        files, data_dir = settings.run.open(), settings.data_folder(data)
        checkpoints = Checkpoints(files, spec.key)
        with _within(share, device), saved_by(checkpoints):
            result = trial.run(
                spec,
                table,
                [make_task(entry, data_dir) for entry in settings.tasks],
                weights=None if weights is None else torch.tensor(weights),
                artifact_path=lambda role: files.local(artifact_name(spec.key, role)),
                once=settings.open_ledger().once,
                device=device,
                report=report,
            )
        for name in artifact_names(result.row):
            files.keep(name)
        result.artifact = join(files.location, artifact_name(spec.key))
    except Exception as error:
        no_memory = _is_out_of_memory(error)
        reason = str(error) if isinstance(error, InputError) else _one_line(error)
        if no_memory and share.memory_bytes is not None and device.type == "cpu":
            reason, no_memory = (
                f"over its memory limit of {share.memory_bytes:,} bytes: {reason}",
                False,
            )  # so it would be again
        elif no_memory:
            reason = f"out of memory: {reason}"
        return Outcome(
            TrialResult(trial.blank_row(spec, (table.name, *table.shape), status="failed", reason=reason)), no_memory
        )
    if result.row["status"] == "ok":  # a failure is not remembered: the next run tries again
        # Where a file is not kept, the ledger names none: it may go on to another machine without the run's folder.
        kept = result if settings.keeps_files else dataclasses.replace(result, artifact=None)
        settings.open_ledger().put(spec.key, kept)
        checkpoints.delete()
    took = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else result.row["peak_memory_bytes"]
    return Outcome(result, device_memory_bytes=took)


@contextlib.contextmanager
def _within(share: Share, device: torch.device) -> Iterator[None]:
    """Threads and memory as ``share`` says, for real: in torch, in NumPy's BLAS, in OpenMP, in the allocators."""
    _give_back()
    torch.set_num_threads(share.threads)
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(share.threads)))  # libraries that are loaded from now on
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what the trial before left would count as this one's
        part = 1.0 if share.gpu_bytes is None else share.gpu_bytes / torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, part), device)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with threadpool_limits(limits=share.threads):  # those that are loaded
        try:
            if share.memory_bytes is not None:
                resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + share.memory_bytes, before[1]))
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, before)


def _give_back() -> None:
    """Return to the system what earlier trials freed: what this one takes of it would not count in its peak of memory."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch on the CPU has no class for it


def _one_line(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:500]
    return f"{type(error).__name__}: {text} ({Path(frame.filename).name}:{frame.lineno})"


def tune_trial(
    config: dict[str, Any],
    shared: dict[str, Any],
    data: Carried | None,
    weights: np.ndarray | None,
    settings: Settings,
) -> None:
    """The function that Ray Tune runs; reports the fit's progress, and the whole result at the end."""
    _fork_with_sigterm()
    watch, last = Stopwatch(), time.monotonic()

    def report(step: FitStep) -> None:
        nonlocal last
        if time.monotonic() - last >= settings.report_seconds:
            last = time.monotonic()
            told = {"phase": step.phase, "fraction": step.fraction, "value": step.value, "seconds": watch.seconds()}
            _tell({**told, "metrics": json.dumps(dict(step.metrics)), "result": None})

    spec = TrialSpec.from_json(config["spec"])
    with settings.turn(spec.key, config["turn"]) as turn:
        if turn is not Turn.OURS:
            _tell({"phase": "elsewhere", "fraction": 0.0, "value": None, "result": None, "turn": str(turn)})
            return
        outcome = run_one(spec, shared, data, weights, settings, Share(**config["share"]), report=report)
    last_words = {"out_of_memory": outcome.out_of_memory, "device_memory_bytes": outcome.device_memory_bytes}
    result = json.dumps(outcome.result.to_json())
    _tell({"phase": "done", "fraction": 1.0, "value": None, "result": result, **last_words})


@functools.cache
def _fork_with_sigterm() -> None:
    """Let what a trial forks take SIGTERM, by which pools end theirs; here it is blocked (:mod:`sweeps.tune.local`)."""
    os.register_at_fork(after_in_child=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM}))


def _tell(message: dict[str, Any]) -> None:
    """Report to the driver; where it does not ask for more within five minutes, this process ends.

    A report returns when the driver has taken it. After a cut link the connection may be gone without the driver's knowing
    (Ray looks every five minutes); of a worker that has ended it learns at once, from the node, and runs the trial again.
    """
    from ray import tune

    watch = threading.Timer(_UNHEARD_SECONDS, _give_up)
    watch.daemon = True
    watch.start()
    try:
        tune.report(message)
    finally:
        watch.cancel()


def _give_up() -> None:
    sys.stderr.write(f"The driver did not take a report within {_UNHEARD_SECONDS:g} s: this worker ends.\n")
    sys.stderr.flush()
    os._exit(1)
