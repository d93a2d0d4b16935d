"""From a sweep's description to its trials: quantizer x budget x seed, each once, with reasons for what is not run.

An entry of ``quantizers`` is a set of configurations: what its method proposes for the budgets, or a grid of parameters, or,
for a search that draws samples, ranges of parameters.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

import quantizers
from quantizers import Budget, QuantizerConfig, Skip, TableStats
from quantizers.errors import InputError
from sweeps.spec.config import SweepConfig
from sweeps.spec.constraints import Constraint, size_violations, too_large
from sweeps.spec.mistakes import explain
from trainables.records import config_json as as_json
from trainables.records import content_key, share_of

Roles = tuple[tuple[str, QuantizerConfig], ...]


@dataclasses.dataclass(frozen=True)
class Planned:
    """One configuration that a sweep proposes.

    Attributes:
        method: name of the quantizer.
        config: its parameters for the table; the first role's, where the task has several.
        budget_bytes: what it was proposed for; None for explicit parameters.
        predicted_bytes: of the payload, of all tables together.
        roles: the parameters for the tables of the other roles.
    """

    method: str
    config: QuantizerConfig
    budget_bytes: int | None
    predicted_bytes: int
    roles: Roles = ()

    @property
    def role_configs(self) -> dict[str, dict[str, Any]]:
        """The parameters for the tables of the other roles, as plain data."""
        return {role: config.model_dump(mode="json") for role, config in self.roles}


def budgets(config: SweepConfig, dense_bytes: int) -> list[Budget]:
    """The sweep's budgets in bytes, largest first; ratios are to ``dense_bytes``, the size of all its tables."""
    if config.budgets is None:
        return []
    found = [Budget(int(dense_bytes / ratio)) for ratio in config.budgets.compression_ratio]
    found += [Budget(size) for size in config.budgets.payload_bytes]
    return sorted(set(found), key=lambda budget: -budget.payload_bytes)


