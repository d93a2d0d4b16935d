"""Seconds that the fits of each method took.

Copy this file to ``analysis/report/panels/NAME.py`` and change it.
"""

from __future__ import annotations

import collections

from markupsafe import Markup

from analysis import text
from analysis.report.panel import Panel, Report


class MyPanel(Panel):
    """One row for each method, the slowest first."""

    name = "my-panel"  # the anchor in the page
    title = "Time of fits"  # the heading, and the link at the top of the page
    order = 95  # after "All trials" (90), before "How to reproduce" (100)

    def html(self, report: Report) -> Markup | None:
        """What stands below the heading; None leaves the panel out."""
        seconds: dict[str, float] = collections.defaultdict(float)
        for row in report.runs.trials.select(["quantizer", "fit_seconds"]).to_pylist():
            seconds[row["quantizer"]] += row["fit_seconds"] or 0.0
        if not seconds:
            return None
        line = Markup('<tr><td>{}</td><td class="n">{}</td></tr>')  # .format() escapes what is put in
        slowest_first = sorted(seconds.items(), key=lambda item: -item[1])
        rows = Markup("").join(line.format(method, text.duration(total)) for method, total in slowest_first)
        return Markup("<table><thead><tr><th>method</th><th>fits, summed</th></tr></thead><tbody>{}</tbody></table>").format(
            rows
        )
