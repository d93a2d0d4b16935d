"""Takes what trials hand in, and makes a row of every other end: time-out, lost worker, lost node, no memory."""

from __future__ import annotations

import collections
import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
import ray.cloudpickle
from ray.exceptions import RayActorError
from ray.tune import Callback
from ray.tune.progress_reporter import TrialProgressCallback

from sweeps.record.status import Progress
from sweeps.search.plateau import Plateau
from sweeps.spec.config import SweepConfig
from sweeps.tune.queue import Feed
from sweeps.tune.resources import Policy
from trainables.trial import TrialResult, TrialSpec, blank_row


class Collector(Callback):  # type: ignore[misc]
    """What Tune calls as a sweep goes on.

    Args:
        config: the sweep.
        table: name, rows, columns.
        feed: where trials come from; it is told to stop, and to run a lost trial again.
        policy: learns what trials took.
        progress: is told of trials that start and how far they are.
        add: takes every row.
        known: what the ledger has of a trial: a worker may be lost between that and its last report.
        plateau: the stop rule for the hypervolume, or None.
        stopped: by trial key, why the scheduler has just stopped it.
    """

    def __init__(
        self,
        config: SweepConfig,
        table: tuple[str, int, int],
        *,
        feed: Feed,
        policy: Policy,
        progress: Progress,
        add: Callable[[TrialResult], None],
        known: Callable[[TrialSpec], TrialResult | None],
        plateau: Plateau | None,
        stopped: Mapping[str, str],
    ) -> None:
        self._config = config
        self._table = table
        self._feed = feed
        self._policy = policy
        self._progress = progress
        self._add = add
        self._known = known
        self._plateau = plateau
        self._stopped = stopped
        self._curves: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
        self._began = time.monotonic()
        self._started: dict[str, tuple[float, Any]] = {}
        self._killed: set[str] = set()
        self._failures: collections.Counter[str] = collections.Counter()
        self._ended: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore, which is never made: the ledger is what resumes

    @staticmethod
    def _spec(trial: Any) -> TrialSpec:
        return TrialSpec.from_json(trial.config["spec"])

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Ten times a second: end what has run for too long."""
        stop, timeout, now = self._config.stop, self._config.trial_timeout, time.monotonic()
        if stop.time is not None and now - self._began >= stop.time:
            self._feed.stop(f"stop.time: {stop.time:g} s were over")
        for key, (started, trial) in self._started.items() if timeout is not None else ():
            if timeout is not None and now - started > timeout and key not in self._killed:
                self._killed.add(key)
                # Killed, not asked: it may hang in a library that never comes back to Python.
                ray.kill(trial.temporary_state.ray_actor)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker has begun with a trial."""
        spec = self._spec(trial)
        self._started[spec.key] = time.monotonic(), trial
        self._progress.started(spec.key, f"{spec.method} seed {spec.seed}")

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A trial reports how far it is, or its end."""
        spec = self._spec(trial)
        if not result.get("result"):
            self._progress.step(spec.key, float(result.get("fraction") or 0.0))
            step = {name: result[name] for name in ("phase", "fraction", "value", "seconds")}
            curve = self._curves[spec.key]
            while curve and curve[-1]["fraction"] > step["fraction"]:  # an attempt was lost beyond its last checkpoint
                curve.pop()
            curve.append(step | json.loads(result["metrics"]))
            if spec.key in self._stopped:
                self._end(self._stopped_result(spec, result["seconds"]), 0)
            return
        self._started.pop(spec.key, None)
        self._curves.pop(spec.key, None)
        self._policy.learn(spec.method, result["device_memory_bytes"])
        done = TrialResult.from_json(json.loads(result["result"]))
        if not (result["out_of_memory"] and self._again(spec)):
            self._end(done, self._failures[spec.key])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's worker is gone."""
        spec = self._spec(trial)
        self._started.pop(spec.key, None)
        if spec.key in self._ended:
            return  # it had handed in its result before
        if (done := self._known(spec)) is not None:
            self._end(done, 0)
            return
        if spec.key in self._killed:
            reason, lost = f"timed out: still running after trial_timeout = {self._config.trial_timeout:g} s", False
        else:
            reason, lost = _why(trial)
        if not (lost and self._again(spec)):
            row = blank_row(spec, self._table, status="failed", reason=reason)
            self._end(TrialResult(row), self._failures[spec.key])

    def _stopped_result(self, spec: TrialSpec, seconds: float) -> TrialResult:
        self._started.pop(spec.key, None)
        row = blank_row(spec, self._table, status="stopped", reason=self._stopped[spec.key])
        return TrialResult({**row, "fit_seconds": seconds}, curves=self._curves.pop(spec.key), seconds=seconds)

    def _again(self, spec: TrialSpec) -> bool:
        self._failures[spec.key] += 1
        if self._failures[spec.key] > self._config.max_failures or self._feed.stop_reason is not None:
            return False
        self._progress.set_aside(spec.key)
        self._feed.run_again(spec)
        return True

    def _end(self, result: TrialResult, failures: int) -> None:
        key = result.row["trial_key"]
        if failures > 1 and result.row["status"] == "failed":
            result.row["reason"] = f"{result.row['reason']} (and so it was when it ran again, alone)"
        self._ended.add(key)
        self._add(result)
        if self._plateau is not None and self._plateau.reached(result):
            self._feed.stop(self._plateau.reason)


class Silence(TrialProgressCallback):  # type: ignore[misc]
    """Takes the place of what Tune prints of its trials, which it does at the last one whatever ``verbose`` says."""

    def on_trial_complete(self, *event: Any, **info: Any) -> None:
        """Nothing is printed: :class:`sweeps.record.status.Progress` says it."""

    on_trial_result = on_trial_error = on_trial_complete


def _why(trial: Any) -> tuple[str, bool]:
    """Why a trial's worker is gone, and whether another run may go better."""
    try:
        error = ray.cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except Exception:  # not written, or of a class that does not come back
        error = None
    text = " ".join(str(error or trial.get_error() or "").split())
    if error is not None and not isinstance(error, RayActorError):
        return f"{type(error).__name__}: {text[-500:]}", False
    detail = re.search(r"exit detail: (.*?)(?: Some common causes|$)", text)
    told = detail[1] if detail else text[:500]
    if "running low on memory" in text:
        return f"out of memory: Ray ended its worker: {told}", True
    if "node has died" in text:
        return f"worker lost: its node is gone: {told}", True
    return f"worker lost: {told}", True
