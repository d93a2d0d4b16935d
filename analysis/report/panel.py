"""What a panel of the report is, and what finds the panels.

A panel is a section of the page: a heading, a link in the page's navigation, and HTML. A new one is one new file in
``analysis/report/panels/``, or an entry point ``embedding_frontier.panels`` of another package.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import jinja2
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from analysis import text
from analysis.pareto import CONFIGURATION
from analysis.report.plot_data import PlotData, Style, plot_data, styles
from analysis.report.units import Unit, unit_of
from analysis.runs import Runs
from quantizers.registry import discover

ENTRY_POINT_GROUP = "embedding_frontier.panels"
NOT_OK = ("failed", "stopped", "infeasible", "skipped")


@dataclasses.dataclass(frozen=True)
class Report:
    """What every panel may show.

    Attributes:
        runs: rows of all runs together.
        plots: size against one metric, for each objective and each comparison.
        looks: colour and marker of each method.
        labels: short text of each configuration, by (quantizer, config_json).
        size: writes sizes, all in one unit.
    """

    runs: Runs
    plots: tuple[PlotData, ...]
    looks: Mapping[str, Style]
    labels: Mapping[tuple[str, str | None], str]
    size: Unit

    @classmethod
    def of(cls, runs: Runs) -> Report:
        """The report of ``runs``."""
        shown = tuple(plot_data(runs))
        methods = {point["quantizer"] for plot in shown for point in plot.points}
        looks = {method: look for method, look in styles(methods).items() if method in methods}
        pairs = runs.trials.group_by(["quantizer", "config_json"]).aggregate([]).to_pylist()
        labels = text.short_configs((pair["quantizer"], pair["config_json"]) for pair in pairs)
        return cls(runs, shown, looks, labels, unit_of(runs.trials))

    @property
    def headings(self) -> list[str]:
        """A heading for each plot."""
        return [f"{plot.metric}{f' ({plot.scope})' if plot.scope else ''}" for plot in self.plots]

    def render(self, template: str, **more: Any) -> Markup:
        """The HTML of a file in ``analysis/report/templates``.

        Args:
            template: its name. It knows the attributes of this class, ``headings``, ``seeds``, ``several`` (runs), ``text``,
                and ``script_json``.
            more: what else it knows.
        """
        return Markup(
            _environment()
            .get_template(template)
            .render(
                runs=self.runs,
                plots=self.plots,
                looks=self.looks,
                labels=self.labels,
                size=self.size,
                headings=self.headings,
                seeds=sorted_values(self.runs.trials, "seed"),
                several=len(self.runs.dirs) > 1,
                **more,
            )
        )


class Panel(ABC):
    """One section of the page. It has no state.

    Attributes:
        name: the anchor, unique in the page.
        title: the heading, and the text of the link.
        order: panels stand in this order, small numbers first. Those of this package are 10 apart.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    order: ClassVar[int]

    @abstractmethod
    def html(self, report: Report) -> Markup | None:
        """What stands below the heading, or None to leave the panel out.

        Use :meth:`Report.render`, or ``Markup("<p>{}</p>").format(value)``: both escape what people wrote.
        """


def all_panels() -> list[Panel]:
    """Every panel, in the order of the page.

    Raises:
        InputError: two have the same name, or an entry point cannot be loaded.
    """
    import analysis.report.panels

    found = discover(analysis.report.panels, Panel, ENTRY_POINT_GROUP, "panel")  # type: ignore[type-abstract]
    return sorted((cls() for cls in found.values()), key=lambda panel: (panel.order, panel.name))


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis.report"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.globals.update(text=text, script_json=script_json)
    return environment


def script_json(data: Any) -> Markup:
    """JSON that cannot end the ``<script>`` it stands in."""
    raw = json.dumps(data, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return Markup(raw.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def sorted_values(trials: pa.Table, name: str) -> list[Any]:
    """The values of a column, each once, without nulls."""
    return sorted(value for value in pc.unique(trials[name]).to_pylist() if value is not None)


def configuration_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells the configuration of ``row`` from all others."""
    return tuple(row[name] for name in (*CONFIGURATION, "budget_bytes"))
