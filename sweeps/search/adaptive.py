"""Adaptive searches: what to run next is chosen from what came of the trials so far.

A *strategy* (:mod:`sweeps.search.optuna`, :mod:`sweeps.search.frontier`) names configurations; :class:`AdaptiveSearch` makes
trials of them, one for each seed, looks each up in the ledger first, and tells the strategy what came of it. The
configurations are written to ``search.jsonl`` in the run directory as they are chosen: a run that is resumed begins with
those, in order, and then goes on.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
from collections.abc import Callable

import quantizers
from analysis.pareto import Direction
from quantizers import FitStep
from quantizers.errors import InputError
from sweeps.search.base import Outcome, Strategy
from sweeps.spec.constraints import violations
from sweeps.spec.plan import Plan
from sweeps.spec.prepare import Prepared
from sweeps.spec.space import Planned, not_run_row
from sweeps.storage import Storage
from trainables.records import TrialResult, TrialSpec

JOURNAL = "search.jsonl"


def make_strategy(prepared: Prepared) -> Strategy:
    """The strategy that the sweep file names."""
    search, space = prepared.config.search, prepared.plan.space
    metrics = _metrics(prepared)
    directions: list[Direction] = ["max" if prepared.directions[name]["direction"] == "max" else "min" for name in metrics]
    if search.kind == "optuna":
        from sweeps.search.optuna import OptunaSearch

        return OptunaSearch(space, ["min", *directions], search.sampler or "tpe", search.seed)
    from sweeps.search.frontier import FrontierSearch

    curves = prepared.config.scheduler.kind == "frontier"
    return FrontierSearch(space.configurations(), directions, prepared.stats.dense_bytes, search.seed, curves=curves)


def _metrics(prepared: Prepared) -> list[str]:
    return [name for name in prepared.objectives if name != "payload_bytes"]


class AdaptiveSearch:
    """Makes trials of what a strategy chooses.

    Args:
        prepared: the sweep.
        storage: the run's, for the journal of the configurations that were chosen.
        adopt: whether a trial needs not run, since its result is known; by then it has been handed to :meth:`finished`.
    """

    def __init__(self, prepared: Prepared, storage: Storage, adopt: Callable[[TrialSpec], bool]) -> None:
        assert prepared.plan.samples is not None
        self._prepared = prepared
        self._storage = storage
        self._journal: list[str] = []
        self._adopt = adopt
        self._configurations_left = prepared.plan.samples
        self._metrics = _metrics(prepared)
        self.strategy = make_strategy(prepared)
        self._baselines = [spec for spec in prepared.plan.trials if spec.method == "identity"]
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
        plan = self._prepared.plan
        assert plan.samples is not None
        wanted = len(self._baselines) + plan.samples * len(self._prepared.config.seeds)
        return wanted if plan.space.ranged else min(wanted, len(plan.trials))

    def next_trial(self) -> TrialSpec | None:
        """The next trial that must run, or None: that is all. Those whose results are known are passed over."""
        while True:
            while not self._queue:
                planned = self.strategy.ask() if self._configurations_left > 0 else None
                if planned is None:
                    return None
                self._note(planned)
                self._enqueue(planned)
            spec = self._queue.popleft()
            if not self._adopt(spec):
                return spec

    def finished(self, result: TrialResult) -> None:
        """What came of a trial; with the last seed of a configuration the strategy learns of it."""
        key = result.row["trial_key"]
        planned = self._planned.get(key)
        if planned is None:
            return
        results = self._waiting[planned]
        results[key] = result
        known = [one for one in results.values() if one is not None]
        if len(known) == len(results):
            self.strategy.tell(planned, self._outcome(planned, known))

    def step(self, key: str, step: FitStep, seconds: float) -> str | None:
        """See :meth:`sweeps.search.moasha.Stopper.step`."""
        planned = self._planned.get(key)
        return None if planned is None else self.strategy.judge(planned, step, seconds)

    def plan(self) -> Plan:
        """The sweep's plan with the trials that were chosen, and rows for what was chosen and is not run."""
        plan, config = self._prepared.plan, self._prepared.config
        sizes = {key: planned.predicted_bytes for key, planned in self._planned.items()}
        refused = [not_run_row(config, one.method, one.config, None, *why) for one, *why in self.strategy.refused]
        return dataclasses.replace(
            plan,
            trials=(*self._baselines, *self._asked.values()),
            skipped=(*plan.skipped, *refused),
            predicted_bytes={**plan.predicted_bytes, **sizes},
        )

    def predicted_bytes(self, key: str) -> int:
        """Predicted payload of the trial ``key``."""
        planned = self._planned.get(key)
        return self._prepared.stats.dense_bytes if planned is None else planned.predicted_bytes

    def _enqueue(self, planned: Planned) -> None:
        self._configurations_left -= 1
        specs = [self._prepared.plan.spec(planned, seed) for seed in self._prepared.config.seeds]
        self._waiting[planned] = {spec.key: None for spec in specs}
        for spec in specs:
            self._planned[spec.key] = planned
            self._asked[spec.key] = spec
        self._queue.extend(specs)

    def _outcome(self, planned: Planned, results: list[TrialResult]) -> Outcome:
        scores = [{f"{score['task']}.{score['metric']}": score["value"] for score in one.scores} for one in results]
        usable = all(one.row["status"] in ("ok", "infeasible") for one in results)
        values = [sum(score.get(name, math.nan) for score in scores) / len(scores) for name in self._metrics]
        beyond = [violations(self._prepared.constraints, one) for one in results] if usable else []
        return Outcome(
            values=tuple(values if usable else [math.nan] * len(values)),
            payload_bytes=max(one.row.get("payload_bytes") or planned.predicted_bytes for one in results),
            seconds=sum(one.seconds or 0.0 for one in results),
            stopped=any(one.row["status"] == "stopped" for one in results),
            violations={name: max(one[name] for one in beyond) for name in beyond[0]} if beyond else {},
        )

    def _note(self, planned: Planned) -> None:
        entry = {"quantizer": planned.method, "config": planned.config.model_dump(mode="json")}
        self._journal.append(json.dumps({**entry, "budget_bytes": planned.budget_bytes}))
        self._storage.write(JOURNAL, ("\n".join(self._journal) + "\n").encode())

    def _journalled(self) -> list[Planned]:
        """What an earlier run chose, as far as it is still in the space."""
        found: dict[Planned, None] = {}
        self._journal = (self._storage.read(JOURNAL) or b"").decode().splitlines()
        for line in self._journal:
            try:
                entry = json.loads(line)
                config = quantizers.make_config(entry["quantizer"], entry["config"])
            except (ValueError, KeyError, InputError):
                continue  # a method that is no longer there, or somebody's edit
            planned = self._prepared.plan.space.planned(entry["quantizer"], config, entry["budget_bytes"])
            if self._prepared.plan.space.refusal(planned.method, config) is None:
                found[planned] = None
        return list(found)
