"""The report of a run or several: one HTML file with everything in it, which needs no network."""

from __future__ import annotations

import collections
import datetime
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from analysis import text
from analysis.pareto import CONFIGURATION
from analysis.recommend import chosen_metrics
from analysis.report.panels import Panel, panels, styles
from analysis.report.plots import REFERENCE, figure
from analysis.runs import Runs, load
from quantizers.files import write_bytes

MAX_TRIALS = 20_000  # in the report's table; all of them are in trials.parquet
MAX_POINTS = 300  # in one frontier table
MAX_REASONS = 200
MAX_BUDGETS = 12
_NOT_OK = ("failed", "stopped", "infeasible", "skipped")


def write_report(run_dirs: Sequence[str | Path], out: str | Path) -> Path:
    """Write the report.

    Args:
        run_dirs: directories of runs; several are merged into one report with one frontier.
        out: where the HTML file goes; it is written atomically.

    Returns:
        ``out``.

    Raises:
        InputError: a file of a run is missing or damaged, or the report cannot be written.
    """
    runs = load(run_dirs)
    shown = panels(runs)
    labels = text.short_configs(_configurations(runs))
    methods = {point["quantizer"] for panel in shown for point in panel.points}
    looks = {method: look for method, look in styles(methods).items() if method in methods}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis.report"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.globals.update(text=text)
    page = environment.get_template("report.html.j2").render(
        runs=runs,
        title=" + ".join(str(info.get("name", run_dir.name)) for info, run_dir in zip(runs.infos, runs.dirs, strict=True)),
        tables=_tables(runs),
        counts=_counts(runs.trials),
        seeds=_sorted_values(runs.trials, "seed"),
        panels=shown,
        headings=[f"{panel.metric}{f' ({panel.scope})' if panel.scope else ''}" for panel in shown],
        best=_best_per_budget(runs, shown, labels),
        looks=looks,
        reference=REFERENCE if any(len(panel.reference[0]) for panel in shown) else None,
        labels=labels,
        points=[[point for point in panel.points if point["on_frontier"]][:MAX_POINTS] for panel in shown],
        reasons=_reasons(runs.trials),
        metrics=runs.metrics,
        several=len(runs.dirs) > 1,
        plotly=Markup(get_plotlyjs()),
        figures=_script_json([figure(panel, looks, labels).to_plotly_json() for panel in shown]),
        trials=_script_json(_trials_data(runs, labels)),
        num_trials=runs.trials.num_rows,
        max_trials=MAX_TRIALS,
        written=datetime.datetime.now(datetime.UTC),
        duration=_duration,
    )
    path = Path(out)
    write_bytes(path, page.encode("utf-8", "surrogateescape"))
    return path


