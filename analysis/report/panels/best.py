"""The best configuration for each budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from analysis.report.panel import Panel, Report, sorted_values
from analysis.report.plot_data import PlotData
from analysis.runs import Runs

MAX_BUDGETS = 12


class Best(Panel):
    """For each budget and metric, the best configuration that fits."""

    name = "best"
    title = "Best per budget"
    order = 30

    def html(self, report: Report) -> Markup:
        """A table: budgets by metrics."""
        return report.render("panels/best.html.j2", best=_best_per_budget(report.runs, report.plots, report.labels))


def _best_per_budget(
    runs: Runs, shown: Sequence[PlotData], labels: Mapping[tuple[str, str | None], str]
) -> list[dict[str, Any]]:
    """For every budget of the sweep, the best configuration of each plot that fits."""
    budgets = sorted(sorted_values(runs.trials, "budget_bytes"), reverse=True)
    dense = {plot.dense_bytes for plot in shown} - {None}
    only = dense.pop() if len(dense) == 1 else None
    if not budgets and only:
        smallest = min(plot.x_range[0] for plot in shown)
        budgets = [only // 2**power for power in range(1, MAX_BUDGETS + 1) if only // 2**power >= smallest]
    out = []
    for budget in budgets[:MAX_BUDGETS]:
        cells: list[dict[str, Any] | None] = []
        for plot in shown:
            fitting = [p for p in plot.points if p["payload_bytes_mean"] <= budget and p["value_mean"] is not None]
            sign = 1 if plot.direction == "max" else -1
            best = max(fitting, key=lambda p: (sign * p["value_mean"], -p["payload_bytes_mean"]), default=None)
            cells.append(None if best is None else {**best, "label": labels[(best["quantizer"], best["config_json"])]})
        out.append({"budget_bytes": budget, "ratio": only / budget if only else None, "cells": cells})
    return out
