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

from analysis.pareto import COMPARABLE, measured, non_dominated
from analysis.runs import Runs
from analysis.statistics import Floats

MAX_DOTS = 3000  # trials in a panel, and configurations beside the frontier's; more would hide each other
_LOG_FROM = 10.0  # errors that span more than this factor get a logarithmic axis
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
class Panel:
    """Size against one metric for the configurations that compare with each other.

    Attributes:
        metric: ``task.metric``; ``scope`` says which of several comparisons this is (empty where there is one).
        dots: trials (a sample where there are very many), with quantizer, config_json, seed, payload_bytes, value, shown.
        points: configurations (all of the frontier, a sample of others where there are very many): rows of the frontier
            table by size, with ``shown`` added.
        baseline: value of the uncompressed table, and where it is drawn.
        log_y: whether the metric's axis is logarithmic.
        edge: where values are drawn that the axis cannot show (0 on a logarithmic axis, infinity), and what they are.
        y_range: of the metric's axis.
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
    log_y: bool
    edge: tuple[float, str] | None
    x_range: tuple[float, float]
    y_range: tuple[float, float]
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


def panels(runs: Runs) -> list[Panel]:
    """A panel for every objective and every comparison of it that has anything to show."""
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
            out.append(_panel(name, _scope_text(key, scopes), points, dots, runs))
    return out


def _sample(rows: pa.Table) -> pa.Table:
    """MAX_DOTS rows, evenly spaced; those on a frontier and the uncompressed table are always there."""
    step = -(-rows.num_rows // MAX_DOTS)
    if step <= 1:
        return rows
    keep = pa.array(np.arange(rows.num_rows) % step == 0)
    keep = pc.or_(keep, pc.equal(rows["quantizer"].cast(pa.string()), "identity"))
    return rows.filter(pc.or_(keep, rows["on_frontier"]) if "on_frontier" in rows.schema.names else keep)


def _scope_text(key: Sequence[Any], scopes: Iterable[Sequence[Any]]) -> str:
    """What tells this comparison from the others of the same metric."""
    told = []
    for position, name in enumerate(COMPARABLE):
        if len({scope[position] for scope in scopes}) > 1:
            value = str(key[position])
            told.append(f"{name.replace('_', ' ')} {value[:8] if name == 'table_digest' else value}")
    return ", ".join(told)


def _panel(name: str, scope: str, points: list[dict[str, Any]], dots: list[dict[str, Any]], runs: Runs) -> Panel:
    about = runs.metrics.get(name, {})
    direction = points[0]["direction"]
    lossless = [point["value_mean"] for point in points if point["quantizer"] == "identity"]
    baselines = [value for value in [point["baseline"] for point in points] + lossless if value is not None]
    values = np.array([p["value_mean"] for p in points] + [d["value"] for d in dots] + baselines[:1], dtype=np.float64)
    finite = values[np.isfinite(values)]
    positive = finite[finite > 0]
    log_y = direction == "min" and len(positive) > 0 and finite.min() >= 0 and positive.max() > _LOG_FROM * positive.min()
    best = 0.0 if log_y else math.inf if direction == "max" else -math.inf
    y_range, edge = _y_axis(positive if log_y else finite, log_y, direction, bool((values == best).any()), best)

    def shown(value: float | None) -> float | None:
        if value is None or math.isnan(value):
            return None
        if edge is not None and value == best:
            return edge[0]
        return value if math.isfinite(value) else None

    for row in points:
        row["shown"] = shown(row["value_mean"])
    for dot in dots:
        dot["shown"] = shown(dot["value"])
    baseline = baselines[0] if baselines else None
    drawn = shown(baseline)
    dense = {dot["dense_bytes"] for dot in dots}
    sizes = [max(1.0, row["payload_bytes_mean"]) for row in points]
    x_range = (min(sizes) / 1.25, max(sizes) * 1.25)
    return Panel(
        metric=name,
        scope=scope,
        direction=direction,
        unit=about.get("unit") or "",
        dense_bytes=dense.pop() if len(dense) == 1 else None,
        dots=tuple(dots),
        points=tuple(points),
        baseline=None if baseline is None or drawn is None else (baseline, drawn),
        log_y=log_y,
        edge=edge,
        x_range=x_range,
        y_range=y_range,
        reference=_reference(name, points[0], runs.infos, x_range),
    )


def _y_axis(
    values: Floats, log_y: bool, direction: str, has_best: bool, best: float
) -> tuple[tuple[float, float], tuple[float, str] | None]:
    """The axis' range, and where on it the values that it cannot show are drawn."""
    if not len(values):
        values = np.array([1.0])
    low, high = float(values.min()), float(values.max())
    if log_y:
        factor = (high / low) ** 0.06
        edge = (low / factor**3, "0: exact") if has_best else None
        return ((edge[0] if edge else low) / factor, high * factor), edge
    margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    edge = None
    if has_best:
        edge = (high + 3 * margin, "∞: exact") if direction == "max" else (low - 3 * margin, "−∞")
    return (min(low, edge[0] if edge else low) - margin, max(high, edge[0] if edge else high) + margin), edge


def _reference(
    name: str, point: Mapping[str, Any], infos: Sequence[Mapping[str, Any]], x_range: tuple[float, float]
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
