"""Interactive plots: size against each metric."""

from __future__ import annotations

import html

from markupsafe import Markup

from analysis.report.panel import Panel, Report, script_json
from analysis.report.plots import REFERENCE, figure
from analysis.report.shares import shares


class Plots(Panel):
    """A plot for each metric, and one legend; then what each task keeps of its uncompressed score, in one plot."""

    name = "plots"
    title = "Size against each metric"
    order = 20

    def html(self, report: Report) -> Markup:
        """The plots' places and data; ``report.js`` draws them."""
        numbers = {configuration: number for number, configuration in enumerate(report.labels)}
        figures = [figure(plot, report.looks, numbers, report.size).to_plotly_json() for plot in report.plots]
        beside = shares(report.plots, report.size)
        reference = REFERENCE if any(len(plot.reference[0]) for plot in report.plots) else None
        return report.render(
            "panels/plots.html.j2",
            reference=reference,
            figures=script_json(figures),
            configs=script_json([html.escape(label).replace(", ", "<br>") for label in report.labels.values()]),
            shares=None if beside is None else script_json(beside.to_plotly_json()),
        )
