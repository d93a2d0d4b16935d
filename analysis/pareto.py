"""The Pareto frontier of size against each metric: which configurations nothing else beats.

A point is dominated where another is at least as good in every objective and better in one. From that follows:

- exact ties are all on the frontier (none is better than the other);
- an objective of zero (the error of the uncompressed table) is a value like any other: the lossless baseline is on the
  frontier unless something smaller is just as good;
- NaN is worse than nothing: a point with one is never on a frontier, and never dominates;
- infinity is an ordinary end of the scale (sqnr_db of the lossless baseline is the best there can be).

Shapes: P points, k objectives, S measured values (seeds) of P configurations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import moocore
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from analysis import store
from analysis.schema import FRONTIER, INTERVALS_SINCE, SCHEMA_VERSION
from analysis.statistics import MIN_SEEDS, Floats, bootstrap_indices, grouped, metric_bounds, origins, rescaled
from analysis.store import with_metadata
from quantizers.errors import InputError

Direction = Literal["min", "max"]
MARGIN = 0.1  # the reference point lies this share of the frontier's range beyond its worst values

# What makes two trials seeds of one configuration, and what makes two configurations comparable.
_FITTED = ("regime", "retrain", "weights", "fit_metric")
CONFIGURATION = ("sweep", "table", "table_digest", "task_scope", "quantizer", "config_json", *_FITTED)
COMPARABLE = ("table_digest", "task_scope", "regime", "role", "task", "metric", "direction")


def _minimized(points: ArrayLike, directions: Sequence[Direction]) -> Floats:
    """A copy of (P, k) points in which less is better everywhere."""
    out = np.array(points, dtype=np.float64)
    if out.ndim != 2 or out.shape[1] != len(directions):
        raise ValueError(f"points must be (P, {len(directions)}), one column per direction, not {out.shape}")
    if unknown := set(directions) - {"min", "max"}:
        raise ValueError(f'a direction is "min" or "max", not {unknown.pop()!r}')
    out[:, [direction == "max" for direction in directions]] *= -1
    return out


def _finite(costs: Floats) -> Floats:
    """Costs of the same order without infinities (moocore 0.3.2 crashes on some): each value's place in its column."""
    if np.isfinite(costs).all():
        return costs
    return np.stack([np.unique(column, return_inverse=True)[1] for column in costs.T], axis=1).astype(np.float64)


def _are_numbers(costs: Floats) -> NDArray[np.bool_]:
    return np.asarray(~np.isnan(costs).any(axis=1), dtype=np.bool_)


def non_dominated(points: ArrayLike, directions: Sequence[Direction]) -> NDArray[np.bool_]:
    """Which points are on the frontier.

    Args:
        points: (P, k).
        directions: "min" or "max" for each objective.

    Returns:
        (P,) True where no other point dominates. Exact ties are all True; NaN in any objective is False.
    """
    costs = _minimized(points, directions)
    mask = _are_numbers(costs)
    mask[mask] = moocore.is_nondominated(_finite(costs[mask]), keep_weakly=True)
    return mask


def front_rank(points: ArrayLike, directions: Sequence[Direction]) -> NDArray[np.int64]:
    """Successive frontiers: 1 for the frontier, 2 for the frontier of the rest, and so on.

    Fast for two objectives (P log P); with three or more it peels one front after the other.

    Returns:
        (P,) ranks; 0 where an objective is NaN.
    """
    costs = _minimized(points, directions)
    ranks = np.zeros(len(costs), dtype=np.int64)
    valid = _are_numbers(costs)
    if valid.any():
        ranks[valid] = moocore.pareto_rank(_finite(costs[valid])) + 1
    return ranks


def reference_point(points: ArrayLike, directions: Sequence[Direction]) -> Floats:
    """A point that is a little worse than the frontier everywhere: its worst values plus 10 % of its range.

    Only the frontier counts, so that one bad trial does not move the point. Where a range is zero: 10 % of the value.
    """
    best, worst = _ends(_minimized(points, directions))
    sign = np.where([direction == "max" for direction in directions], -1.0, 1.0)
    return np.asarray(sign * (worst + _margin(best, worst)), dtype=np.float64)


