"""Cost as an axis: any two of size, time of a fit, speed of look-ups, and the metrics."""

from __future__ import annotations

import dataclasses

from markupsafe import Markup

from analysis.report.panel import Panel, Report, script_json


class Cost(Panel):
    """One plot whose axes the reader chooses; its points come from the table of all trials."""

    name = "cost"
    title = "What it costs"
    order = 50

    def html(self, report: Report) -> Markup | None:
        """The plot's place and the directions of the metrics; nothing where no trial was measured."""
        if not report.plots:
            return None
        directions = {plot.metric: plot.direction for plot in report.plots}
        looks = {method: dataclasses.asdict(look) for method, look in report.looks.items()}
        return report.render("panels/cost.html.j2", data=script_json({"directions": directions, "looks": looks}))
