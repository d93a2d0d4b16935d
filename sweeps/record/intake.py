"""Trials on their way: those that are left to run, and the results that have arrived."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable

from sweeps.record.ledger import Ledger
from sweeps.record.status import Progress
from sweeps.record.tracking import Tracker
from sweeps.search.adaptive import AdaptiveSearch
from sweeps.search.plateau import Plateau
from sweeps.spec import constraints
from sweeps.spec.config import SweepConfig
from sweeps.spec.prepare import Prepared
from sweeps.storage import join, open_storage, split
from sweeps.storage.layout import artifact_name
from trainables.records import TrialResult, TrialSpec


class Todo:
    """Trials to run, one at a time, and no more than ``most``."""

    def __init__(self, trials: Iterable[TrialSpec], most: int | None) -> None:
        self._trials = iter(trials)
        self._most = most
        self._left = math.inf if most is None else most
        self._next = next(self._trials, None)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to run."""
        return self._next is None

    @property
    def stop_reason(self) -> str | None:
        """Why there are trials that were not handed out, or None."""
        return None if self._next is None else f"stop.trials: {self._most} were run"

    def next_trial(self) -> TrialSpec | None:
        """The next trial, or None: that was the last."""
        if self._next is None:
            self._next = next(self._trials, None)
        if self._left <= 0:
            return None
        self._left -= 1
        found, self._next = self._next, None
        return found


class Results:
    """Where finished trials arrive, whatever way they come."""

    def __init__(
        self, prepared: Prepared, ledger: Ledger, progress: Progress, tracker: Tracker | None, plateau: Plateau | None
    ) -> None:
        self.by_key: dict[str, TrialResult] = {}
        self.reused = 0
        self.plateau = plateau
        self.search: AdaptiveSearch | None = None
        self._config = prepared.config
        self._constraints = prepared.constraints
        self._ledger = ledger
        self._progress = progress
        self._tracker = tracker

    def adopt(self, spec: TrialSpec) -> bool:
        """Take the result of ``spec`` from the ledger, where it is there."""
        known = self.known(spec)
        if known is None:
            return False
        known.row["reused"] = True
        self.add(known)
        if self.plateau is not None:
            self.plateau.know(known)
        return True

    def known(self, spec: TrialSpec) -> TrialResult | None:
        """What the ledger has of ``spec``, its file too where the sweep keeps it."""
        known = self._ledger.get(spec.key)
        return known if known is not None and _make_own(known, spec, self._config) else None

    def add(self, result: TrialResult) -> None:
        """Keep a result, show it, and send it on."""
        constraints.mark(self._constraints, result)
        self.by_key[result.row["trial_key"]] = result
        self.reused += bool(result.row["reused"])
        if result.row["status"] == "stopped" and not result.row["reused"]:
            self._ledger.put(result.row["trial_key"], result)  # so that a resumed run does not begin it again
        if self.search is not None:
            self.search.finished(result)
        self._progress.finished(result)
        if self._tracker is not None:
            self._tracker.log(result)


def _make_own(known: TrialResult, spec: TrialSpec, config: SweepConfig) -> bool:
    """Make a result of the ledger this sweep's own; False where its compressed file is wanted and gone.

    A trial that was stopped early is a result for sweeps that stop trials.
    """
    known.row.update(reused=False, budget_bytes=spec.budget_bytes)
    if known.row["status"] == "stopped":
        return config.scheduler.kind != "none"
    storage, name = open_storage(config.run_location), artifact_name(spec.key)
    if config.keep_artifacts == "all" and not storage.exists(name):
        folder, file = split(known.artifact or "")
        copy = open_storage(folder).fetch(file) if file else None
        if copy is None:
            return False
        shutil.copyfile(copy, storage.local(name))
        storage.keep(name)
        known.artifact = join(config.run_location, name)
    return True