def _ends(costs: Floats) -> tuple[Floats, Floats]:
    """Best and worst finite values (k,) of the frontier of (P, k) costs."""
    front = costs[non_dominated(costs, ["min"] * costs.shape[1])]
    finite = np.isfinite(front)
    best = np.where(finite, front, np.inf).min(axis=0, initial=np.inf)
    worst = np.where(finite, front, -np.inf).max(axis=0, initial=-np.inf)
    none = ~finite.any(axis=0)
    best[none] = worst[none] = 0.0
    return best, worst


def _margin(best: Floats, worst: Floats) -> Floats:
    span = worst - best
    span = np.where(span > 0, span, np.where(worst != 0, np.abs(worst), 1.0))
    return MARGIN * span


def _bounded(points: ArrayLike, directions: Sequence[Direction], reference: ArrayLike) -> tuple[Floats, Floats]:
    """Costs without NaN rows and with finite values, and the reference as a cost.

    An infinitely good value counts as 10 % of the frontier's range better than the best finite one, so that volumes are
    finite; what is worse than the reference adds no volume.
    """
    costs = _minimized(points, directions)
    ref = _minimized(np.asarray(reference, dtype=np.float64)[None], directions)[0]
    costs[~_are_numbers(costs)] = np.inf
    best, worst = _ends(costs)
    return np.clip(costs, best - _margin(best, worst), np.maximum(ref, best)), ref


def hypervolume(points: ArrayLike, directions: Sequence[Direction], reference: ArrayLike) -> float:
    """Volume between the frontier of (P, k) points and the (k,) reference point, in the product of the objectives' units."""
    costs, ref = _bounded(points, directions, reference)
    return float(moocore.hypervolume(costs, ref=ref)) if len(costs) else 0.0


def exclusive_contributions(points: ArrayLike, directions: Sequence[Direction], reference: ArrayLike) -> Floats:
    """Volume that only this point adds to the frontier: (P,), 0 for dominated points and exact ties."""
    costs, ref = _bounded(points, directions, reference)
    front = non_dominated(points, directions)
    out = np.zeros(len(costs))
    if front.any():
        out[front] = moocore.hv_contributions(costs[front], ref=ref)
    return out


