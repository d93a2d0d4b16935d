"""What a plot of size against one metric shows, before any drawing: points, frontier, axes, reference curve, styles.

The reference curve is the rate of a Gaussian source with the table's covariance (Cover & Thomas, Elements of Information
Theory, theorem 10.3.3, reverse water-filling): with eigenvalues l_i of the covariance and a water level t,
R = sum_i max(0, log2(l_i / t) / 2) bits a row at a squared error of D = sum_i min(l_i, t) a row. A table that is not
Gaussian can do better, so the curve bounds nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from analysis import text
from analysis.pareto import COMPARABLE, measured, non_dominated
from analysis.runs import Runs
from analysis.statistics import Floats

MAX_DOTS = 2000  # trials in a plot, and configurations beside the frontier's; more would hide each other
_LOG_FROM = 10.0  # errors that span more than this factor get a logarithmic axis
_DECADES = 4  # that it shows
_COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),  # Okabe & Ito, readable for the colour-blind
    *("#882255", "#332288", "#117733", "#999933", "#AA4499"),  # Tol, muted
)
# One marker in matplotlib, in plotly, and as a polygon for the legend: (corners, turn in degrees, inner radius or None).
_MARKERS: tuple[tuple[str, str, tuple[int, float, float | None]], ...] = (
    ("o", "circle", (40, 0, None)),
    ("s", "square", (4, 45, None)),
    ("^", "triangle-up", (3, 0, None)),
    ("D", "diamond", (4, 0, None)),
    ("v", "triangle-down", (3, 180, None)),
    ("P", "cross", (4, 0, 0.35)),
    ("p", "pentagon", (5, 0, None)),
    ("X", "x", (4, 45, 0.35)),
    ("<", "triangle-left", (3, -90, None)),
    ("*", "star", (5, 0, 0.42)),
    ("h", "hexagon2", (6, 30, None)),
    (">", "triangle-right", (3, 90, None)),
)


@dataclasses.dataclass(frozen=True)
class Style:
    """Colour and marker of a method, the same on every plot."""

    colour: str
    matplotlib: str
    plotly: str
    polygon: str  # points of an SVG polygon in a box of -10 to 10


def styles(methods: Iterable[str]) -> dict[str, Style]:
    """A style for each method; no two alike among 132. The uncompressed table is black."""
    out = {}
    for number, method in enumerate(sorted(set(methods) - {"identity"})):
        out[method] = _style(_COLOURS[number % len(_COLOURS)], number % len(_MARKERS))
    out["identity"] = _style("#111111", 3)
    return out


def _style(colour: str, marker: int) -> Style:
    matplotlib, plotly, (corners, turn, inner) = _MARKERS[marker]
    radii = [8.0] * corners if inner is None else [9.0, 9.0 * inner] * corners
    angles = np.radians(turn - 90) + np.arange(len(radii)) * 2 * math.pi / len(radii)
    points = " ".join(f"{r * math.cos(a):.1f},{r * math.sin(a):.1f}" for r, a in zip(radii, angles, strict=True))
    return Style(colour, matplotlib, plotly, points)


@dataclasses.dataclass(frozen=True)
class Axis:
    """The metric's axis of a plot, and what becomes of values that it cannot show.

    Attributes:
        log: whether it is logarithmic.
        view: its range.
        edge: where values are drawn that are too good for the axis (an error of 0 on a logarithmic axis, infinity), or None.
        edge_text: what they are.
        limit: such values are at or beyond it.
        sign: 1 where less is better, else -1.
    """

    log: bool
    view: tuple[float, float]
    edge: float | None
    edge_text: str
    limit: float
    sign: float

    @property
    def ticks(self) -> list[float]:
        """Round numbers along a logarithmic axis, none of them beside the edge."""
        low, high = self.view
        return round_ticks(low if self.edge is None else self.edge * (high / low) ** 0.1, high)

    def place(self, value: float | None) -> float | None:
        """Where a value is drawn; None where nowhere."""
        if value is None or math.isnan(value):
            return None
        if self.edge is not None and self.sign * value <= self.sign * self.limit:
            return self.edge
        return value if math.isfinite(value) else None


def metric_axis(front: Floats, values: Floats, direction: str) -> Axis:
    """The axis that shows ``values``, of which ``front`` are on the frontier.

    Errors that span more than a factor of ten get a logarithmic axis. It reaches four decades below the frontier's largest
    error, so that one nearly exact configuration does not flatten everything else, and three above it.
    """
    sign = 1.0 if direction == "min" else -1.0
    finite = values[np.isfinite(values)]
    positive = finite[finite > 0]
    if sign > 0 and len(positive) and finite.min() >= 0 and positive.max() > _LOG_FROM * positive.min():
        ends = front[np.isfinite(front) & (front > 0)]
        worst = float(ends.max()) if len(ends) else float(positive.max())
        seen = positive[(positive > worst / 10**_DECADES) & (positive <= worst * 10 ** (_DECADES - 1))]
        low, high = float(seen.min()), float(seen.max())
        factor = max(high / low, 1.1) ** 0.06
        hidden = finite[finite < low]
        if not len(hidden):
            return Axis(True, (low / factor, high * factor), None, "", 0.0, sign)
        edge_text = "0 (off the scale)" if hidden.max() == 0 else f"0 to {text.number(hidden.max(), 2)} (off the scale)"
        return Axis(True, (low / factor**4, high * factor), low / factor**3, edge_text, float(hidden.max()), sign)
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    best = -sign * math.inf
    if not (values == best).any():
        return Axis(False, (low - margin, high + margin), None, "", best, sign)
    if sign < 0:
        return Axis(False, (low - margin, high + 4 * margin), high + 3 * margin, "∞ (off the scale)", best, sign)
    return Axis(False, (low - 4 * margin, high + margin), low - 3 * margin, "−∞ (off the scale)", best, sign)


@dataclasses.dataclass(frozen=True)
class PlotData:
    """Size against one metric for the configurations that compare with each other.

    Attributes:
        metric: ``task.metric``; ``scope`` says which of several comparisons this is (empty where there is one).
        dots: trials (a sample where there are very many), with quantizer, config_json, seed, payload_bytes, value, shown.
        points: configurations (all of the frontier, a sample of others where there are very many): rows of the frontier
            table by size, with ``shown`` added.
        baseline: value of the uncompressed table, and where it is drawn.
        axis: of the metric.
        reference: bytes and values of the Gaussian reference curve; empty for other metrics.
    """

    metric: str
    scope: str
    direction: str
    unit: str
    dense_bytes: int | None
    dots: tuple[dict[str, Any], ...]
    points: tuple[dict[str, Any], ...]
    baseline: tuple[float, float] | None
    axis: Axis
    x_range: tuple[float, float]
    reference: tuple[Floats, Floats]

    @property
    def y_label(self) -> str:
        """The axis title."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.metric}{unit}, {'higher' if self.direction == 'max' else 'lower'} is better"

    def line(self, method: str) -> list[dict[str, Any]]:
        """The points of one method that none of its own beats, by size."""
        mine = [point for point in self.points if point["quantizer"] == method and point["shown"] is not None]
        if not mine:
            return []
        costs = [(point["payload_bytes_mean"], point["value_mean"]) for point in mine]
        best = non_dominated(costs, ["min", "max" if self.direction == "max" else "min"])
        return [point for point, keep in zip(mine, best, strict=True) if keep]

    @property
    def front(self) -> tuple[dict[str, Any], ...]:
        """The points on the frontier that can be drawn, by size."""
        return tuple(point for point in self.points if point["on_frontier"] and point["shown"] is not None)


