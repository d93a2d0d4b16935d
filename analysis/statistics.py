"""Means with 95 % intervals over seeds, paired differences, and the bootstrap over seeds. docs/statistics.md says why.

With m the mean of n seeds and s their standard deviation, the interval is Student's on a scale g that suits the metric,
``g(m) +- t(n - 1) * g'(m) * s / sqrt(n)``, taken back to the metric: g is the log odds of a share, the logarithm of an
error, and nothing where the metric has no bounds. So both ends are values that the metric can have.

There is no interval (NaN) with fewer than ``MIN_SEEDS`` seeds, nor where all seeds agree: then the seed is no source of
chance, and what is left, such as which rows were tested, is not seen in the seeds.
Shapes: S values of G groups (configurations); ``groups`` numbers the group of each value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
MIN_SEEDS = 3
Floats = NDArray[np.float64]
Bounds = tuple[float, float]  # the least and the largest value that a metric can have
UNBOUNDED: Bounds = (-np.inf, np.inf)
_SHARE: Bounds = (0.0, 1.0)
_AT_LEAST_0: Bounds = (0.0, np.inf)
_BY_METRIC: dict[str, Bounds] = {
    **dict.fromkeys(("accuracy", "semantic", "syntactic", "f1", "recall_at_10"), _SHARE),
    **dict.fromkeys(("mse", "half_mse", "nmse", "weighted_mse", "max_abs_error"), _AT_LEAST_0),
    "cosine": (-1.0, 1.0),
    "bleu": (0.0, 100.0),
    "perplexity": (1.0, np.inf),
}


def metric_bounds(task: str, metric: str) -> Bounds:
    """What a metric's value can be; :data:`UNBOUNDED` where that is not known, as for metrics of other people's tasks."""
    if task == "similarity":
        return -1.0, 1.0  # rank correlations, whatever the data set
    return _AT_LEAST_0 if (task, metric) == ("pmi", "loss") else _BY_METRIC.get(metric, UNBOUNDED)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What the values of each group come to: (G,) arrays.

    Attributes:
        mean: NaN where a value is.
        low: of the 95 % interval of the mean, as ``high``; NaN where there is none.
        lowest: the smallest value, and ``highest`` the largest.
        count: how many values.
    """

    mean: Floats
    low: Floats
    high: Floats
    lowest: Floats
    highest: Floats
    count: NDArray[np.int64]


def grouped(
    values: ArrayLike, groups: ArrayLike, num_groups: int, bounds: ArrayLike = UNBOUNDED, *, level: float = LEVEL
) -> Estimate:
    """Mean and interval of every group.

    Args:
        values: (S,) numbers. NaN makes its group's mean NaN; infinity makes it infinite, without an interval.
        groups: (S,) group of each value, in [0, num_groups).
        num_groups: G.
        bounds: (2,) or (G, 2) least and largest possible value; those of a group with a value beyond them are not believed.
        level: of the intervals.
    """
    x = np.asarray(values, dtype=np.float64)
    g = np.asarray(groups, dtype=np.int64)
    count = np.bincount(g, minlength=num_groups)
    finite = np.isfinite(x)
    origin = origins(x, g, num_groups)
    lowest, highest = np.full(num_groups, np.nan), np.full(num_groups, np.nan)
    lowest[g], highest[g] = np.inf, -np.inf
    # Sums of finite values only: inf - inf would warn, and would be NaN in the spread of an infinite mean anyway.
    with np.errstate(invalid="ignore", divide="ignore"):
        np.minimum.at(lowest, g, x)
        np.maximum.at(highest, g, x)
        mean = origin + np.bincount(g, weights=np.where(finite, x - origin[g], 0.0), minlength=num_groups) / count
        mean += np.bincount(g[~finite], weights=x[~finite], minlength=num_groups)
        centred = np.where(finite, x - mean[g], 0.0)
        centred = np.where(np.isfinite(centred), centred, 0.0)
        error = np.sqrt(np.bincount(g, weights=centred**2, minlength=num_groups) / (count - 1) / count)
    known = (count >= MIN_SEEDS) & np.isfinite(mean) & (lowest < highest)
    low, high = np.full(num_groups, np.nan), np.full(num_groups, np.nan)
    least, most = np.broadcast_to(np.asarray(bounds, dtype=np.float64), (num_groups, 2))[known].T
    believed = (least <= lowest[known]) & (highest[known] <= most)
    least, most = np.where(believed, least, -np.inf), np.where(believed, most, np.inf)
    low[known], high[known] = _intervals(mean[known], error[known], count[known], least, most, level)
    return Estimate(mean, low, high, lowest, highest, count)


