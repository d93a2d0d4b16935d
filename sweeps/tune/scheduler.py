"""Ray Tune's schedulers: trials in the order in which they are made, and trials that are stopped early."""

from __future__ import annotations

import json
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from quantizers import FitStep
from sweeps.search.base import Stopper
from sweeps.tune.queue import Feed
from trainables.records import TrialSpec


class InOrder(FIFOScheduler):  # type: ignore[misc]
    """Trials in the order in which they are made; none that waits is started once the feed has stopped."""

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self._feed = feed

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as the feed's

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """See Tune."""
        super().on_trial_add(tune_controller, trial)
        trial.init_local_path()  # Tune's summary asks each trial for its folder, one that never started as well

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """See Tune."""
        if self._feed.stop_reason is not None:
            for trial in list(tune_controller.get_live_trials()):
                if trial.status == Trial.PENDING:
                    tune_controller.stop_trial(trial)
        return super().choose_trial_to_run(tune_controller)


class EarlyStopping(InOrder):
    """Asks a :class:`Stopper` at every report of a trial.

    Args:
        feed: where trials come from.
        stopper: decides.

    Attributes:
        reasons: by trial key, why it was stopped.
    """

    def __init__(self, feed: Feed, stopper: Stopper) -> None:
        super().__init__(feed)
        self._stopper = stopper
        self.reasons: dict[str, str] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stop or go on; the last report, which carries the result, ends no trial."""
        if result.get("result") is None:
            key = TrialSpec.from_json(trial.config["spec"]).key
            step = FitStep(result["phase"], result["fraction"], result["value"], json.loads(result["metrics"]))
            reason = self._stopper.step(key, step, result["seconds"])
            if reason is not None:
                self.reasons[key] = reason
                return str(TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)