def plot_data(runs: Runs) -> list[PlotData]:
    """A plot for every objective and every comparison of it that has anything to show."""
    scores = measured(runs.trials, runs.scores)
    out = []
    for name in runs.objectives:
        task, _, metric = name.rpartition(".")
        rows = runs.frontier.filter(
            pc.and_(pc.equal(runs.frontier["task"], task), pc.equal(runs.frontier["metric"], metric))
        )
        scopes: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in _sample(rows.sort_by("payload_bytes_mean")).to_pylist():
            scopes.setdefault(tuple(row[key] for key in COMPARABLE), []).append(row)
        mine = scores.filter(pc.and_(pc.equal(scores["task"], task), pc.equal(scores["metric"], metric)))
        for key, points in scopes.items():
            here = mine
            for column, value in zip(COMPARABLE, key, strict=True):
                here = here.filter(pc.is_null(here[column]) if value is None else pc.equal(here[column], value))
            columns = ["quantizer", "config_json", "seed", "payload_bytes", "value", "dense_bytes"]
            dots = _sample(here.select(columns)).to_pylist()
            out.append(_plot(name, _scope_text(key, scopes, points[0]["table"]), points, dots, runs))
    return out


def _sample(rows: pa.Table) -> pa.Table:
    """MAX_DOTS rows, evenly spaced; those on a frontier and the uncompressed table are always there."""
    step = -(-rows.num_rows // MAX_DOTS)
    if step <= 1:
        return rows
    keep = pa.array(np.arange(rows.num_rows) % step == 0)
    keep = pc.or_(keep, pc.equal(rows["quantizer"].cast(pa.string()), "identity"))
    return rows.filter(pc.or_(keep, rows["on_frontier"]) if "on_frontier" in rows.schema.names else keep)


def _scope_text(key: Sequence[Any], scopes: Iterable[Sequence[Any]], table: str | None) -> str:
    """What tells this comparison from the others of the same metric."""
    told = []
    for position, name in enumerate(COMPARABLE):
        if len({scope[position] for scope in scopes}) > 1:
            value = str(key[position])
            told.append(f"{table} {value[:6]}" if name == "table_digest" else f"{name.replace('_', ' ')} {value}")
    return ", ".join(told)


def _plot(name: str, scope: str, points: list[dict[str, Any]], dots: list[dict[str, Any]], runs: Runs) -> PlotData:
    about = runs.metrics.get(name, {})
    direction = points[0]["direction"]
    lossless = [point["value_mean"] for point in points if point["quantizer"] == "identity"]
    baselines = [value for value in [point["baseline"] for point in points] + lossless if value is not None]
    values = np.array([p["value_mean"] for p in points] + [d["value"] for d in dots] + baselines[:1], dtype=np.float64)
    front = np.array([point["value_mean"] for point in points if point["on_frontier"]], dtype=np.float64)
    axis = metric_axis(front, values, direction)
    for row in points:
        row["shown"] = axis.place(row["value_mean"])
    for dot in dots:
        dot["shown"] = axis.place(dot["value"])
    baseline = baselines[0] if baselines else None
    drawn = axis.place(baseline)
    dense = {dot["dense_bytes"] for dot in dots}
    sizes = [max(1.0, row["payload_bytes_mean"]) for row in points]
    x_range = (min(sizes) / 1.25, max(sizes) * 1.25)
    return PlotData(
        metric=name,
        scope=scope,
        direction=direction,
        unit=about.get("unit") or "",
        dense_bytes=dense.pop() if len(dense) == 1 else None,
        dots=tuple(dots),
        points=tuple(points),
        baseline=None if baseline is None or drawn is None else (baseline, drawn),
        axis=axis,
        x_range=x_range,
        reference=_reference(name, points[0], runs.infos, x_range, axis),
    )


def _reference(
    name: str, point: Mapping[str, Any], infos: Sequence[Mapping[str, Any]], x_range: tuple[float, float], axis: Axis
) -> tuple[Floats, Floats]:
    """The reference curve where it applies: squared errors of the whole table whose spectrum is known."""
    nothing = (np.empty(0), np.empty(0))
    table: Mapping[str, Any] = next(
        (i["table"] for i in infos if i.get("table", {}).get("digest") == point["table_digest"]), {}
    )
    if name not in ("reconstruction.mse", "reconstruction.half_mse", "reconstruction.nmse") or not table.get("eigenvalues"):
        return nothing
    num_embeddings, dim = table["num_embeddings"], table["embedding_dim"]
    eigenvalues = np.asarray(table["eigenvalues"], dtype=np.float64)
    bits, error = gaussian_rate(eigenvalues)
    scale = {"mse": 1 / dim, "half_mse": 0.5, "nmse": 1 / max(float(eigenvalues.sum()), 1e-300)}[name.rpartition(".")[2]]
    num_bytes = bits * num_embeddings / 8
    inside = (num_bytes >= x_range[0]) & (num_bytes <= x_range[1])
    inside &= error * scale > (axis.view[0] if axis.edge is None else axis.edge)
    return num_bytes[inside], error[inside] * scale


def gaussian_rate(eigenvalues: Floats, levels: int = 2000) -> tuple[Floats, Floats]:
    """Rate and distortion of a Gaussian: (levels,) bits a row and squared error a row, by falling rate.

    Args:
        eigenvalues: (D,) of the covariance, not negative.
        levels: how many water levels, evenly spaced in their logarithm from 1e-9 of the largest eigenvalue to all of it.
    """
    spectrum = eigenvalues[eigenvalues > 0]
    if not len(spectrum):
        return np.empty(0), np.empty(0)
    water = np.geomspace(1e-9 * spectrum.max(), spectrum.max(), levels)[:, None]
    bits = np.maximum(0.0, 0.5 * np.log2(spectrum / water)).sum(axis=1)
    return bits, np.minimum(spectrum, water).sum(axis=1)


def round_ticks(low: float, high: float) -> list[float]:
    """Round numbers in a range, for a logarithmic axis: 1, 2 and 5 times powers of ten, or fewer."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [float(step * 10**e) for e in exponents for step in steps if low <= step * 10.0**e <= high]
        if len(ticks) <= 8:
            break
    return ticks


def ratio_ticks(dense_bytes: int, low: float, high: float) -> list[float]:
    """Compression ratios (powers of two) whose sizes are in a range."""
    return [2.0**e for e in range(-4, 24) if low <= dense_bytes / 2.0**e <= high]
