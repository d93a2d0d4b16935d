"""Trials that were not measured, and why."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from analysis import text
from analysis.report.panel import NOT_OK, Panel, Report

MAX_REASONS = 200


class NotMeasured(Panel):
    """Failed, stopped, infeasible and skipped trials with their reasons."""

    name = "reasons"
    title = "Not measured, by reason"
    order = 80

    def html(self, report: Report) -> Markup | None:
        """A table; nothing where every trial was measured."""
        reasons = _reasons(report.runs.trials)
        return report.render("panels/not_measured.html.j2", reasons=reasons) if reasons else None


def _reasons(trials: pa.Table) -> list[dict[str, Any]]:
    """Trials that did not succeed, those with the same reason together."""
    rows = trials.filter(pc.is_in(trials["status"], value_set=pa.array(NOT_OK)))
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    names = ["sweep", "status", "quantizer", "reason"]
    columns = [*names, "config_json", "budget_bytes", "seed", "dense_bytes"]
    for row in rows.select(columns).to_pylist():
        group = groups.setdefault(
            tuple(row[name] for name in names),
            {**{name: row[name] for name in names}, "count": 0, "budgets": set(), "configs": set(), "seeds": set()},
        )
        group["count"] += 1
        if row["budget_bytes"]:
            dense = row["dense_bytes"] or 0
            group["budgets"].add((row["budget_bytes"], text.ratio(dense / row["budget_bytes"]) if dense else ""))
        if row["config_json"]:
            group["configs"].add(text.config_label(row["config_json"]))
        if row["seed"] is not None:
            group["seeds"].add(row["seed"])
    order = sorted(groups.values(), key=lambda group: (NOT_OK.index(group["status"]), group["quantizer"], -group["count"]))
    return order[:MAX_REASONS]
