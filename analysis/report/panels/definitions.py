"""What the words and the metrics mean."""

from __future__ import annotations

from markupsafe import Markup

from analysis.report.panel import Panel, Report


class Definitions(Panel):
    """One line for each word and metric."""

    name = "definitions"
    title = "Definitions"
    order = 110

    def html(self, report: Report) -> Markup:
        """A list."""
        reference = any(len(plot.reference[0]) for plot in report.plots)
        return report.render("panels/definitions.html.j2", reference=reference, metrics=report.runs.metrics)
