"""Interactive plots: size against each metric."""

from __future__ import annotations

from markupsafe import Markup

from analysis.report.panel import Panel, Report, script_json
from analysis.report.plots import REFERENCE, figure


class Plots(Panel):
    """A plot for each metric, and one legend."""

    name = "plots"
    title = "Size against each metric"
    order = 20

    def html(self, report: Report) -> Markup:
        """The plots' places and data; ``report.js`` draws them."""
        figures = [figure(plot, report.looks, report.labels).to_plotly_json() for plot in report.plots]
        reference = REFERENCE if any(len(plot.reference[0]) for plot in report.plots) else None
        return report.render("panels/plots.html.j2", reference=reference, figures=script_json(figures))
