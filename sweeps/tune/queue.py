"""What Ray Tune asks for the next trial: it decides when a trial starts, on what, and when no more do.

Tune's own grid makes all trials at once, with the resources of the first. Here a trial is made when there is room for it,
so that it can ask for what the trials before it measured, and a sweep can end without killing what runs.
"""

from __future__ import annotations

import collections
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from sweeps.record.intake import Intake
from sweeps.storage.claims import STALE_SECONDS
from sweeps.tune.resources import Policy
from trainables.records import TrialSpec

# How a trial takes its turn, where another sweep on the same ledger may be running it.
EAGER = "eager"  # another's is put off: there are others to run meanwhile
PATIENT = "patient"  # another's is waited for
REGARDLESS = "regardless"  # it runs, whatever others do
# As long as a worker waits for another sweep: longer than it takes to see that the other's machine is gone.
WAIT_SECONDS = STALE_SECONDS + 15.0


class Queue(Searcher):  # type: ignore[misc]
    """Hands the intake's trials to Tune, one at a time.

    Args:
        intake: where trials come from.
        policy: what each takes.
        look_ahead: so many trials may be passed over for one that can start now; few where each is chosen by what came of
            those before it.
        turn: how trials take their turn at first.
    """

    def __init__(self, intake: Intake, policy: Policy, look_ahead: int = 100, turn: str = EAGER) -> None:
        super().__init__()
        self._turn = turn
        self._turns: dict[str, str] = {}
        self._later: collections.deque[TrialSpec] = collections.deque()
        self._intake, self._policy, self._look_ahead = intake, policy, look_ahead
        self._waiting: list[TrialSpec] = []
        self._again: collections.deque[TrialSpec] = collections.deque()
        self._again_alone: collections.deque[TrialSpec] = collections.deque()
        self._running: dict[str, TrialSpec] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it for a restore, which is never made: the ledger is what resumes

    def run_again(self, spec: TrialSpec, *, alone: bool) -> None:
        """Run ``spec`` once more.

        Args:
            spec: a trial that was lost.
            alone: when all others have ended, with the machine to itself: for want of memory. A trial that was lost with its
                node runs as soon as there is room, beside the others.
        """
        (self._again_alone if alone else self._again).append(spec)

    def run_later(self, spec: TrialSpec) -> None:
        """Another sweep runs ``spec`` now: wait for it when all others have begun."""
        self._turns[spec.key] = PATIENT
        self._later.append(spec)

    def run_regardless(self, spec: TrialSpec) -> None:
        """Another sweep has finished ``spec``, but there is no compressed file of it: run it here."""
        self._turns[spec.key] = REGARDLESS
        self._again.append(spec)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial; None: none now; ``Searcher.FINISHED``: none any more."""
        if self._intake.stop_reason is not None:
            return str(Searcher.FINISHED)
        alone = False
        spec = self._first_that_may_start()
        if spec is None and not self._waiting and not self._running:  # while any runs, it may have to run again
            if not self._again_alone:
                return str(Searcher.FINISHED)
            alone, spec = True, self._again_alone.popleft()
        if spec is None:
            return None
        self._running[trial_id] = spec
        share = self._policy.share(spec, alone=alone).to_json()
        return {"spec": spec.to_json(), "share": share, "turn": self._turns.get(spec.key, self._turn)}

    def _first_that_may_start(self) -> TrialSpec | None:
        running = [spec.method for spec in self._running.values()]
        while self._again:
            self._waiting.insert(0, self._again.pop())
        for place, passed in enumerate(self._waiting):
            if self._policy.may_start(passed, running):
                return self._waiting.pop(place)
        while len(self._waiting) < self._look_ahead:
            spec = self._intake.next_trial()
            if spec is None and self._later:
                spec = self._later.popleft()
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