def build_frontier(
    trials: pa.Table, scores: pa.Table, run: Mapping[str, Any] | None = None, *, bootstrap: int = 200, seed: int = 0
) -> pa.Table:
    """The content of ``frontier.parquet``: one row per configuration and metric, aggregated over seeds.

    Only trials whose status is "ok" take part. Trials that differ in the seed alone are one configuration; the same
    configuration proposed for two budgets is one too, unless the budget changed its size. Frontiers are taken among
    configurations of one table, task scope and regime. A configuration with a score that is not a number for any seed
    is on no frontier.

    Args:
        trials: table with the schema TRIALS.
        scores: table with the schema SCORES.
        run: ``run.json``; its ``metrics`` give directions, which must agree with the scores'.
        bootstrap: how many times the seeds of every configuration are resampled (independently of each other) for
            ``frontier_probability``; 0 turns it off. The share is null for configurations with fewer than ``MIN_SEEDS``
            seeds (they take part as they are), and where no score or size varies: it would be 0 or 1 and say nothing.
        seed: of the bootstrap.

    Returns:
        A table with the schema FRONTIER, best first within a metric; reference points and directions in its metadata.

    Raises:
        InputError: a metric has no direction, or two.
    """
    values = measured(trials, scores)
    _check_directions(values, run or {})
    if not values.num_rows:
        return with_metadata(FRONTIER.empty_table(), {"bootstrap": bootstrap, "seed": seed, "scopes": []})
    configuration = _codes(values, (*CONFIGURATION, "budget_bytes", "role", "task", "metric", "direction"))
    first, members = np.unique(configuration, return_index=True, return_inverse=True)[1:]
    rows = values.take(pa.array(first))
    size = grouped(_floats(values["payload_bytes"]), members, len(first), (0.0, np.inf))
    names = zip(rows["task"].to_pylist(), rows["metric"].to_pylist(), strict=True)
    value = grouped(_floats(values["value"]), members, len(first), [metric_bounds(*name) for name in names])
    repeated = value.count >= MIN_SEEDS
    varies = repeated & ((value.lowest < value.highest) | (size.lowest < size.highest))
    scope = _codes(rows, COMPARABLE)

    rank = np.zeros(len(first), dtype=np.int64)
    probability = np.full(len(first), np.nan)
    contribution = np.zeros(len(first))
    described = []
    samples = np.argsort(members, kind="stable")
    sample_ends = np.searchsorted(members[samples], np.arange(len(first) + 1))
    for number in range(int(scope.max()) + 1):
        here = np.flatnonzero(scope == number)
        label = {name: rows[name][int(here[0])].as_py() for name in COMPARABLE}
        directions: tuple[Direction, Direction] = ("min", label["direction"])
        points = np.stack([size.mean[here], value.mean[here]], axis=1)
        reference = reference_point(points, directions)
        rank[here] = front_rank(points, directions)
        contribution[here] = exclusive_contributions(points, directions, reference)
        if bootstrap and varies[here].any():
            mine = np.concatenate([samples[sample_ends[c] : sample_ends[c + 1]] for c in here])
            sampled = np.stack([_floats(values[name].take(pa.array(mine))) for name in ("payload_bytes", "value")], axis=1)
            groups = np.repeat(np.arange(len(here)), value.count[here])
            probability[here] = _frontier_share(sampled, groups, len(here), directions, repeats=bootstrap, seed=seed)
        described.append(
            label
            | {"directions": list(directions), "objectives": ["payload_bytes", f"{label['task']}.{label['metric']}"]}
            | {"reference_point": reference.tolist(), "hypervolume": hypervolume(points, directions, reference)}
        )
    probability[np.isnan(value.mean) | ~repeated] = np.nan
    columns: dict[str, Any] = {
        "compression_ratio": _floats(rows["dense_bytes"]) / np.maximum(size.mean, 1),
        "payload_bytes_mean": size.mean,
        "payload_bytes_low": size.low,
        "payload_bytes_high": size.high,
        "value_mean": value.mean,
        "value_low": value.low,
        "value_high": value.high,
        "value_lowest": value.lowest,
        "value_highest": value.highest,
        "baseline": grouped(_floats(values["baseline"]), members, len(first)).mean,
        "num_seeds": value.count,
        "front_rank": pa.array(rank, mask=rank == 0),
        "on_frontier": rank == 1,
        "frontier_probability": probability,
        "hypervolume_contribution": contribution,
    }
    arrays = [
        pa.array(columns[field.name], type=field.type, from_pandas=True)
        if field.name in columns
        else rows[field.name].cast(field.type)
        for field in FRONTIER
    ]
    table = pa.Table.from_arrays(arrays, schema=FRONTIER)
    order = [("task", "ascending"), ("metric", "ascending"), ("role", "ascending"), ("front_rank", "ascending")]
    table = table.sort_by([*order, ("payload_bytes_mean", "ascending"), ("config_json", "ascending")])
    return with_metadata(table, {"bootstrap": bootstrap, "seed": seed, "scopes": described})


