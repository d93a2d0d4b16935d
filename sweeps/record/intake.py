"""The one owner of what came of a sweep's trials: it hands trials out, takes results in, and tells all who want to know.

It knows no Ray. In a sweep, Ray Tune's callbacks drive it (:mod:`sweeps.tune`); a replay of recorded trials drives the same
code in ``benchmarks/replay.py``; tests drive it by hand::

    while (spec := intake.next_trial()) is not None:
        intake.begin(spec)
        reason = intake.report(spec, step, seconds)  # as often as the fit reports; a reason means: stop it
        intake.tick()                                # now and then, whatever happens
        intake.take(spec, result)                    # or intake.lose(spec, why, again=...)

Promises: a trial ends once, whatever arrives after; every end is one call of ``ended`` on every observer, in the order in
which they were given; a source learns of an end after it has been recorded, never while it is being asked for a trial.
"""

from __future__ import annotations

import collections
import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from analysis.schema import TERMINATED
from quantizers import FitStep
from sweeps.record.artifacts import bring, fetch_copy
from sweeps.record.ledger import Ledger
from sweeps.spec import constraints
from sweeps.spec.config import SweepConfig
from sweeps.spec.constraints import Constraint
from trainables.records import TrialResult, TrialSpec, blank_row

Judge = Callable[[str, FitStep, float], str | None]


def _shared(row: Mapping[str, Any]) -> dict[str, Any]:
    """``row`` with texts that it shares with other rows: most are the same in all, and each came with copies of its own."""
    return {sys.intern(name): sys.intern(value) if type(value) is str else value for name, value in row.items()}


class Observer:
    """Is told of what happens to trials; overrides what it wants to know."""

    def started(self, spec: TrialSpec) -> None:
        """A trial has started."""

    def stepped(self, spec: TrialSpec, step: FitStep) -> None:
        """A fit reports how far it is."""

    def set_aside(self, spec: TrialSpec) -> None:
        """A trial was lost, and will start again."""

    def ended(self, result: TrialResult) -> None:
        """A trial has ended, or its result was found in the ledger (``row["reused"]``)."""

    def tick(self) -> None:
        """Some time has passed while trials run; called several times a second."""


class Source(Protocol):
    """Where trials come from: a plan, or a search."""

    def next_trial(self) -> TrialSpec | None:
        """The next trial, known or not; None: there are no more."""

    def learn(self, result: TrialResult) -> None:
        """What came of a trial."""


class Rule(Protocol):
    """Ends a sweep by what came of its trials."""

    @property
    def reason(self) -> str:
        """What to say of it."""

    def know(self, result: TrialResult) -> None:
        """Take note of a trial that did not run now."""

    def reached(self, result: TrialResult) -> bool:
        """Take note of a trial that has just ended; whether it is time to end the sweep."""


class Listed:
    """Given trials, in order."""

    def __init__(self, trials: Iterable[TrialSpec]) -> None:
        self._trials: Iterator[TrialSpec] = iter(trials)

    def next_trial(self) -> TrialSpec | None:
        """See :class:`Source`."""
        return next(self._trials, None)

    def learn(self, result: TrialResult) -> None:
        """A plan learns nothing."""