def summary_rows(frontier: pa.Table, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The configurations that are on the frontier of any objective, by size; the uncompressed table is always there.

    Args:
        frontier: the content of ``frontier.parquet``.
        run: ``run.json``.

    Returns:
        Dicts with quantizer, config (short text), payload_bytes, ratio, num_seeds, and metrics: for every objective
        (``task.metric``, with the role where there are several) the mean value (or None) and whether it is on that frontier.
    """
    rows = frontier.to_pylist()
    wanted = chosen_metrics(run, list(dict.fromkeys(f"{row['task']}.{row['metric']}" for row in rows)))
    labels = text.short_configs((row["quantizer"], row["config_json"]) for row in rows)
    roles: dict[str, set[str | None]] = collections.defaultdict(set)
    for row in rows:
        roles[f"{row['task']}.{row['metric']}"].add(row["role"])
    names = [
        f"{name} [{role}]" if len(roles[name]) > 1 else name for name in wanted for role in sorted(roles[name], key=str)
    ]
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    chosen: set[tuple[Any, ...]] = set()
    for row in rows:
        name = f"{row['task']}.{row['metric']}"
        if name not in wanted:
            continue
        key = _configuration(row)
        entry = found.setdefault(
            key,
            {
                "quantizer": row["quantizer"],
                "config": labels[(row["quantizer"], row["config_json"])],
                "payload_bytes": row["payload_bytes_mean"],
                "ratio": row["compression_ratio"],
                "num_seeds": row["num_seeds"],
                "metrics": dict.fromkeys(names, (None, False)),
            },
        )
        label = f"{name} [{row['role']}]" if len(roles[name]) > 1 else name
        entry["metrics"][label] = (row["value_mean"], row["on_frontier"])
        if row["on_frontier"] or row["quantizer"] == "identity":
            chosen.add(key)
    return sorted((found[key] for key in chosen), key=lambda entry: (entry["payload_bytes"], entry["quantizer"]))


def _configuration(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in (*CONFIGURATION, "budget_bytes"))


def _configurations(runs: Runs) -> list[tuple[str, str | None]]:
    pairs = runs.trials.group_by(["quantizer", "config_json"]).aggregate([]).to_pylist()
    return [(pair["quantizer"], pair["config_json"]) for pair in pairs]


def _tables(runs: Runs) -> list[dict[str, Any]]:
    """The tables that were compressed, each once: name, shape, bytes, digest."""
    out: dict[tuple[Any, ...], dict[str, Any]] = {}
    names = ["table", "table_digest", "task_scope", "num_embeddings", "embedding_dim"]
    rows = runs.trials.filter(pc.is_valid(runs.trials["num_embeddings"])).group_by(names).aggregate([]).to_pylist()
    for row in sorted(rows, key=lambda row: str(row["table"])):
        row["dense_bytes"] = 4 * row["num_embeddings"] * row["embedding_dim"]
        out[tuple(row[name] for name in names)] = row
    return list(out.values())


def _counts(trials: pa.Table) -> dict[str, int]:
    counted = collections.Counter({row["status"]: row["n"] for row in _counted(trials, ["status"])})
    return {status: counted[status] for status in ("ok", *_NOT_OK) if counted[status]}


def _counted(trials: pa.Table, names: list[str]) -> list[dict[str, Any]]:
    rows = trials.group_by(names).aggregate([([], "count_all")]).to_pylist()
    return [{**row, "n": row["count_all"]} for row in rows]


def _sorted_values(trials: pa.Table, name: str) -> list[Any]:
    return sorted(value for value in pc.unique(trials[name]).to_pylist() if value is not None)


def _best_per_budget(
    runs: Runs, shown: Sequence[Panel], labels: Mapping[tuple[str, str | None], str]
) -> list[dict[str, Any]]:
    """For every budget of the sweep, the best configuration of each panel that fits."""
    budgets = sorted(_sorted_values(runs.trials, "budget_bytes"), reverse=True)
    dense = {panel.dense_bytes for panel in shown} - {None}
    only = dense.pop() if len(dense) == 1 else None
    if not budgets and only:
        smallest = min(panel.x_range[0] for panel in shown)
        budgets = [only // 2**power for power in range(1, MAX_BUDGETS + 1) if only // 2**power >= smallest]
    out = []
    for budget in budgets[:MAX_BUDGETS]:
        cells: list[dict[str, Any] | None] = []
        for panel in shown:
            fitting = [p for p in panel.points if p["payload_bytes_mean"] <= budget and p["value_mean"] is not None]
            sign = 1 if panel.direction == "max" else -1
            best = max(fitting, key=lambda p: (sign * p["value_mean"], -p["payload_bytes_mean"]), default=None)
            cells.append(None if best is None else {**best, "label": labels[(best["quantizer"], best["config_json"])]})
        out.append({"budget_bytes": budget, "ratio": only / budget if only else None, "cells": cells})
    return out


def _reasons(trials: pa.Table) -> list[dict[str, Any]]:
    """Trials that did not succeed, those with the same reason together."""
    rows = trials.filter(pc.is_in(trials["status"], value_set=pa.array(_NOT_OK)))
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    names = ["sweep", "status", "quantizer", "reason"]
    columns = [*names, "config_json", "budget_bytes", "seed", "num_embeddings", "embedding_dim"]
    for row in rows.select(columns).to_pylist():
        group = groups.setdefault(
            tuple(row[name] for name in names),
            {**{name: row[name] for name in names}, "count": 0, "budgets": set(), "configs": set(), "seeds": set()},
        )
        group["count"] += 1
        if row["budget_bytes"]:
            dense = 4 * (row["num_embeddings"] or 0) * (row["embedding_dim"] or 0)
            group["budgets"].add((row["budget_bytes"], text.ratio(dense / row["budget_bytes"]) if dense else ""))
        if row["config_json"]:
            group["configs"].add(text.config_label(row["config_json"]))
        if row["seed"] is not None:
            group["seeds"].add(row["seed"])
    order = sorted(groups.values(), key=lambda group: (_NOT_OK.index(group["status"]), group["quantizer"], -group["count"]))
    return order[:MAX_REASONS]


def _trials_data(runs: Runs, labels: Mapping[tuple[str, str | None], str]) -> dict[str, Any]:
    """Columns and rows of the table of all trials, for the page's script.

    A row ends in the numbers of the columns (metrics) on whose frontier the trial's configuration is.
    """
    trials, metrics = runs.trials, runs.objectives
    front: dict[tuple[Any, ...], list[str]] = collections.defaultdict(list)
    for row in runs.frontier.filter(runs.frontier["on_frontier"]).to_pylist():
        if f"{row['task']}.{row['metric']}" in metrics:
            front[_configuration(row)].append(f"{row['task']}.{row['metric']}")
    if trials.num_rows > MAX_TRIALS:
        of_front = pc.is_in(trials["config_json"], value_set=pa.array({key[5] for key in front}, pa.string()))
        on_front = pc.fill_null(of_front, False).to_numpy(zero_copy_only=False)
        trials = trials.take(pa.array(np.argsort(~on_front, kind="stable")[:MAX_TRIALS]))
    scores = runs.scores.filter(pc.is_in(runs.scores["trial_key"], value_set=trials["trial_key"]))
    values: dict[str, dict[str, float | None]] = collections.defaultdict(dict)
    for score in scores.select(["trial_key", "task", "metric", "value"]).to_pylist():
        values[score["trial_key"]][f"{score['task']}.{score['metric']}"] = score["value"]
    columns = [
        *([("sweep", "text")] if len(runs.dirs) > 1 else []),
        *(("quantizer", "text"), ("parameters", "text"), ("budget", "size"), ("seed", "number"), ("status", "text")),
        *(("payload", "size"), ("ratio", "ratio")),
        *((name, "number") for name in metrics),
        *(("fit", "seconds"), ("rows/s", "number"), ("trial", "text")),
    ]
    rows = []
    for row in trials.to_pylist():
        measured = values[row["trial_key"]]
        where = front[_configuration(row)] if row["status"] == "ok" and _configuration(row) in front else ()
        rows.append(
            [
                *([row["sweep"]] if len(runs.dirs) > 1 else []),
                *(row["quantizer"], labels[(row["quantizer"], row["config_json"])], row["budget_bytes"], row["seed"]),
                *(row["status"], row["payload_bytes"], row["compression_ratio"]),
                *(_json_number(measured.get(name)) for name in metrics),
                *(row["fit_seconds"], row["decode_rows_per_second"], row["trial_key"].rpartition(":")[2]),
                [position for position, (name, _) in enumerate(columns) if name in where],
            ]
        )
    return {"columns": [{"name": name, "kind": kind} for name, kind in columns], "rows": rows}


def _json_number(value: float | None) -> float | str | None:
    """Numbers that JSON has; infinities as text that the page's script reads."""
    if value is None or math.isnan(value):
        return None
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def _script_json(data: Any) -> Markup:
    """JSON that cannot end the ``<script>`` it stands in."""
    raw = json.dumps(data, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return Markup(raw.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _duration(info: Mapping[str, Any]) -> str:
    """What the trials took together. From start to end would say seconds for a run that was resumed or reused."""
    return text.duration(info.get("trial_seconds"))
