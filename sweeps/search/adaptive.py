"""Adaptive searches: what to run next is chosen from what came of the trials so far.

A *strategy* (:mod:`sweeps.search.optuna`, :mod:`sweeps.search.frontier`) names configurations; :class:`AdaptiveSearch` makes
trials of them, one for each seed, and tells the strategy what came of them. The configurations are written to
``search.jsonl`` in the run directory as they are chosen: a resumed run begins with those, in order, and then goes on.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
from collections.abc import Sequence

import quantizers
from analysis.pareto import Direction
from quantizers import FitStep
from quantizers.errors import InputError
from sweeps.search.base import Judge, Outcome, Strategy
from sweeps.search.journal import Journal
from sweeps.search.moasha import Rungs
from sweeps.spec.constraints import Constraint, violations
from sweeps.spec.plan import Plan
from sweeps.spec.prepare import Prepared
from sweeps.spec.space import Planned
from sweeps.storage import Storage
from trainables.records import TrialResult, TrialSpec


def make_search(prepared: Prepared, storage: Storage) -> AdaptiveSearch | None:
    """The search that the sweep file names; None where all trials of the plan are run."""
    if prepared.plan.samples is None:
        return None
    return AdaptiveSearch(
        prepared.plan,
        prepared.config.seeds,
        _metrics(prepared),
        _strategy(prepared),
        constraints=prepared.constraints,
        dense_bytes=prepared.plan.space.dense_bytes,
        journal=Journal(storage),
    )


def make_judge(prepared: Prepared, search: AdaptiveSearch | None) -> Judge | None:
    """What stops trials early, as the sweep file says; None: nothing does."""
    options = prepared.config.scheduler
    if options.kind == "none":
        return None
    if search is not None and options.kind == "frontier":
        return search.judge
    sizes = prepared.plan.predicted_bytes.__getitem__ if search is None else search.predicted_bytes
    return Rungs(sizes, options.reduction_factor, options.grace, options.curves).step


def _strategy(prepared: Prepared) -> Strategy:
    search, space = prepared.config.search, prepared.plan.space
    metrics = _metrics(prepared)
    directions: list[Direction] = ["max" if prepared.directions[name]["direction"] == "max" else "min" for name in metrics]
    if search.kind == "optuna":
        from sweeps.search.optuna import OptunaSearch

        return OptunaSearch(space, ["min", *directions], search.sampler or "tpe", search.seed)
    from sweeps.search.frontier import FrontierSearch

    curves = prepared.config.scheduler.kind == "frontier"
    return FrontierSearch(space.configurations(), directions, prepared.plan.space.dense_bytes, search.seed, curves=curves)


def _metrics(prepared: Prepared) -> list[str]:
    return [name for name in prepared.objectives if name != "payload_bytes"]


class AdaptiveSearch:
    """Makes trials of what a strategy chooses; a source of trials for :class:`sweeps.record.intake.Intake`.

    Args:
        plan: the sweep's; ``samples`` says how many configurations are run.
        seeds: each configuration is run with every one.
        metrics: ``task.metric`` names that the strategy is told, in order.
        strategy: chooses.
        constraints: limits that the strategy is told of.
        dense_bytes: size of the uncompressed table.
        journal: of what was chosen, by this run and by those before it; None keeps none.
    """

    def __init__(
        self,
        plan: Plan,
        seeds: Sequence[int],
        metrics: Sequence[str],
        strategy: Strategy,
        *,
        constraints: Sequence[Constraint] = (),
        dense_bytes: int,
        journal: Journal | None = None,
    ) -> None:
        assert plan.samples is not None
        self._plan, self._seeds, self._metrics = plan, tuple(seeds), tuple(metrics)
        self._constraints, self._dense_bytes = tuple(constraints), dense_bytes
        self._journal = journal
        self._configurations_left = plan.samples
        self.strategy = strategy
        self._baselines = [spec for spec in plan.trials if spec.method == "identity"]
        self._queue = collections.deque(self._baselines)
        self._planned: dict[str, Planned] = {}  # by trial key
        self._asked: dict[str, TrialSpec] = {}
        self._waiting: dict[Planned, dict[str, TrialResult | None]] = {}
        for planned in self._journalled():
            self.strategy.take(planned)
            self._enqueue(planned)

    @property
    def total(self) -> int:
        """How many trials there will be at the most, the baseline counted."""
        assert self._plan.samples is not None
        wanted = len(self._baselines) + self._plan.samples * len(self._seeds)
        return wanted if self._plan.space.ranged else min(wanted, len(self._plan.trials))

    def next_trial(self) -> TrialSpec | None:
        """The next trial, whether its result is known or not; None: that is all."""
        while not self._queue:
            planned = self.strategy.ask() if self._configurations_left > 0 else None
            if planned is None:
                return None
            if self._journal is not None:
                entry = {"quantizer": planned.method, "config": planned.config.model_dump(mode="json")}
                self._journal.add(json.dumps({**entry, "budget_bytes": planned.budget_bytes}))
            self._enqueue(planned)
        return self._queue.popleft()

    def learn(self, result: TrialResult) -> None:
        """What came of a trial; with the last seed of a configuration the strategy learns of it."""
        key = result.row["trial_key"]
        planned = self._planned.get(key)
        if planned is None or planned not in self._waiting:
            return
        results = self._waiting[planned]
        results[key] = dataclasses.replace(result, curves=[])
        known = [one for one in results.values() if one is not None]
        if len(known) == len(results):
            del self._waiting[planned]
            self.strategy.tell(planned, self._outcome(planned, known))

    def judge(self, key: str, step: FitStep, seconds: float) -> str | None:
        """See :data:`sweeps.search.base.Judge`."""
        planned = self._planned.get(key)
        return None if planned is None else self.strategy.judge(planned, step, seconds)

    def plan(self) -> Plan:
        """The sweep's plan with the trials that were chosen, and rows for what was chosen and is not run."""
        sizes = {key: planned.predicted_bytes for key, planned in self._planned.items()}
        refused = [self._plan.not_run(one, *why) for one, *why in self.strategy.refused]
        return dataclasses.replace(
            self._plan,
            trials=(*self._baselines, *self._asked.values()),
            skipped=(*self._plan.skipped, *refused),
            predicted_bytes={**self._plan.predicted_bytes, **sizes},
        )

    def close(self) -> None:
        """Write what the journal still holds."""
        if self._journal is not None:
            self._journal.flush()

    def predicted_bytes(self, key: str) -> int:
        """Predicted payload of the trial ``key``."""
        planned = self._planned.get(key)
        return self._dense_bytes if planned is None else planned.predicted_bytes

    def _enqueue(self, planned: Planned) -> None:
        self._configurations_left -= 1
        specs = [self._plan.spec(planned, seed) for seed in self._seeds]
        self._waiting[planned] = {spec.key: None for spec in specs}
        for spec in specs:
            self._planned[spec.key] = planned
            self._asked[spec.key] = spec
        self._queue.extend(specs)

    def _outcome(self, planned: Planned, results: list[TrialResult]) -> Outcome:
        scores = [{f"{score['task']}.{score['metric']}": score["value"] for score in one.scores} for one in results]
        usable = all(one.row["status"] in ("ok", "infeasible") for one in results)
        values = [sum(score.get(name, math.nan) for score in scores) / len(scores) for name in self._metrics]
        beyond = [violations(self._constraints, one) for one in results] if usable else []
        return Outcome(
            values=tuple(values if usable else [math.nan] * len(values)),
            payload_bytes=max(one.row.get("payload_bytes") or planned.predicted_bytes for one in results),
            seconds=sum(one.seconds or 0.0 for one in results),
            stopped=any(one.row["status"] == "stopped" for one in results),
            violations={name: max(one[name] for one in beyond) for name in beyond[0]} if beyond else {},
        )

    def _journalled(self) -> list[Planned]:
        """What an earlier run chose, as far as it is still in the space."""
        found: dict[Planned, None] = {}
        space = self._plan.space
        listed = {(one.method, one.config): one for one in space.configurations()}
        for line in [] if self._journal is None else self._journal.lines():
            try:
                entry = json.loads(line)
                config = quantizers.make_config(entry["quantizer"], entry["config"])
            except (ValueError, KeyError, InputError):
                continue  # a method that is no longer there, or somebody's edit
            planned = listed.get((entry["quantizer"], config)) or space.planned(entry["quantizer"], config)
            planned = dataclasses.replace(planned, budget_bytes=entry["budget_bytes"])
            if space.refusal(planned) is None:
                found[planned] = None
        return list(found)