class Intake:
    """What came in, and what is still to come.

    Args:
        config: the sweep.
        table: name, rows, columns: for the rows of trials that hand in nothing.
        ledger: where results of earlier runs are; None for none.
        limits: constraints that results are marked by.
        judge: ``(trial key, step, seconds since the fit began)`` -> why the trial is stopped now, or None.
        rule: ends the sweep by its results, or None.
        observers: are told of everything.

    Attributes:
        results: by trial key, without curves: those are the observers' and the ledger's.
        reused: how many came from the ledger.
        stop_reason: why no more trials are handed out although some are left, or None.
    """

    def __init__(
        self,
        config: SweepConfig,
        table: tuple[str, int, int],
        *,
        ledger: Ledger | None = None,
        limits: Sequence[Constraint] = (),
        judge: Judge | None = None,
        rule: Rule | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.results: dict[str, TrialResult] = {}
        self.reused = 0
        self.stop_reason: str | None = None
        self._config, self._table, self._ledger, self._limits = config, table, ledger, tuple(limits)
        self._judge, self._rule, self._observers = judge, rule, tuple(observers)
        self._source: Source = Listed(())
        self._next: TrialSpec | None = None
        self._handed_out = 0
        self._curves: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
        self._failures: collections.Counter[str] = collections.Counter()

    # Trials out ------------------------------------------------------------------------------------------------------

    def draw_from(self, source: Source) -> None:
        """Hand out the trials of ``source`` from now on."""
        self._source = source

    def adopt(self, spec: TrialSpec) -> bool:
        """Take the result of ``spec`` from the ledger, where it is there."""
        known = self._known(spec)
        if known is None:
            return False
        known.row["reused"] = True
        if self._rule is not None:
            self._rule.know(known)
        self._record(known)
        return True

    def has_more(self) -> bool:
        """Whether there is a trial that must run; trials whose results are known are passed over."""
        while self._next is None:
            spec = self._source.next_trial()
            if spec is None:
                return False
            if not self.adopt(spec):
                self._next = spec
        return True

    def next_trial(self) -> TrialSpec | None:
        """The next trial that must run; None: there are no more, or the sweep ends (``stop_reason``)."""
        if self.stop_reason is not None or not self.has_more():
            return None
        if self._config.stop.trials is not None and self._handed_out >= self._config.stop.trials:
            most = self._config.stop.trials
            self.stop(f"stop.trials: {most} {'was' if most == 1 else 'were'} run")
            return None
        self._handed_out += 1
        spec, self._next = self._next, None
        return spec

    def stop(self, reason: str) -> None:
        """Hand out no more trials; those that run go on to their end. The first reason stays."""
        self.stop_reason = self.stop_reason or reason

    def break_off(self, reason: str) -> None:
        """No trial runs any more, though some have not ended: those are as if they had never begun."""
        self.stop_reason = reason

    # Results in ------------------------------------------------------------------------------------------------------

    def has_ended(self, spec: TrialSpec) -> bool:
        """Whether a trial has ended."""
        return spec.key in self.results

    def begin(self, spec: TrialSpec) -> None:
        """A trial has started."""
        for observer in self._observers:
            observer.started(spec)

    def tick(self) -> None:
        """Some time has passed while trials run."""
        for observer in self._observers:
            observer.tick()

    def report(self, spec: TrialSpec, step: FitStep, seconds: float) -> str | None:
        """A fit reports; returns why the trial must be stopped now, or None. One that must be has ended with this.

        Args:
            spec: of the trial.
            step: what the fit reports.
            seconds: since the fit began.
        """
        key = spec.key
        if key in self.results:
            return None
        curve = self._curves[key]
        while curve and curve[-1]["fraction"] > step.fraction:  # an attempt was lost beyond its last checkpoint
            curve.pop()
        said = {"phase": step.phase, "fraction": step.fraction, "value": step.value, "seconds": seconds}
        curve.append({**said, **step.metrics})
        for observer in self._observers:
            observer.stepped(spec, step)
        reason = None if self._judge is None else self._judge(key, step, seconds)
        if reason is not None:
            row = blank_row(spec, self._table, status="stopped", reason=reason)
            result = TrialResult({**row, "fit_seconds": seconds}, curves=list(curve), seconds=seconds)
            if self._ledger is not None:
                self._ledger.put(key, result)  # so that a resumed run does not begin it again
            self._end(spec, result)
        return reason

    def take(self, spec: TrialSpec, result: TrialResult, *, again: bool = False) -> bool:
        """A trial hands in its result.

        Args:
            spec: of the trial.
            result: its result, a failure too.
            again: another run may go better (it had too little memory); the result then counts only if there is none.

        Returns:
            Whether the trial must run again.
        """
        if self.has_ended(spec):
            return False
        if again and self._may_run_again(spec):
            return True
        self._end(spec, result)
        return False

    def set_aside(self, spec: TrialSpec) -> None:
        """A trial that had begun has not, and will begin again."""
        for observer in self._observers:
            observer.set_aside(spec)

    def take_over(self, spec: TrialSpec) -> bool:
        """Another sweep has finished ``spec`` since this one looked; returns whether it must run all the same.

        Its compressed files are copied at once: the other deletes those that are not on its own frontier.
        """
        known = self._known(spec)
        if known is None or (self._config.keep_artifacts != "none" and not fetch_copy(known, spec.key, self._config)):
            self.set_aside(spec)
            return True
        known.row["reused"] = True
        self._end(spec, known)
        return False

    def lose(self, spec: TrialSpec, why: str, *, again: bool) -> bool:
        """A trial ended without handing in a result.

        Args:
            spec: of the trial.
            why: the reason for its row.
            again: whether another run may go better.

        Returns:
            Whether the trial must run again.
        """
        if self.has_ended(spec):
            return False  # it had handed in its result before
        if (done := self._known(spec)) is not None:
            self._end(spec, done)  # lost between its result and its last report
            return False
        if self.stop_reason == TERMINATED:
            return False  # it went with its machine, and is as if it had never begun
        if again and self._may_run_again(spec):
            return True
        self._end(spec, TrialResult(blank_row(spec, self._table, status="failed", reason=why)))
        return False

    def _known(self, spec: TrialSpec) -> TrialResult | None:
        """What the ledger has of ``spec``, its file too where the sweep keeps it."""
        known = None if self._ledger is None else self._ledger.get(spec.key)
        return known if known is not None and bring(known, spec, self._config) else None

    def _may_run_again(self, spec: TrialSpec) -> bool:
        self._failures[spec.key] += 1
        if self._failures[spec.key] > self._config.max_failures or self.stop_reason is not None:
            return False
        self.set_aside(spec)
        return True

    def _end(self, spec: TrialSpec, result: TrialResult) -> None:
        self._curves.pop(spec.key, None)
        if self._failures[spec.key] > 1 and result.row["status"] == "failed":
            result.row["reason"] = f"{result.row['reason']} (tried {self._failures[spec.key]} times)"
        self._record(result)
        if self._rule is not None and self._rule.reached(result):
            self.stop(self._rule.reason)

    def _record(self, result: TrialResult) -> None:
        constraints.mark(self._limits, result)
        kept = dataclasses.replace(
            result, row=_shared(result.row), scores=[_shared(row) for row in result.scores], curves=[]
        )
        self.results[result.row["trial_key"]] = kept
        self.reused += bool(result.row["reused"])
        for observer in self._observers:
            observer.ended(result)
        self._source.learn(result)
