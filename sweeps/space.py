"""From a sweep's description to its trials: quantizer x budget x seed, each once, with reasons for what is not run."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import quantizers
from quantizers import Budget, QuantizerConfig, Skip, TableStats
from quantizers.errors import InputError, unknown_name
from sweeps.config import SweepConfig
from trainables.records import WHOLE_TABLE, TrialSpec, content_key, trial_code_digest


@dataclasses.dataclass(frozen=True)
class Planned:
    """One configuration that a sweep proposes."""

    method: str
    config: QuantizerConfig
    budget_bytes: int | None
    predicted_bytes: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """The trials of a sweep, and rows for what is skipped."""

    trials: tuple[TrialSpec, ...]
    skipped: tuple[dict[str, Any], ...]
    predicted_bytes: Mapping[str, int]


def budgets(config: SweepConfig, shape: tuple[int, int]) -> list[Budget]:
    """The sweep's budgets in bytes, largest first."""
    if config.budgets is None:
        return []
    found = [Budget.from_ratio(ratio, shape) for ratio in config.budgets.compression_ratio]
    found += [Budget(size) for size in config.budgets.payload_bytes]
    return sorted(set(found), key=lambda budget: -budget.payload_bytes)


def explicit_configs(entry: Mapping[str, Any]) -> tuple[str, list[QuantizerConfig]]:
    """The grid of an entry ``{method: dccl, num_codebooks: [8, 16]}``: lists are swept, other values are fixed.

    A parameter that is itself a sequence (``code_lengths``) takes a list of lists.
    """
    parameters = dict(entry)
    method = parameters.pop("method", None)
    if not isinstance(method, str):
        raise InputError(f"quantizers: {dict(entry)}: the key 'method' is missing.")
    values = [value if isinstance(value, list) else [value] for value in parameters.values()]
    grid = [dict(zip(parameters, combination, strict=True)) for combination in itertools.product(*values)]
    configs = [quantizers.make_config(method, one) for one in grid]
    return method, list(dict.fromkeys(configs))


def _proposals(
    config: SweepConfig, stats: TableStats
) -> Iterable[tuple[str, Planned | Skip, int | None, QuantizerConfig | None]]:
    """Every (method, configuration or reason, budget, configuration that was refused)."""
    yield "identity", Planned("identity", quantizers.make_config("identity", {}), None, stats.dense_bytes), None, None
    for entry in quantizers.methods() if config.quantizers == "all" else config.quantizers:
        if isinstance(entry, str):
            entry = {"method": entry}
        method, configs = explicit_configs(entry)
        cls = quantizers.get(method)
        if method == "identity":
            continue  # the baseline is there already
        unable = None
        if config.metric != "none" and not cls.linear_state:
            unable = Skip(f"{method} cannot be fitted under a metric: its rows are not linear in what it stores")
        if len(entry) > 1:
            for one in configs:
                skip = unable or cls.check(one, stats.shape)
                predicted = cls.storage(one, stats.shape).payload_bytes
                yield method, skip or Planned(method, one, None, predicted), None, one
            continue
        if config.budgets is None:
            raise InputError(f"quantizers: {method} proposes configurations for budgets, and the sweep has no 'budgets'.")
        for budget in budgets(config, stats.shape):
            proposed = unable or cls.configs_for(budget, stats)
            if isinstance(proposed, Skip):
                yield method, proposed, budget.payload_bytes, None
                continue
            for one in proposed:
                predicted = cls.storage(one, stats.shape).payload_bytes
                yield method, Planned(method, one, budget.payload_bytes, predicted), budget.payload_bytes, None


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
) -> Plan:
    """Every trial of the sweep, each content key once, and a row for every (method, budget) that has none.

    ``lead`` is the place of the task that leads the regime or the weights, ``task_scope`` the task whose words the table
    has, ``trained`` whether a task trains a network, so that the baseline too depends on the seed.

    The uncompressed baseline is always the first trial. Where two budgets lead to one configuration, it runs once, for the
    tighter of them.
    """
    wanted: dict[tuple[str, QuantizerConfig], Planned] = {}
    skipped: list[dict[str, Any]] = []

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
        )

    for method, proposal, budget, refused in _proposals(config, stats):
        if isinstance(proposal, Skip):
            skipped.append(_skipped_row(config, method, refused, budget, proposal.reason))
            continue
        wanted[(method, proposal.config)] = proposal  # budgets come largest first: the tightest stays
    # Cut-down fits look at the table, which under a metric is another one.
    families = _families(wanted.values()) if config.metric == "none" else {}
    trials: dict[str, TrialSpec] = {}
    predicted: dict[str, int] = {}
    for planned in wanted.values():
        for seed in config.seeds[:1] if planned.method == "identity" and not trained else config.seeds:
            one = spec(planned, seed, families.get(planned.config))
            trials.setdefault(one.key, one)
            predicted[one.key] = planned.predicted_bytes
    return Plan(tuple(_ordered(trials.values())), tuple(skipped), predicted)


def _skipped_row(
    config: SweepConfig, method: str, refused: QuantizerConfig | None, budget_bytes: int | None, reason: str
) -> dict[str, Any]:
    """A row for what is not run. It has no seed: no seed would run."""
    config_json = None if refused is None else json.dumps(refused.model_dump(mode="json"), sort_keys=True)
    return {
        "trial_key": content_key("skipped", method, config_json, budget_bytes),
        "quantizer": method,
        "config_json": config_json,
        "budget_bytes": budget_bytes,
        "regime": config.regime,
        "weights": config.weights,
        "status": "skipped",
        "reason": reason,
        "reused": False,
    }


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
