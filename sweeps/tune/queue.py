"""What Ray Tune asks for the next trial: it decides when a trial starts, on what, and when no more do.

Tune's own grid makes all trials at once, with the resources of the first. Here a trial is made when there is room for it,
so that it can ask for what the trials before it measured, and a sweep can end without killing what runs.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from sweeps.tune.resources import Policy
from trainables.trial import TrialSpec


class Feed(Searcher):  # type: ignore[misc]
    """Hands trials to Tune, one at a time.

    Args:
        next_trial: the next trial to run, or None: that was the last.
        policy: what each takes.
        look_ahead: so many trials may be passed over for one that can start now; few where each is chosen by what came of
            those before it.

    Attributes:
        stop_reason: why no more trials start, or None.
    """

    def __init__(self, next_trial: Callable[[], TrialSpec | None], policy: Policy, look_ahead: int = 100) -> None:
        super().__init__()
        self._look_ahead = look_ahead
        self._next_trial = next_trial
        self._waiting: list[TrialSpec] = []
        self._again: collections.deque[TrialSpec] = collections.deque()
        self._policy = policy
        self._running: dict[str, TrialSpec] = {}
        self.stop_reason: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it for a restore, which is never made: the ledger is what resumes

    def stop(self, reason: str) -> None:
        """Start no more trials; those that run go on to their end."""
        self.stop_reason = self.stop_reason or reason

    def run_again(self, spec: TrialSpec) -> None:
        """Run ``spec`` once more when all others have ended, alone."""
        self._again.append(spec)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial; None: none now; ``Searcher.FINISHED``: none any more."""
        if self.stop_reason is not None:
            return str(Searcher.FINISHED)
        alone = False
        spec = self._first_that_may_start()
        if spec is None and not self._waiting and not self._running:  # while any runs, it may have to run again
            if not self._again:
                return str(Searcher.FINISHED)
            alone, spec = True, self._again.popleft()
        if spec is None:
            return None
        self._running[trial_id] = spec
        return {"spec": spec.to_json(), "share": self._policy.share(spec, alone=alone).to_json()}

    def _first_that_may_start(self) -> TrialSpec | None:
        running = [spec.method for spec in self._running.values()]
        for place, passed in enumerate(self._waiting):
            if self._policy.may_start(passed, running):
                return self._waiting.pop(place)
        while len(self._waiting) < self._look_ahead:
            spec = self._next_trial()
            if spec is None or self._policy.may_start(spec, running):
                return spec
            self._waiting.append(spec)
        return None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """See Tune."""
        self._running.pop(trial_id, None)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the ledger is what resumes."""


def request(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """What Tune reserves for a trial."""
    share = config["share"]
    bundle = {"CPU": share["cpu"], "GPU": share["gpu"], "memory": share["memory_bytes"] or 0}
    return tune.PlacementGroupFactory([{name: amount for name, amount in bundle.items() if amount}])
