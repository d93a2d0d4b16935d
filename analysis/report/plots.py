"""Size against every metric: ``frontier.png`` (matplotlib) and the report's interactive figures (plotly).

Both draw the same plots: trials as small dots, configurations as marks with 95 % intervals, the frontier as the steps
between them (what a given size is enough for), the uncompressed table as a dashed line.
"""

from __future__ import annotations

import html
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import text
from analysis.report.plot_data import PlotData, Style, plot_data, ratio_ticks, round_ticks, styles
from analysis.report.units import Unit, unit_of
from analysis.runs import load
from analysis.statistics import Floats
from quantizers.files import write_bytes

REFERENCE = "reference: a Gaussian with this covariance"
_AREA = {"*": 2.0, "P": 1.4, "X": 1.4, "D": 0.8}  # so that all marks look equally large
_MANY = 300  # configurations in a plot, from which on those beside the frontier are drawn smaller
_FRONT, _GREY, _GRID = "#374151", "#9ca3af", "#e5e7eb"


def frontier_png(run_dir: str | Path, path: str | Path) -> Path:
    """Draw a run's frontiers as small multiples, one for each metric objective.

    Args:
        run_dir: directory of a run.
        path: where the PNG goes; it is written atomically.

    Returns:
        ``path``.

    Raises:
        InputError: a file of the run is missing or damaged, or the PNG cannot be written.
    """
    runs = load([run_dir])
    shown, size = plot_data(runs), unit_of(runs.trials)
    looks = styles(point["quantizer"] for plot in shown for point in plot.points)
    columns = 3 if len(shown) in (3, 5, 6, 9) else min(2, max(1, len(shown)))
    rows = max(1, math.ceil(len(shown) / columns))
    figure = Figure(figsize=(6.8 * columns, 4.6 * rows + 1.6), layout="constrained")
    FigureCanvasAgg(figure)
    table = runs.infos[0].get("table", {})
    what = f"{table.get('name', '')}, {table.get('num_embeddings', 0):,} × {table.get('embedding_dim', 0)}"
    figure.suptitle(f"{runs.infos[0].get('name', '')}: {what}", fontsize=13, parse_math=False)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, plot in zip(axes, shown, strict=False):
        _draw(axis, plot, looks, size)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    if not shown:
        axes[0].text(0.5, 0.5, "No trial succeeded: there is nothing to draw.", ha="center", transform=axes[0].transAxes)
    else:
        handles = [
            Line2D(
                [],
                [],
                color=look.colour,
                marker=look.matplotlib,
                linestyle="",
                ms=7 * _AREA.get(look.matplotlib, 1.0) ** 0.5,
                mew=0,
                label=method,
            )
            for method, look in looks.items()
            if any(point["quantizer"] == method for plot in shown for point in plot.points)
        ]
        handles.append(Line2D([], [], color=_FRONT, linewidth=1.6, label="frontier"))
        handles.append(Line2D([], [], color="#111111", linestyle="--", linewidth=1, label="uncompressed"))
        if any(len(plot.reference[0]) for plot in shown):
            handles.append(Line2D([], [], color=_GREY, linestyle=":", linewidth=1.6, label=REFERENCE))
        lines = math.ceil(len(handles) / (5 * columns))
        figure.legend(
            handles=handles, loc="outside lower center", ncols=math.ceil(len(handles) / lines), frameon=False, fontsize=9
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    write_bytes(Path(path), buffer.getvalue())
    return Path(path)


def _draw(axis: Axes, plot: PlotData, looks: Mapping[str, Style], size: Unit) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log" if plot.axis.log else "linear")
    axis.set_xlim(*plot.x_range)
    axis.set_ylim(*plot.axis.view)
    axis.grid(True, color=_GRID, linewidth=0.7)
    axis.set_axisbelow(True)
    axis.set_xlabel("payload")
    axis.set_ylabel(plot.y_label, parse_math=False)
    if plot.scope:
        axis.set_title(plot.scope, fontsize=9, color=_FRONT, parse_math=False)
    ticks = round_ticks(*plot.x_range)
    axis.set_xticks(ticks, [size(tick, short=True) for tick in ticks])
    axis.set_xticks([], minor=True)
    if plot.axis.log:
        ticks = plot.axis.ticks
        axis.set_yticks(ticks, [text.number(tick, 1) for tick in ticks])
        axis.set_yticks([], minor=True)
    if plot.dense_bytes:
        top = axis.twiny()
        top.set_xscale("log")
        top.set_xlim(*plot.x_range)
        ratios = ratio_ticks(plot.dense_bytes, *plot.x_range)
        top.set_xticks([plot.dense_bytes / ratio for ratio in ratios], [text.ratio(ratio, short=True) for ratio in ratios])
        top.set_xticks([], minor=True)
    if plot.baseline:
        axis.axhline(plot.baseline[1], color="#111111", linestyle="--", linewidth=1, zorder=1)
    if plot.axis.edge is not None:
        axis.annotate(
            plot.axis.edge_text, (0.01, plot.axis.edge), xycoords=("axes fraction", "data"), fontsize=8, va="bottom"
        )
    axis.plot(*plot.reference, color=_GREY, linestyle=":", linewidth=1.6, zorder=1)
    front = plot.front
    axis.step(
        [point["payload_bytes_mean"] for point in front] + [plot.x_range[1]],
        [point["shown"] for point in front] + [point["shown"] for point in front[-1:]] if front else [math.nan],
        where="post",
        color=_FRONT,
        linewidth=1.6,
        zorder=2,
    )
    small = 34 if len(plot.points) < _MANY else 12
    for method, look in looks.items():
        dots = [dot for dot in plot.dots if dot["quantizer"] == method and dot["shown"] is not None]
        axis.scatter(
            [dot["payload_bytes"] for dot in dots], [dot["shown"] for dot in dots], s=6, color=look.colour, alpha=0.45, lw=0
        )
        points = [point for point in plot.points if point["quantizer"] == method and point["shown"] is not None]
        if not points:
            continue
        sizes = [point["payload_bytes_mean"] for point in points]
        values = [point["shown"] for point in points]
        bars = list(zip(*[_bars(point, plot) for point in points], strict=True))
        axis.errorbar(sizes, values, yerr=bars, fmt="none", ecolor=look.colour, elinewidth=0.8, alpha=0.5, zorder=2)
        line = plot.line(method)
        axis.plot(
            [point["payload_bytes_mean"] for point in line],
            [point["shown"] for point in line],
            color=look.colour,
            linewidth=0.8,
            alpha=0.6,
            zorder=2,
        )
        areas = [(64 if point["on_frontier"] else small) * _AREA.get(look.matplotlib, 1.0) for point in points]
        axis.scatter(sizes, values, s=areas, marker=look.matplotlib, color=look.colour, edgecolors="white", lw=0.7, zorder=3)


def _bars(point: Mapping[str, Any], plot: PlotData) -> tuple[float, float]:
    """Lengths of the error bar below and above a point; a logarithmic axis ends the lower one at the axis' end."""
    low, high, middle = point["value_low"], point["value_high"], point["value_mean"]
    if low is None or high is None or not math.isfinite(middle) or point["shown"] != middle:
        return 0.0, 0.0
    floor = plot.axis.view[0] if plot.axis.log else -math.inf
    return max(0.0, middle - max(low, floor)), high - middle


def figure(
    plot: PlotData, looks: Mapping[str, Style], numbers: Mapping[tuple[str, str | None], int], size: Unit
) -> go.Figure:
    """One plot as an interactive figure: hovering shows configuration, bytes, ratio, seed and interval.

    A configuration's text, which stands many times in a page, is left to the page: it is the first line of a mark's text,
    and ``customdata`` has its number.

    Args:
        plot: what to draw.
        looks: style of each method.
        numbers: of each (quantizer, config_json).
        size: writes sizes.
    """
    fig = go.Figure()
    line: dict[str, Any] = {"mode": "lines", "hoverinfo": "skip"}
    if len(plot.reference[0]):
        dotted = {"color": _GREY, "dash": "dot", "width": 2}
        fig.add_scatter(x=_shorts(plot.reference[0]), y=_shorts(plot.reference[1]), line=dotted, name=REFERENCE, **line)
    if plot.baseline:
        dashed = {"color": "#111111", "dash": "dash", "width": 1}
        fig.add_scatter(x=list(plot.x_range), y=[_short(plot.baseline[1])] * 2, line=dashed, name="uncompressed", **line)
    front = plot.front
    if front:
        x = [_short(point["payload_bytes_mean"]) for point in front] + [plot.x_range[1]]
        y = [_short(point["shown"]) for point in (*front, front[-1])]
        fig.add_scatter(x=x, y=y, line={"color": _FRONT, "width": 2, "shape": "hv"}, name="frontier", **line)
    small = 8 if len(plot.points) < _MANY else 5
    for method, look in looks.items():
        dots = [dot for dot in plot.dots if dot["quantizer"] == method and dot["shown"] is not None]
        if dots:
            fig.add_scatter(
                x=[dot["payload_bytes"] for dot in dots],
                y=[_short(dot["shown"]) for dot in dots],
                mode="markers",
                marker={"size": 4, "color": look.colour, "opacity": 0.45},
                text=[_dot_hover(dot, plot, size) for dot in dots],
                customdata=[numbers[(dot["quantizer"], dot["config_json"])] for dot in dots],
                hovertemplate=f"<b>{html.escape(method)}</b> %{{text}}<extra></extra>",
                name=method,
                meta=method,
            )
        path = plot.line(method)
        if len(path) > 1:
            x, y = [_short(point["payload_bytes_mean"]) for point in path], [_short(point["shown"]) for point in path]
            fig.add_scatter(x=x, y=y, line={"color": look.colour, "width": 1}, opacity=0.6, name=method, meta=method, **line)
        points = [point for point in plot.points if point["quantizer"] == method and point["shown"] is not None]
        if points:
            bars = [_bars(point, plot) for point in points]
            fig.add_scatter(
                x=[_short(point["payload_bytes_mean"]) for point in points],
                y=[_short(point["shown"]) for point in points],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [_short(above, 3) for _, above in bars],
                    "arrayminus": [_short(below, 3) for below, _ in bars],
                    "thickness": 1,
                    "width": 0,
                    "color": _faint(look.colour),
                },
                mode="markers",
                marker={
                    "size": [11 if point["on_frontier"] else small for point in points],
                    "symbol": look.plotly,
                    "opacity": 1,
                    "color": look.colour,
                    "line": {"color": "white", "width": 1},
                },
                text=[_point_hover(point, plot, size) for point in points],
                customdata=[numbers[(point["quantizer"], point["config_json"])] for point in points],
                hovertemplate=f"<b>{html.escape(method)}</b> %{{text}}<extra></extra>",
                name=method,
                meta=method,
            )
    ticks = round_ticks(*plot.x_range)
    axis: dict[str, Any] = {"type": "log", "range": [math.log10(end) for end in plot.x_range], "gridcolor": _GRID}
    axis["automargin"] = False  # plotly draws everything again where a margin grows
    fig.update_layout(
        template="plotly_white",
        showlegend=False,
        height=440,
        margin={"l": 68, "r": 16, "t": 34, "b": 68},
        font={"family": "system-ui, sans-serif", "size": 12, "color": "#1f2937"},
        hoverlabel={"bgcolor": "white", "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#111827"}},
        xaxis={
            **axis,
            "tickvals": ticks,
            "ticktext": [size(tick, short=True) for tick in ticks],
            "title": {"text": "payload", "standoff": 8},
        },
        yaxis={
            "type": "log" if plot.axis.log else "linear",
            "range": [math.log10(end) for end in plot.axis.view] if plot.axis.log else list(plot.axis.view),
            "title": html.escape(plot.y_label),
            "gridcolor": _GRID,
            "zeroline": False,
            "automargin": False,
        },
    )
    if plot.axis.log:
        ticks = plot.axis.ticks
        fig.update_yaxes(tickvals=ticks, ticktext=[text.number(tick, 1) for tick in ticks])
    if plot.dense_bytes:
        ratios = ratio_ticks(plot.dense_bytes, *plot.x_range)
        fig.update_layout(
            xaxis2={
                **axis,
                "overlaying": "x",
                "matches": "x",
                "side": "top",
                "showgrid": False,
                "tickvals": [plot.dense_bytes / ratio for ratio in ratios],
                "ticktext": [text.ratio(ratio, short=True) for ratio in ratios],
            }
        )
        fig.add_scatter(x=[None], y=[None], xaxis="x2", hoverinfo="skip")  # an axis without a trace is not drawn
    if plot.axis.edge is not None:
        height = math.log10(plot.axis.edge) if plot.axis.log else plot.axis.edge
        fig.add_annotation(
            xref="paper", x=0, y=height, text=plot.axis.edge_text, showarrow=False, xanchor="left", yanchor="bottom"
        )
    return fig


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.45)"


def _short(value: float, digits: int = 6) -> float:
    """With no more digits than can be seen: the page is shorter by them."""
    return float(f"{value:.{digits}g}")


def _shorts(values: Floats) -> list[float]:
    return [_short(value, 8) for value in values.tolist()]


def _dot_hover(dot: Mapping[str, Any], plot: PlotData, size: Unit) -> str:
    times = text.ratio(plot.dense_bytes / dot["payload_bytes"]) if plot.dense_bytes and dot["payload_bytes"] else ""
    return f"{size(dot['payload_bytes'])} {times}<br>{text.number(dot['value'])}<br>seed {dot['seed']}"


def _point_hover(point: Mapping[str, Any], plot: PlotData, size: Unit) -> str:
    told = text.of_point(point)
    interval = f"95 %: {told}" if point["value_low"] is not None else told
    lines = [
        f"{size(point['payload_bytes_mean'])} {text.ratio(point['compression_ratio'])}",
        f"{text.number(point['value_mean'])}{f', {interval}' if interval else ''}",
        f"{point['num_seeds']} seed{'' if point['num_seeds'] == 1 else 's'}{', frontier' if point['on_frontier'] else ''}",
    ]
    return "<br>".join(lines)
