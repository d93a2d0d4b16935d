"""What to choose under a limit of size or of accuracy: the best points of the frontier, with their intervals."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from analysis import store, text
from analysis.pareto import COMPARABLE, CONFIGURATION, read_frontier
from analysis.statistics import LEVEL, metric_bounds, paired_difference
from quantizers.errors import InputError, unknown_name


@dataclasses.dataclass(frozen=True)
class Drop:
    """How much worse than the uncompressed table a metric may be: in its own unit, or as a share of the baseline's value."""

    amount: float
    relative: bool

    def __str__(self) -> str:
        return f"{100 * self.amount:g} %" if self.relative else f"{self.amount:g}"

    def allowed(self, baseline: float) -> float | None:
        """The largest worsening in the metric's unit, or None where a share of the baseline means nothing."""
        if not self.relative:
            return self.amount
        return self.amount * abs(baseline) if baseline != 0 and math.isfinite(baseline) else None


def parse_drop(value: str) -> Drop:
    """``"1%"`` is one per cent of the baseline's value; ``"0.01"`` is 0.01 in the metric's own unit.

    Raises:
        InputError: neither.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(%?)\s*", value)
    if not match:
        raise InputError(f"{value!r} is not a drop such as 1% (of the baseline) or 0.01 (in the metric's unit).")
    return Drop(float(match[1]) / (100 if match[2] else 1), bool(match[2]))


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """One configuration on the frontier of one metric.

    Attributes:
        metric: ``task.metric``.
        role: the table of the task's network that was measured.
        payload_bytes: mean over seeds; ``largest_bytes`` is the largest of them.
        value: mean over seeds; ``value_low`` and ``value_high`` are its 95 % interval (None where there is none).
        drop: how much worse than the baseline, in the metric's unit (negative: better); None without a baseline.
        drop_low: ``drop_low`` and ``drop_high`` are the 95 % interval of the difference, paired by seed.
        drop_worst: the worse end of the interval of the difference that holds for all ``compared`` at once (Bonferroni).
        compared: how many compressed configurations this one was chosen among.
        allowed: the largest drop that was asked for, in the metric's unit; None without such a limit.
        certain: whether ``drop_worst`` keeps the limit; None without a limit, or where the seeds cannot tell.
        trial_keys: the trials, by seed.
        by_seed: the metric's value by seed.
        drop_by_seed: how much worse than the same seed's baseline; empty without one.
    """

    metric: str
    direction: str
    role: str | None
    sweep: str | None
    task_scope: str | None
    regime: str | None
    quantizer: str
    config: Mapping[str, Any]
    payload_bytes: float
    largest_bytes: int
    compression_ratio: float | None
    value: float
    value_low: float | None
    value_high: float | None
    baseline: float | None
    drop: float | None
    drop_low: float | None
    drop_high: float | None
    num_seeds: int
    frontier_probability: float | None
    trial_keys: tuple[str, ...]
    drop_worst: float | None = None
    compared: int = 1
    allowed: float | None = None
    certain: bool | None = None
    by_seed: Mapping[int, float] = dataclasses.field(default_factory=dict)
    drop_by_seed: Mapping[int, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Advice:
    """What :func:`recommend` found.

    Attributes:
        found: with a limit, one for each metric that has one; without, the whole frontier of each metric by size.
        unmet: for each metric without one, a line that says why and what comes nearest.
        frontiers: all points of each metric's frontier, by size.
    """

    found: tuple[Recommendation, ...]
    unmet: tuple[str, ...]
    frontiers: tuple[tuple[Recommendation, ...], ...] = ()


def recommend(
    run_dir: str | Path, *, max_bytes: int | None = None, max_drop: Drop | str | None = None, task: str | None = None
) -> Advice:
    """Choose from a run's frontiers.

    With ``max_drop``: the smallest table that keeps the metric within the drop. With ``max_bytes`` alone: the best value
    that fits. With neither: every point of the frontier. A size limit holds for every seed's file, a drop for the mean.

    Args:
        run_dir: directory of a run.
        max_bytes: the most payload bytes.
        max_drop: how much worse than the uncompressed table; text goes through :func:`parse_drop`.
        task: a task or a ``task.metric``; None: the sweep's objectives.

    Raises:
        InputError: a file is missing or damaged, the task is not in the run, or a limit makes no sense, such as a drop that
            no value of the metric can exceed.
    """
    drop = parse_drop(max_drop) if isinstance(max_drop, str) else max_drop
    if max_bytes is not None and max_bytes <= 0:
        raise InputError(f"The size limit must be above 0 bytes (given: {max_bytes}).")
    frontier = read_frontier(run_dir)
    measured = [f"{row['task']}.{row['metric']}" for row in frontier.group_by(["task", "metric"]).aggregate([]).to_pylist()]
    wanted = chosen_metrics(store.read_run(run_dir), measured, task)
    if drop is not None and not drop.relative and wanted:
        low, high = metric_bounds(*wanted[0].rsplit(".", 1))
        if drop.amount >= high - low:
            raise InputError(
                f"a drop of {drop}: {wanted[0]} lies between {low:g} and {high:g}, so that every table keeps to it. "
                f"Did you mean {drop}%?"
            )
    points = _points(frontier, wanted, store.read_trials(run_dir), store.read_scores(run_dir))
    found: list[Recommendation] = []
    unmet: list[str] = []
    order = sorted(points, key=lambda key: wanted.index(key[0]))
    for scope in order:
        candidates = points[scope]
        if max_bytes is None and drop is None:
            found += candidates
            continue
        best = _choose(candidates, max_bytes, drop)
        if isinstance(best, Recommendation):
            found.append(best)
        else:
            unmet.append(f"{scope[0]}: {best}.")
    return Advice(tuple(found), tuple(unmet), tuple(tuple(points[scope]) for scope in order))


def chosen_metrics(run: Mapping[str, Any], measured: Sequence[str], task: str | None = None) -> list[str]:
    """Names ``task.metric`` in the order of the sweep's objectives.

    Args:
        run: ``run.json``.
        measured: what the frontier has.
        task: a task (its objectives; all its metrics where none is one), a ``task.metric``, or None (all objectives).

    Raises:
        InputError: the task was not measured.
    """
    objectives = [name for name in run.get("objectives") or () if name in measured] or sorted(measured)
    if task is None:
        return objectives
    if task in measured:
        return [task]
    of_task = [name for name in sorted(measured) if name.rpartition(".")[0] == task]
    if not of_task:
        raise unknown_name("task", task, {name.rpartition(".")[0] for name in measured} | set(measured))
    return [name for name in objectives if name in of_task] or of_task


def _choose(points: Sequence[Recommendation], max_bytes: int | None, drop: Drop | None) -> Recommendation | str:
    """The best of one frontier (by size), or why there is none."""
    fitting = [point for point in points if max_bytes is None or point.largest_bytes <= max_bytes]
    if not fitting:
        return f"nothing fits in {text.size(max_bytes)}; the smallest is {_named(points[0])}"
    best = max(fitting, key=lambda point: (point.value if point.direction == "max" else -point.value, -point.payload_bytes))
    if drop is None:
        return best
    if best.baseline is None or best.drop is None or (allowed := drop.allowed(best.baseline)) is None:
        return f"a drop of {drop} from a baseline of {text.number(best.baseline) or 'nothing'} means nothing"
    for point in fitting:
        if point.drop is not None and point.drop <= allowed:
            certain = None if point.drop_worst is None else point.drop_worst <= allowed
            return dataclasses.replace(point, allowed=allowed, certain=certain)
    limit = f"nothing{'' if max_bytes is None else f' in {text.size(max_bytes)}'} is within {drop} of the baseline"
    return f"{limit} {text.number(best.baseline)}; the nearest is {_named(best)}"


def _named(point: Recommendation) -> str:
    return f"{point.quantizer} at {text.size(point.payload_bytes)} with {text.number(point.value)}"


def _points(
    frontier: pa.Table, wanted: Sequence[str], trials: pa.Table, scores: pa.Table
) -> dict[tuple[Any, ...], list[Recommendation]]:
    """The points of every wanted frontier, by size; keyed by metric and scope."""
    rows = frontier.filter(frontier["on_frontier"]).sort_by("payload_bytes_mean").to_pylist()
    rows = [row for row in rows if f"{row['task']}.{row['metric']}" in wanted]
    of_front = pc.is_in(trials["config_json"], value_set=pa.array([row["config_json"] for row in rows], pa.string()))
    trials = trials.filter(pc.and_(of_front, pc.equal(trials["status"], "ok")))
    members: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for trial in trials.select([*CONFIGURATION, "budget_bytes", "seed", "trial_key", "payload_bytes"]).to_pylist():
        members.setdefault(_configuration(trial), []).append(trial)
    scores = scores.filter(pc.is_in(scores["trial_key"], value_set=trials["trial_key"]))
    measured = {(score["trial_key"], score["role"], score["task"], score["metric"]): score for score in scores.to_pylist()}
    identity = pc.equal(frontier["quantizer"], "identity")
    lossless = {_scope(row): row["value_mean"] for row in frontier.filter(identity).to_pylist()}
    of_scope = frontier.filter(pc.invert(identity)).group_by(list(COMPARABLE)).aggregate([([], "count_all")])
    compared = collections.Counter({_scope(row): row["count_all"] for row in of_scope.to_pylist()})
    out: dict[tuple[Any, ...], list[Recommendation]] = {}
    for row in rows:
        seeds = sorted(members.get(_configuration(row), []), key=lambda trial: trial["seed"] or 0)
        pairs = [measured.get((trial["trial_key"], row["role"], row["task"], row["metric"])) for trial in seeds]
        scope = _scope(row)
        out.setdefault(scope, []).append(_point(row, seeds, pairs, lossless.get(scope), compared[scope]))
    return out


def _point(
    row: Mapping[str, Any],
    seeds: Sequence[Mapping[str, Any]],
    scores: Sequence[Mapping[str, Any] | None],
    lossless: float | None,
    compared: int,
) -> Recommendation:
    baseline = row["baseline"] if row["baseline"] is not None else lossless
    known = {
        int(trial["seed"] or 0): score
        for trial, score in zip(seeds, scores, strict=True)
        if score is not None and score["value"] is not None
    }
    by_seed = {seed: score["value"] for seed, score in known.items()}
    return Recommendation(
        metric=f"{row['task']}.{row['metric']}",
        config=json.loads(row["config_json"] or "{}"),
        payload_bytes=row["payload_bytes_mean"],
        largest_bytes=max((trial["payload_bytes"] for trial in seeds), default=math.ceil(row["payload_bytes_mean"])),
        value=row["value_mean"],
        baseline=baseline,
        trial_keys=tuple(trial["trial_key"] for trial in seeds),
        by_seed=by_seed,
        compared=compared,
        **_drops(row, by_seed, {seed: score["baseline"] for seed, score in known.items()}, baseline, compared),
        **{name: row[name] for name in _AS_IT_IS},
    )


def _drops(
    row: Mapping[str, Any],
    by_seed: Mapping[int, float],
    baselines: Mapping[int, float | None],
    baseline: float | None,
    compared: int,
) -> dict[str, Any]:
    """How much worse than the baseline a configuration is: by seed, their mean, its intervals."""
    out: dict[str, Any] = {"drop": None, "drop_low": None, "drop_high": None, "drop_worst": None}
    if baseline is None or not math.isfinite(baseline) or not by_seed:
        return out
    sign = -1.0 if row["direction"] == "max" else 1.0
    references = [baseline if (own := baselines[seed]) is None else own for seed in by_seed]
    pairs = list(by_seed.values()), references
    bounds = metric_bounds(row["task"], row["metric"])
    mean, *ends = paired_difference(*pairs, bounds)
    if math.isnan(mean):
        return out
    out["drop"] = sign * mean
    out["drop_by_seed"] = {
        seed: sign * (value - own) for (seed, value), own in zip(by_seed.items(), references, strict=True)
    }
    if not math.isnan(ends[0]):
        _, *of_all = paired_difference(*pairs, bounds, level=1 - (1 - LEVEL) / max(compared, 1))
        out["drop_low"], out["drop_high"] = sorted(sign * end for end in ends)
        out["drop_worst"] = max(sign * end for end in of_all)
    return out


_AS_IT_IS = (
    *("direction", "role", "sweep", "task_scope", "regime", "quantizer", "compression_ratio", "value_low", "value_high"),
    *("num_seeds", "frontier_probability"),
)


def _configuration(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in (*CONFIGURATION, "budget_bytes"))


def _scope(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return f"{row['task']}.{row['metric']}", *(row[name] for name in COMPARABLE)
