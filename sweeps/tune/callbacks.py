"""What Ray Tune calls as trials start and are lost: it passes both to the intake, and ends what runs for too long."""

from __future__ import annotations

import time
from typing import Any

from ray.tune import Callback
from ray.tune.progress_reporter import TrialProgressCallback

from sweeps.record.intake import Intake
from sweeps.spec.config import SweepConfig
from sweeps.tune.queue import PATIENT, WAIT_SECONDS, Queue
from sweeps.tune.ray_internals import Loss, RayLostError, forget, has_died, is_alive_here, kill_worker, why_lost
from trainables.records import TrialSpec

_LOOK_SECONDS = 2.0  # between two questions to Ray whether it takes this node for alive


class Callbacks(Callback):  # type: ignore[misc]
    """Tune's events for the intake; reports and results come through :class:`sweeps.tune.scheduler.Scheduler`.

    Args:
        config: the sweep.
        intake: is told of everything.
        queue: is given the trials that must run again.
    """

    def __init__(self, config: SweepConfig, intake: Intake, queue: Queue) -> None:
        self._config, self._intake, self._queue = config, intake, queue
        self._began = time.monotonic()
        self._started: dict[str, tuple[float, Any]] = {}
        self._killed: set[str] = set()
        self._looked = self._began

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore, which is never made: the ledger is what resumes

    @staticmethod
    def _spec(trial: Any) -> TrialSpec:
        return TrialSpec.from_json(trial.config["spec"])

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Ten times a second: tell the intake, and end what has run for too long.

        Raises:
            RayLostError: Ray has died on this machine, or takes the machine for dead: one that is too busy to answer, too.
        """
        self._intake.tick()
        self._look_for_ray()
        stop, timeout, now = self._config.stop, self._config.trial_timeout, time.monotonic()
        if stop.time is not None and now - self._began >= stop.time:
            self._intake.stop(f"stop.time: {stop.time:g} s were over")
        for key, (started, trial) in self._started.items() if timeout is not None else ():
            waits = WAIT_SECONDS if trial.config["turn"] == PATIENT else 0.0
            if timeout is not None and now - started > timeout + waits and key not in self._killed:
                self._killed.add(key)
                kill_worker(trial)

    def _look_for_ray(self) -> None:
        asks = time.monotonic() - self._looked > _LOOK_SECONDS
        if asks:
            self._looked = time.monotonic()
        if has_died() or (asks and not is_alive_here()):
            raise RayLostError

    def kill_running(self) -> None:
        """End all that runs, now."""
        for _, trial in self._started.values():
            kill_worker(trial)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker has begun with a trial."""
        spec = self._spec(trial)
        self._started[spec.key] = time.monotonic(), trial
        self._intake.begin(spec)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """After the scheduler has seen it. Tune keeps every trial's last report: not with the whole result in it."""
        if result.get("result"):
            self._started.pop(self._spec(trial).key, None)
            result["result"] = "taken"

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended, or was stopped."""
        self._started.pop(self._spec(trial).key, None)
        forget(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's worker is gone."""
        spec = self._spec(trial)
        self._started.pop(spec.key, None)
        if self._intake.has_ended(spec):
            return
        if spec.key in self._killed:
            loss = Loss(f"timed out: still running after trial_timeout = {self._config.trial_timeout:g} s")
        else:
            loss = why_lost(trial)
        if self._intake.lose(spec, loss.reason, again=loss.again):
            self._queue.run_again(spec, alone=loss.memory)


class Silence(TrialProgressCallback):  # type: ignore[misc]
    """Takes the place of what Tune prints of its trials, which it does at the last one whatever ``verbose`` says."""

    def on_trial_complete(self, *event: Any, **info: Any) -> None:
        """Nothing is printed: :class:`sweeps.record.status.Progress` says it."""

    on_trial_result = on_trial_error = on_trial_complete