class Range(BaseModel):
    """The numbers from ``low`` to ``high``: whole ones where both are, evenly spread in the logarithm where ``log``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _rising(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"with log: true, low must be above 0, not {self.low}")
        return self

    @property
    def whole(self) -> bool:
        """Whether it holds whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry of a sweep's ``quantizers``.

    Attributes:
        label: the method; with a number where a method has several entries.
        method: name of the quantizer.
        axes: what may be varied: ranges, or choices. For proposals the one axis "proposal": numbers of ``configurations``.
        configurations: all that can be run, where no axis is a range.
        fixed: parameters with one value.
        roles: by role, parameters that differ for the table of that role.
    """

    label: str
    method: str
    axes: Mapping[str, Range | tuple[Any, ...]]
    configurations: tuple[Planned, ...]
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    roles: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def ranged(self) -> bool:
        """Whether there are more configurations than can be listed."""
        return any(isinstance(axis, Range) for axis in self.axes.values())

    def configuration(self, values: Mapping[str, Any]) -> QuantizerConfig:
        """The configuration at ``values``, one for each axis."""
        if "proposal" in self.axes:
            return self.configurations[int(values["proposal"])].config
        config: QuantizerConfig = quantizers.make_config(self.method, {**self.fixed, **values})
        return config


@dataclasses.dataclass(frozen=True)
class Space:
    """All that a sweep may run beside the baseline.

    Attributes:
        entries: those with a configuration.
        skipped: rows for what is not run.
        stats: of the table.
        constraints: limits of the sweep.
        metric: that fits are made under.
        others: of the tables of further roles.
    """

    entries: tuple[Entry, ...]
    skipped: tuple[dict[str, Any], ...]
    stats: TableStats
    constraints: tuple[Constraint, ...]
    metric: str = "none"
    others: Mapping[str, TableStats] = dataclasses.field(default_factory=dict)

    @property
    def dense_bytes(self) -> int:
        """Size of all uncompressed tables."""
        return self.stats.dense_bytes + sum(stats.dense_bytes for stats in self.others.values())

    @property
    def ranged(self) -> bool:
        """Whether there are more configurations than can be listed."""
        return any(entry.ranged for entry in self.entries)

    def configurations(self) -> list[Planned]:
        """All that can be listed, each once; where two budgets lead to one, the tighter of them is kept."""
        found: dict[tuple[str, QuantizerConfig, Roles], Planned] = {}
        for entry in self.entries:
            for one in entry.configurations:
                found[one.method, one.config, one.roles] = one  # budgets come largest first
        return list(found.values())

    def size_violations(self, predicted_bytes: int) -> dict[str, float]:
        """How far a predicted size is beyond each limit on sizes."""
        return size_violations(self.constraints, predicted_bytes, self.dense_bytes)

    def unable(self, method: str) -> Skip | None:
        """Why no configuration of ``method`` can be run, or None."""
        if self.metric != "none" and not quantizers.get(method).linear_state:
            return Skip(f"{method} cannot be fitted under a metric: its rows are not linear in what it stores")
        return None

    def refusal(self, planned: Planned) -> tuple[str, str] | None:
        """Status and reason of a configuration that is not run, or None."""
        cls = quantizers.get(planned.method)
        if (skip := self.unable(planned.method) or cls.check(planned.config, self.stats.shape)) is not None:
            return "skipped", skip.reason
        if self.metric != "none" and not all(map(cls.takes_metric, [planned.config, *dict(planned.roles).values()])):
            return "skipped", f"{planned.method} cannot be fitted under a metric with rank 0: give it axes"
        for role, config in planned.roles:
            if (skip := cls.check(config, self.others[role].shape)) is not None:
                return "skipped", f"{role}: {skip.reason}"
        if (reason := too_large(self.constraints, planned.predicted_bytes, self.dense_bytes)) is not None:
            return "infeasible", reason
        return None

    def at(self, entry: Entry, values: Mapping[str, Any]) -> Planned | None:
        """The configuration of ``entry`` at ``values``; None where they exclude each other, or where it is not run."""
        try:
            config = entry.configuration(values)
        except InputError:
            return None
        if entry.ranged:
            return self.planned(entry.method, config, roles=entry.roles)
        return next((one for one in entry.configurations if one.config == config), None)

    def planned(
        self,
        method: str,
        config: QuantizerConfig,
        budget_bytes: int | None = None,
        roles: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Planned:
        """``config`` with its predicted size; for the tables of other roles too, changed by what ``roles`` has for them."""
        own = config.model_dump(mode="json") if self.others else {}
        more = {role: quantizers.make_config(method, {**own, **(roles or {}).get(role, {})}) for role in self.others}
        return self.of_roles(method, config, more, budget_bytes)

    def of_roles(
        self, method: str, config: QuantizerConfig, others: Mapping[str, QuantizerConfig], budget_bytes: int | None
    ) -> Planned:
        """A configuration for each table, with their predicted size."""
        cls = quantizers.get(method)
        predicted = cls.storage(config, self.stats.shape).payload_bytes
        predicted += sum(cls.storage(one, self.others[role].shape).payload_bytes for role, one in others.items())
        return Planned(method, config, budget_bytes, predicted, tuple(others.items()))


def make_space(
    config: SweepConfig,
    stats: TableStats,
    constraints: Sequence[Constraint] = (),
    others: Mapping[str, TableStats] | None = None,
) -> Space:
    """What the entries of ``quantizers`` stand for.

    ``others`` has the tables of further roles.

    Raises:
        InputError: an entry has no method, a method proposes for budgets and there are none, a parameter is not what the
            method takes, or there are ranges and the search lists every configuration.
    """
    space = Space((), (), stats, tuple(constraints), config.metric, dict(others or {}))
    entries: list[Entry] = []
    skipped: list[dict[str, Any]] = []
    counts: dict[str, int] = {}
    for given in quantizers.list_methods() if config.quantizers == "all" else config.quantizers:
        given = {"method": given} if isinstance(given, str) else dict(given)
        roles = _roles(given.pop("roles", {}), config, space)
        method, axes = parse_entry(given)
        if method == "identity":
            continue  # the baseline is there already
        counts[method] = counts.get(method, 0) + 1
        label = method if counts[method] == 1 else f"{method}-{counts[method]}"
        ranges = sorted(name for name, axis in axes.items() if isinstance(axis, Range))
        if ranges and config.search.kind not in ("random", "optuna"):
            raise InputError(
                f"quantizers: {method}.{ranges[0]} is a range, but search.kind {config.search.kind!r} takes listed values: "
                "give a list, or use search: {kind: random, samples: 50} or kind: optuna."
            )
        choices = {name: axis for name, axis in axes.items() if isinstance(axis, tuple)}
        if not axes:
            wanted = _proposals(config, method, space, skipped)
        elif ranges:
            wanted = []
        else:
            grid = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
            configs = dict.fromkeys(quantizers.make_config(method, one) for one in grid)
            wanted = [space.planned(method, one, roles=roles) for one in configs]
        kept: dict[QuantizerConfig, Planned] = {}
        for one in wanted:
            if (refused := space.refusal(one)) is None:
                kept[one.config] = one  # budgets come largest first: the tightest stays
            else:
                skipped.append(not_run_row(config, method, one, one.budget_bytes, *refused))
        fixed = {name: axis[0] for name, axis in choices.items() if len(axis) == 1}
        varied = {name: axis for name, axis in axes.items() if name not in fixed}
        if kept or ranges:
            if not axes:
                varied = {"proposal": tuple(range(len(kept)))}
            entries.append(Entry(label, method, varied, tuple(kept.values()), fixed, roles))
    return dataclasses.replace(space, entries=tuple(entries), skipped=tuple(skipped))


def parse_entry(entry: Mapping[str, Any]) -> tuple[str, dict[str, Range | tuple[Any, ...]]]:
    """Method and parameters of ``{method: dccl, num_codebooks: [8, 16], learning_rate: {low: 1e-4, high: 1e-2}}``.

    Lists are choices, other values are fixed. A parameter that is itself a sequence (``code_lengths``) takes a list of
    lists.
    """
    parameters = dict(entry)
    method = parameters.pop("method", None)
    if not isinstance(method, str):
        raise InputError(f"quantizers: {dict(entry)}: the key 'method' is missing.")
    axes: dict[str, Range | tuple[Any, ...]] = {}
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            try:
                axes[name] = Range.model_validate(value)
            except ValidationError as error:
                raise InputError(explain(error, Range, value, f"quantizers: {method}.{name}")[0].text) from None
        else:
            axes[name] = tuple(value) if isinstance(value, list) else (value,)
            if not axes[name]:
                raise InputError(f"quantizers: {method}.{name}: the list is empty.")
    # Names and values are checked here, before anything is drawn from a range.
    for end in ("low", "high"):
        first = {name: getattr(axis, end) if isinstance(axis, Range) else axis[0] for name, axis in axes.items()}
        quantizers.make_config(method, first)
    return method, axes


def _proposals(config: SweepConfig, method: str, space: Space, skipped: list[dict[str, Any]]) -> list[Planned]:
    """What a method proposes for the sweep's budgets, largest budget first."""
    if config.budgets is None:
        raise InputError(f"quantizers: {method} has no parameters here and the sweep has no 'budgets': give either.")
    cls = quantizers.get(method)
    found = []
    tables: dict[str | None, TableStats] = {None: space.stats}
    tables.update(space.others)
    dense_bytes = {role: stats.dense_bytes for role, stats in tables.items()}
    for budget in budgets(config, space.dense_bytes):
        proposed = {
            role: space.unable(method) or cls.configs_for(Budget(share_of(budget.payload_bytes, role, dense_bytes)), stats)
            for role, stats in tables.items()
        }
        skip = next(((role, one) for role, one in proposed.items() if isinstance(one, Skip)), None)
        if skip is not None:
            reason = skip[1].reason if skip[0] is None else f"{skip[0]}: {skip[1].reason}"
            skipped.append(not_run_row(config, method, None, budget.payload_bytes, "skipped", reason))
            continue
        lists = {role: list(one) for role, one in proposed.items() if not isinstance(one, Skip)}
        for index, one in enumerate(lists.pop(None)):
            # The same place in each table's list: proposals come the recommended one first.
            others = {role: some[min(index, len(some) - 1)] for role, some in lists.items() if role is not None}
            found.append(space.of_roles(method, one, others, budget.payload_bytes))
    return found


