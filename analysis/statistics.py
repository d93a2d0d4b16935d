"""Means with 95 % intervals over seeds, paired differences, and the bootstrap over seeds.

The interval is Student's: ``mean +- t(0.975, n - 1) * s / sqrt(n)``. With one seed there is none (NaN).
Shapes: S values of G groups (configurations); ``groups`` numbers the group of each value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

LEVEL = 0.95
Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Mean and interval of each group: (G,) arrays. ``low`` and ``high`` are NaN where there is no interval."""

    mean: Floats
    low: Floats
    high: Floats
    count: NDArray[np.int64]


def grouped(values: ArrayLike, groups: ArrayLike, num_groups: int) -> Estimate:
    """Mean and t interval of every group.

    Args:
        values: (S,) numbers. NaN makes its group's mean NaN; infinity makes it infinite, without an interval.
        groups: (S,) group of each value, in [0, num_groups).
        num_groups: G.
    """
    x = np.asarray(values, dtype=np.float64)
    g = np.asarray(groups, dtype=np.int64)
    count = np.bincount(g, minlength=num_groups)
    finite = np.isfinite(x)
    origin = origins(x, g, num_groups)
    # Sums of finite values only: inf - inf would warn, and would be NaN in the spread of an infinite mean anyway.
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = origin + np.bincount(g, weights=np.where(finite, x - origin[g], 0.0), minlength=num_groups) / count
        mean += np.bincount(g[~finite], weights=x[~finite], minlength=num_groups)
        centred = np.where(finite, x - mean[g], 0.0)
        centred = np.where(np.isfinite(centred), centred, 0.0)
        variance = np.bincount(g, weights=centred**2, minlength=num_groups) / (count - 1)
        half = stats.t.ppf(0.5 + LEVEL / 2, np.maximum(count - 1, 1)) * np.sqrt(variance / count)
    half[(count < 2) | ~np.isfinite(mean)] = np.nan
    return Estimate(mean, mean - half, mean + half, count)


def origins(values: Floats, groups: NDArray[np.int64], num_groups: int) -> Floats:
    """A number for each group from which its mean is summed up: its first value, or 0 where that is not finite.

    A mean of differences from it is exact where all seeds agree, so that ties stay ties whatever the number of seeds.
    """
    out = np.zeros(num_groups)
    out[groups[::-1]] = values[::-1]
    return np.where(np.isfinite(out), out, 0.0)


def t_interval(values: ArrayLike) -> tuple[float, float, float]:
    """Mean, low and high end of the 95 % interval of (S,) values; the ends are NaN with fewer than two."""
    x = np.asarray(values, dtype=np.float64)
    if not len(x):
        return np.nan, np.nan, np.nan
    estimate = grouped(x, np.zeros(len(x), dtype=np.int64), 1)
    return float(estimate.mean[0]), float(estimate.low[0]), float(estimate.high[0])


def paired_difference(a: ArrayLike, b: ArrayLike) -> tuple[float, float, float]:
    """Mean and 95 % interval of ``a - b``, where a[i] and b[i] were measured with the same seed.

    Raises:
        ValueError: not the same number of values.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"paired values must be two (S,) arrays of one length, not {x.shape} and {y.shape}")
    return t_interval(x - y)


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
