"""Parallel coordinates of the configurations, and which parameter matters."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from markupsafe import Markup

from analysis.report.importance import importances
from analysis.report.panel import Panel, Report, script_json
from analysis.report.plot_data import PlotData


class Parameters(Panel):
    """For all methods together, or one of them."""

    name = "parameters"
    title = "Which parameter matters"
    order = 60

    def html(self, report: Report) -> Markup | None:
        """The plot's place, each configuration's parameters, and what they explain; nothing where nothing was measured."""
        if not report.plots:
            return None
        configs: dict[str, dict[str, dict[str, Any]]] = {}
        for (method, config_json), label in report.labels.items():
            if config_json and method in report.looks:
                configs.setdefault(method, {})[label] = _parsed(config_json)
        varying = {method: _varying(found) for method, found in configs.items()}
        kept = {
            method: {label: {name: config.get(name) for name in varying[method]} for label, config in found.items()}
            for method, found in configs.items()
            if varying[method]
        }
        explained = {plot.metric: _explained(plot) for plot in report.plots}
        data = {"configs": kept, "explained": explained, "methods": list(report.looks)}
        return report.render("panels/parameters.html.j2", data=script_json(data))


def _parsed(config_json: str) -> dict[str, Any]:
    parsed = json.loads(config_json)
    return parsed if isinstance(parsed, dict) else {}


def _varying(configs: dict[str, dict[str, Any]]) -> list[str]:
    """The parameters that have more than one value among a method's configurations."""
    names = dict.fromkeys(name for config in configs.values() for name in config)
    return [name for name in names if len({json.dumps(config.get(name)) for config in configs.values()}) > 1]


def _explained(plot: PlotData) -> dict[str, list[list[Any]]]:
    """What parameters explain of one metric, by method; of all methods together (an empty name) what the method does."""
    points = [point for point in plot.points if point["value_mean"] is not None and point["quantizer"] != "identity"]
    out = {"": _rows(plot, points, [{"quantizer": point["quantizer"]} for point in points])}
    for method in dict.fromkeys(point["quantizer"] for point in points):
        mine = [point for point in points if point["quantizer"] == method]
        out[method] = _rows(plot, mine, [_parsed(point["config_json"] or "{}") for point in mine])
    return {method: rows for method, rows in out.items() if rows}


def _rows(plot: PlotData, points: list[dict[str, Any]], configs: list[dict[str, Any]]) -> list[list[Any]]:
    values = np.array([point["value_mean"] for point in points], dtype=np.float64)
    if plot.axis.log:
        values = np.log(np.where(values > 0, values, np.nan))
    sizes = np.array([point["payload_bytes_mean"] for point in points], dtype=np.float64)
    found = importances(configs, sizes, values)
    return [[one.name, one.values, round(one.alone, 3), round(one.at_size, 3)] for one in found]