def _frontier_share(
    points: Floats, groups: NDArray[np.int64], num_groups: int, directions: Sequence[Direction], *, repeats: int, seed: int
) -> Floats:
    """Share of bootstraps in which each group's mean is on the frontier. points: (S, k) sorted by ``groups``."""
    hits = np.zeros(num_groups)
    count = np.bincount(groups, minlength=num_groups)
    starts = np.searchsorted(groups, np.arange(num_groups))
    origin = np.stack([origins(column, groups, num_groups) for column in points.T], axis=1)
    points = points - origin[groups]

    def means(some: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            return np.asarray(origin + np.add.reduceat(some, starts, axis=0) / count[:, None], dtype=np.float64)

    of_all = means(points)
    for drawn in bootstrap_indices(groups, num_groups, repeats=repeats, seed=seed):
        hits += non_dominated(rescaled(of_all, means(points[drawn]), count), directions)
    return hits / repeats


def read_frontier(run_dir: str | Path) -> pa.Table:
    """The frontier of a run: the stored one, or one built anew where the file has an older version's intervals.

    Raises:
        InputError: a file is missing, damaged, or of a newer schema than this program knows.
    """
    stored = store.read_frontier(run_dir)
    if store.metadata_of(stored).get("schema_version", SCHEMA_VERSION) >= INTERVALS_SINCE:
        return stored
    return build_frontier(store.read_trials(run_dir), store.read_scores(run_dir), store.read_run(run_dir))


def measured(trials: pa.Table, scores: pa.Table) -> pa.Table:
    """Scores of the trials that are ok, each with its trial's columns and the ``dense_bytes`` of its tables.

    One row per configuration, seed, size and metric: a fit that was proposed for several budgets counts once.
    """
    used = [*CONFIGURATION, "budget_bytes", "seed", "payload_bytes", "trial_key", "dense_bytes"]
    ok = trials.select(used).filter(pc.and_(pc.equal(trials["status"], "ok"), pc.is_valid(trials["payload_bytes"])))
    where = pc.index_in(scores["trial_key"], value_set=ok["trial_key"])
    found = pc.is_valid(where)
    scores, where = scores.filter(found), where.filter(found)
    # Text becomes numbers of a dictionary before a million rows of it are copied around.
    known = {name: _encoded(ok[name]) for name in used}
    joined = pa.table(known).take(where)
    for name in ("role", "task", "metric", "direction", "value", "baseline"):
        joined = joined.append_column(name, _encoded(scores[name]))
    # The same fit counts under the smallest of its budgets.
    joined = joined.take(pa.array(np.argsort(_floats(joined["budget_bytes"]), kind="stable")))
    same = _codes(joined, (*CONFIGURATION, "role", "task", "metric", "direction", "seed", "payload_bytes"))
    return joined.take(pa.array(np.sort(np.unique(same, return_index=True)[1])))


def _codes(table: pa.Table, names: Sequence[str]) -> NDArray[np.int64]:
    """Numbers (rows,) from 0 that are equal where all the named columns are equal (null equals null)."""
    codes = np.zeros(table.num_rows, dtype=np.int64)
    largest = 1  # every code is below it
    for name in names:
        column = _one_array(table[name])
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode(null_encoding="encode")
        radix = len(column.dictionary) + 1
        if largest > np.iinfo(np.int64).max // radix:
            codes = np.unique(codes, return_inverse=True)[1]
            largest = table.num_rows
        codes = codes * radix + column.indices.to_numpy(zero_copy_only=False)
        largest *= radix
    return np.unique(codes, return_inverse=True)[1]


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])


def _encoded(column: pa.ChunkedArray) -> pa.Array:
    array = _one_array(column)
    return array.dictionary_encode(null_encoding="encode") if pa.types.is_string(array.type) else array


def _floats(column: pa.ChunkedArray) -> Floats:
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def _check_directions(values: pa.Table, run: Mapping[str, Any]) -> None:
    told = {name: metric["direction"] for name, metric in run.get("metrics", {}).items()}
    for row in values.group_by(["task", "metric", "direction"]).aggregate([]).to_pylist():
        name, direction = f"{row['task']}.{row['metric']}", row["direction"]
        if direction not in ("min", "max"):
            raise InputError(f'{name}: direction {direction!r} where "min" or "max" was expected.')
        if told.setdefault(name, direction) != direction:
            raise InputError(f"{name}: direction {direction!r} in some scores, {told[name]!r} in others or in run.json.")
