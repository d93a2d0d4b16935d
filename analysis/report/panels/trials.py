"""All trials in one table that can be sorted and filtered."""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from analysis.report.panel import Panel, Report, configuration_key, script_json
from analysis.runs import Runs

MAX_TRIALS = 20_000  # in the table; all of them are in trials.parquet


class Trials(Panel):
    """Every trial with its parameters, sizes and metrics."""

    name = "trials-section"
    title = "All trials"
    order = 90

    def html(self, report: Report) -> Markup:
        """The table's place and data; ``report.js`` fills it."""
        return report.render(
            "panels/trials.html.j2",
            trials=script_json(_trials_data(report.runs, report.labels)),
            num_trials=report.runs.trials.num_rows,
            max_trials=MAX_TRIALS,
        )


def _trials_data(runs: Runs, labels: Mapping[tuple[str, str | None], str]) -> dict[str, Any]:
    """Columns and rows of the table of all trials, for the page's script.

    A row ends in the numbers of the columns (metrics) on whose frontier the trial's configuration is.
    """
    trials, metrics = runs.trials, runs.objectives
    front: dict[tuple[Any, ...], list[str]] = collections.defaultdict(list)
    for row in runs.frontier.filter(runs.frontier["on_frontier"]).to_pylist():
        if f"{row['task']}.{row['metric']}" in metrics:
            front[configuration_key(row)].append(f"{row['task']}.{row['metric']}")
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
        where = front[configuration_key(row)] if row["status"] == "ok" and configuration_key(row) in front else ()
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