def _intervals(
    mean: Floats, error: Floats, count: NDArray[np.int64], least: Floats, most: Floats, level: float
) -> tuple[Floats, Floats]:
    """Ends of t intervals, each on the scale of its bounds. All (G,); ``error`` is the standard error of the mean."""
    from scipy import special, stats  # slow to import, and every command would wait for it

    share = np.isfinite(least) & np.isfinite(most)
    above_0 = np.isfinite(least) & ~share
    width, above = most - least, mean - least
    with np.errstate(all="ignore"):  # every scale is worked out for all groups, and taken where it applies
        place = np.where(share, special.logit(above / width), np.where(above_0, np.log(above), mean))
        slope = np.where(share, width / (above * (most - mean)), np.where(above_0, 1 / above, 1.0))
        ends: Any = stats.t.interval(level, count - 1, loc=place, scale=slope * error)
        low, high = (
            np.where(share, least + width * special.expit(end), np.where(above_0, least + np.exp(end), end)) for end in ends
        )
    # Where the mean is at a bound but for rounding, there is no slope, and no interval.
    told = np.isfinite(low) & np.isfinite(high)
    return np.where(told, np.minimum(low, mean), np.nan), np.where(told, np.maximum(high, mean), np.nan)


def origins(values: Floats, groups: NDArray[np.int64], num_groups: int) -> Floats:
    """A number for each group from which its mean is summed up: its first value, or 0 where that is not finite.

    A mean of differences from it is exact where all seeds agree, so that ties stay ties whatever the number of seeds.
    """
    out = np.zeros(num_groups)
    out[groups[::-1]] = values[::-1]
    return np.where(np.isfinite(out), out, 0.0)


def t_interval(values: ArrayLike, bounds: Bounds = UNBOUNDED, *, level: float = LEVEL) -> tuple[float, float, float]:
    """Mean, low and high end of the interval of (S,) values within ``bounds``; the ends are NaN where there is none."""
    x = np.asarray(values, dtype=np.float64)
    if not len(x):
        return np.nan, np.nan, np.nan
    estimate = grouped(x, np.zeros(len(x), dtype=np.int64), 1, bounds, level=level)
    return float(estimate.mean[0]), float(estimate.low[0]), float(estimate.high[0])


def paired_difference(
    a: ArrayLike, b: ArrayLike, bounds: Bounds = UNBOUNDED, *, level: float = LEVEL
) -> tuple[float, float, float]:
    """Mean and interval of ``a - b``, where a[i] and b[i] were measured with the same seed.

    Args:
        a: (S,) values within ``bounds``.
        b: (S,) the same. Where all of them are one number, the interval is that of ``a``, less the number.
        bounds: of the metric.
        level: of the interval.

    Raises:
        ValueError: not the same number of values.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"paired values must be two (S,) arrays of one length, not {x.shape} and {y.shape}")
    least, most = bounds
    if len(y) and (y == y[0]).all() and np.isfinite(y[0]):
        return t_interval(x - y, (least - float(y[0]), most - float(y[0])), level=level)
    span = most - least
    return t_interval(x - y, (-span, span), level=level)


def rescaled(means: Floats, resampled: Floats, count: NDArray[np.int64]) -> Floats:
    """Means of resamples, spread as means of new seeds are: a resample of n seeds spreads less, by sqrt((n - 1) / n).

    Source: Rao & Wu, "Resampling inference with complex survey data" (JASA 1988), for samples of full size.

    Args:
        means: (G, k) of the values; ``resampled`` the same of a resample.
        resampled: see ``means``.
        count: (G,) how many seeds each has.
    """
    factor = np.sqrt(count / np.maximum(count - 1, 1))[:, None]
    with np.errstate(invalid="ignore"):
        moved = means + factor * (resampled - means)
    return np.where(resampled == means, means, moved)  # inf - inf is no number


def bootstrap_indices(groups: ArrayLike, num_groups: int, *, repeats: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Resamples within every group: ``repeats`` times (S,) numbers of values, as many of each group as it has.

    ``values[indices]`` then belong to ``groups`` sorted. Groups are resampled independently of each other.
    """
    g = np.asarray(groups, dtype=np.int64)
    order = np.argsort(g, kind="stable")
    count = np.bincount(g, minlength=num_groups)
    start = np.repeat(np.cumsum(count) - count, count)
    width = np.repeat(count, count)
    rng = np.random.default_rng(seed)
    for _ in range(repeats):
        yield order[start + (rng.random(len(g)) * width).astype(np.int64)]
