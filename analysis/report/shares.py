"""The tasks beside each other: what each keeps of the uncompressed table's score, over the size, in one figure."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from analysis import text
from analysis.report.plot_data import PlotData, round_ticks
from analysis.report.units import Unit

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#332288", "#117733")
_DASHES = ("solid", "dash", "dot", "dashdot")


def shares(plots: Sequence[PlotData], size: Unit) -> go.Figure | None:
    """A line for each metric whose uncompressed score is a number above 0: the frontier's share of it, in per cent.

    A metric of which less is better (perplexity) counts as the uncompressed score divided by the compressed one.

    Args:
        plots: data of each metric's plot.
        size: writes sizes.

    Returns:
        None where fewer than two metrics have such a score: then there is nothing to compare.
    """
    lines = [(plot, points) for plot in plots if (points := _points(plot))]
    if len(lines) < 2:
        return None
    fig = go.Figure()
    for number, (plot, points) in enumerate(lines):
        name = html.escape(f"{plot.metric}{f' ({plot.scope})' if plot.scope else ''}")
        colour, dash = _COLOURS[number % len(_COLOURS)], _DASHES[number // len(_COLOURS) % len(_DASHES)]
        fig.add_scatter(
            x=[num_bytes for num_bytes, _, _ in points],
            y=[100 * share for _, share, _ in points],
            text=[f"{name}<br>{size(b)}, {html.escape(method)}<br>{text.share(share)}" for b, share, method in points],
            mode="lines+markers",
            line={"shape": "hv", "width": 2, "color": colour, "dash": dash},
            marker={"size": 6},
            name=name,
            hovertemplate="%{text}<extra></extra>",
        )
    ends = min(plot.x_range[0] for plot, _ in lines), max(plot.x_range[1] for plot, _ in lines)
    ticks = round_ticks(*ends)
    axis: dict[str, Any] = {"type": "log", "range": [math.log10(end) for end in ends], "gridcolor": "#e5e7eb"}
    fig.add_hline(y=100, line={"color": "#111111", "dash": "dash", "width": 1})
    fig.update_layout(
        template="none",
        height=440,
        margin={"l": 56, "r": 16, "t": 12, "b": 48},
        font={"family": "system-ui, sans-serif", "size": 12, "color": "#1f2937"},
        hoverlabel={"bgcolor": "white", "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#111827"}},
        legend={"orientation": "h", "y": -0.2},
        xaxis={**axis, "tickvals": ticks, "ticktext": [size(tick, short=True) for tick in ticks], "title": "payload"},
        yaxis={"title": "% of the uncompressed score", "gridcolor": "#e5e7eb", "zeroline": False},
    )
    return fig


def _points(plot: PlotData) -> list[tuple[float, float, str]]:
    """Size, share and method of each point of the frontier that has a share."""
    baseline = plot.baseline[0] if plot.baseline else None
    if baseline is None or not math.isfinite(baseline) or baseline <= 0:
        return []
    out = []
    for point in plot.front:
        value = point["value_mean"]
        share = value / baseline if plot.direction == "max" else baseline / value if value > 0 else math.nan
        if math.isfinite(share):
            out.append((point["payload_bytes_mean"], share, point["quantizer"]))
    return out
