"""The frontier of each metric as a table."""

from __future__ import annotations

from markupsafe import Markup

from analysis.report.panel import Panel, Report

MAX_POINTS = 300  # in one table


class Frontier(Panel):
    """One table for each metric, one at a time."""

    name = "frontier"
    title = "Frontier"
    order = 40

    def html(self, report: Report) -> Markup:
        """The tables and their tabs."""
        points = [[point for point in plot.points if point["on_frontier"]][:MAX_POINTS] for plot in report.plots]
        return report.render("panels/frontier.html.j2", points=points)
