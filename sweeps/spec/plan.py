"""The trials of a sweep: every configuration of its space with every seed, or those that a search draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import quantizers
from quantizers import QuantizerConfig, TableStats
from quantizers.errors import InputError, unknown_name
from sweeps.spec.config import SweepConfig
from sweeps.spec.constraints import Constraint
from sweeps.spec.draws import drawn
from sweeps.spec.limits import check_count
from sweeps.spec.space import Planned, Space, make_space, not_run_row
from trainables.records import WHOLE_TABLE, TrialSpec, trial_code_digest

_ERRORS = {f"reconstruction.{name}" for name in ("mse", "half_mse", "nmse")}  # what fits report, up to a factor


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a sweep runs.

    Attributes:
        trials: all of them, the baseline first; what an adaptive search chooses from, as far as it can be listed.
        skipped: rows for what is not run.
        predicted_bytes: predicted payload by trial key.
        space: what the trials come from.
        samples: how many configurations an adaptive search runs; None where all trials are run.
        spec: makes the trial of a configuration and a seed.
        not_run: makes the row of a configuration that is not run, from status and reason.
    """

    trials: tuple[TrialSpec, ...]
    skipped: tuple[dict[str, Any], ...]
    predicted_bytes: Mapping[str, int]
    space: Space
    samples: int | None
    spec: Callable[[Planned, int], TrialSpec]
    not_run: Callable[[Planned, str, str], dict[str, Any]]


def make_plan(
    config: SweepConfig,
    stats: TableStats,
    *,
    table_digest: str,
    weights_digest: str,
    task_keys: Sequence[str],
    lead: int | None = None,
    task_scope: str = WHOLE_TABLE,
    trained: bool = False,
    constraints: Sequence[Constraint] = (),
    others: Mapping[str, TableStats] | None = None,
) -> Plan:
    """Every trial of the sweep, each content key once, and a row for every (method, budget) that has none.

    ``lead`` is the place of the task that leads the regime or the weights, ``task_scope`` the task whose words the table
    has, ``trained`` whether a task trains a network, so that the baseline too depends on the seed, ``others`` what is known
    of the tables of further roles.

    The uncompressed baseline is always the first trial. Where two budgets lead to one configuration, it runs once, for the
    tighter of them.
    """

    def spec(planned: Planned, seed: int, fit_with: Mapping[str, Any] | None = None) -> TrialSpec:
        return TrialSpec(
            method=planned.method,
            config=planned.config.model_dump(mode="json"),
            budget_bytes=planned.budget_bytes,
            seed=seed,
            regime=config.regime,
            weights=config.weights,
            table_digest=table_digest,
            weights_digest=weights_digest,
            task_keys=tuple(task_keys),
            code_digest=trial_code_digest(planned.method),
            fit_with=fit_with,
            retrain=None if config.retrain is None else config.retrain.model_dump(mode="json"),
            metric=config.metric,
            lead=lead,
            task_scope=task_scope,
            role_configs=planned.role_configs,
        )

    def not_run(planned: Planned, status: str, reason: str) -> dict[str, Any]:
        return not_run_row(config, planned.method, planned, None, status, reason)

    space = make_space(config, stats, constraints, others)
    skipped = list(space.skipped)
    wanted, samples = space.configurations(), None
    if config.search.kind == "random":
        wanted, refused = drawn(space, config.search.samples or len(wanted), config.search.seed)
        skipped += [not_run(one, *why) for one, *why in refused]
    elif config.search.kind != "grid":
        samples = config.search.samples or len(wanted)
        if space.ranged and config.search.samples is None:
            raise InputError("search.samples is missing; it is required where a quantizer has a range.")
    check_count(config, len(wanted) if samples is None else min(samples, len(wanted)), len(config.seeds))
    # An adaptive search does not know what it will want; and cut-down fits look at the table, which under a metric is
    # another one. Several tables are several fits.
    families = _families(wanted) if samples is None and config.metric == "none" and not others else {}
    trials: dict[str, TrialSpec] = {}
    predicted: dict[str, int] = {}
    baseline = space.planned("identity", quantizers.make_config("identity", {}))
    for planned in [baseline, *wanted]:
        for seed in config.seeds[:1] if planned is baseline and not trained else config.seeds:
            one = spec(planned, seed, families.get(planned.config))
            trials.setdefault(one.key, one)
            predicted[one.key] = planned.predicted_bytes
    return Plan(tuple(_ordered(trials.values())), tuple(skipped), predicted, space, samples, spec, not_run)


def _families(planned: Iterable[Planned]) -> dict[QuantizerConfig, Mapping[str, Any]]:
    """For each configuration of a nested method with relatives in the sweep, the largest of them."""
    groups: dict[tuple[str, str], list[Planned]] = {}
    for one in planned:
        key = quantizers.get(one.method).family_key(one.config)
        if key is not None:
            groups.setdefault((one.method, key), []).append(one)
    found: dict[QuantizerConfig, Mapping[str, Any]] = {}
    for members in groups.values():
        largest = max(members, key=lambda one: one.predicted_bytes).config.model_dump(mode="json")
        if len(members) > 1:
            found.update({one.config: largest for one in members})
    return found


def _ordered(trials: Iterable[TrialSpec]) -> list[TrialSpec]:
    """The baseline first, then one trial of every shared fit and all others, then those that wait for a shared fit."""
    first: list[TrialSpec] = []
    later: list[TrialSpec] = []
    seen: set[str] = set()
    for trial in trials:
        waits = trial.fit_with is not None and trial.fit_key in seen
        seen.add(trial.fit_key)
        (later if waits else first).append(trial)
    return first + later


def check_objectives(objectives: Sequence[str], known: Iterable[str]) -> None:
    """Refuse an objective that no task of the sweep measures."""
    names = ["payload_bytes", *known]
    for objective in objectives:
        if objective not in names:
            raise unknown_name("objective", objective, names)


def check_search(config: SweepConfig, objectives: Sequence[str]) -> None:
    """Refuse a search that has nothing to go by.

    Raises:
        InputError: there is no metric, or the scheduler cannot follow those that there are.
    """
    metrics = [name for name in objectives if name != "payload_bytes"]
    if config.search.kind in ("optuna", "frontier") and not metrics:
        raise InputError("objectives: an adaptive search needs a metric beside payload_bytes, such as reconstruction.nmse.")
    if config.scheduler.kind == "frontier" and not set(metrics) <= _ERRORS:
        raise InputError(
            f"scheduler: {{kind: frontier}} compares the errors that fits report, not {', '.join(metrics)}: "
            "set objectives: [payload_bytes, reconstruction.nmse], or use kind: moasha."
        )
