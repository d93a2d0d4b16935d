"""What Ray Tune asks which trial is next, and whether one that reports goes on: it passes reports to the intake."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from quantizers import FitStep
from sweeps.record.intake import Intake
from sweeps.record.ledger import Turn
from sweeps.tune.queue import Queue
from sweeps.tune.ray_internals import is_starting
from sweeps.tune.resources import Policy
from trainables.records import TrialResult, TrialSpec

_LOOK_SECONDS = 5.0  # between two looks at how large the cluster is


class Scheduler(FIFOScheduler):  # type: ignore[misc]
    """Trials in the order in which they are made; none that waits is started once the sweep ends.

    Args:
        intake: takes what trials report.
        queue: is given those that must run again.
        policy: learns what trials took.
        most_pending: how many trials may wait for a worker now; asked again as the cluster grows.
    """

    def __init__(self, intake: Intake, queue: Queue, policy: Policy, most_pending: Callable[[], int]) -> None:
        super().__init__()
        self._intake, self._queue, self._policy, self._most_pending = intake, queue, policy, most_pending
        self._pending: dict[str, Trial] = {}
        self._looked = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as the queue's

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """See Tune."""
        super().on_trial_add(tune_controller, trial)
        trial.init_local_path()  # Tune's summary asks each trial for its folder, one that never started as well
        self._pending[trial.trial_id] = trial

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The first that waits. Tune's own scheduler looks at all trials of the sweep for it, twice in every step.

        Tune gives it a worker that has become free, and gives up the one that was to come for it. Where that one is on its
        way, on a node that has just joined, another trial is therefore taken: while trials are shorter than the start of a
        worker, the node would never have one.
        """
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked = time.monotonic()
            tune_controller.update_max_pending_trials(self._most_pending())
        first: Trial | None = None
        for trial_id, trial in list(self._pending.items()):
            if trial.status != Trial.PENDING:
                del self._pending[trial_id]
            elif self._intake.stop_reason is not None:
                tune_controller.stop_trial(trial)
            elif not is_starting(tune_controller, trial):
                return trial
            else:
                first = first or trial
        return first

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """A report of a fit, or a trial's result with its last report, which stops no trial: it ends by itself."""
        spec = TrialSpec.from_json(trial.config["spec"])
        if (turn := result.get("turn")) is not None:
            self._elsewhere(spec, Turn(turn))
            return str(TrialScheduler.CONTINUE)
        if result.get("result") is None:
            step = FitStep(result["phase"], result["fraction"], result["value"], json.loads(result["metrics"]))
            reason = self._intake.report(spec, step, result["seconds"])
            return str(TrialScheduler.CONTINUE if reason is None else TrialScheduler.STOP)
        if not self._intake.has_ended(spec):
            self._policy.learn(spec.method, result["device_memory_bytes"])
            done = TrialResult.from_json(json.loads(result["result"]))
            if self._intake.take(spec, done, again=result["out_of_memory"]):
                self._queue.run_again(spec, alone=True)
        return str(TrialScheduler.CONTINUE)

    def _elsewhere(self, spec: TrialSpec, turn: Turn) -> None:
        """Another sweep on the same ledger runs the trial, or has finished it."""
        if turn is Turn.THEIRS:
            self._intake.set_aside(spec)
            self._queue.run_later(spec)
        elif self._intake.take_over(spec):
            self._queue.run_regardless(spec)
