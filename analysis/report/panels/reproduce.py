"""How to run the same again."""

from __future__ import annotations

from markupsafe import Markup

from analysis.report.panel import Panel, Report


class Reproduce(Panel):
    """Command, sweep file, machine and versions of each run."""

    name = "reproduce"
    title = "How to reproduce"
    order = 100

    def html(self, report: Report) -> Markup:
        """A list for each run."""
        return report.render("panels/reproduce.html.j2")