def _roles(given: Any, config: SweepConfig, space: Space) -> dict[str, dict[str, Any]]:
    """What an entry's ``roles`` says, checked."""
    if not isinstance(given, Mapping) or not all(isinstance(own, Mapping) for own in given.values()):
        raise InputError("quantizers: roles: expected parameters by role, such as {output: {num_codebooks: 10}}.")
    for role in given:
        if role not in space.others:
            known = ", ".join(space.others) or "none"
            raise InputError(f"quantizers: roles: no further table has the role {role!r} in this sweep. Known: {known}.")
    if given and config.search.kind not in ("grid", "random"):
        raise InputError(f"quantizers: roles works with search grid or random, not with {config.search.kind}.")
    return {role: dict(own) for role, own in given.items()}


def not_run_row(
    config: SweepConfig, method: str, refused: Planned | None, budget_bytes: int | None, status: str, reason: str
) -> dict[str, Any]:
    """A row for what is not run. It has no seed: no seed would run."""
    config_json = None if refused is None else as_json(refused.config.model_dump(mode="json"), refused.role_configs)
    return {
        "trial_key": content_key(status, method, config_json, budget_bytes),
        "quantizer": method,
        "config_json": config_json,
        "budget_bytes": budget_bytes,
        "regime": config.regime,
        "weights": config.weights,
        "status": status,
        "reason": reason,
        "reused": False,
    }
