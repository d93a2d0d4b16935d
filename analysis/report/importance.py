"""Which parameter matters: how much of a metric's spread goes with a parameter, over the configurations that were measured.

The share is omega squared of a one-way analysis of variance (Hays 1963): what the means of the groups explain, less what
groups as small as these would by chance. It is given twice: as it is, where a parameter that makes tables larger
explains much, and at equal size, of what is left after a parabola over the logarithm of the size.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from analysis.statistics import Floats

_FEWEST = 6  # configurations, below which nothing is said
_BINS = 4  # for parameters that hardly repeat a value


@dataclasses.dataclass(frozen=True)
class Importance:
    """What a parameter explains.

    Attributes:
        name: the parameter.
        values: how many values of it were measured.
        alone: share of the spread, 0 to 1.
        at_size: share of the spread at equal size, 0 to 1.
    """

    name: str
    values: int
    alone: float
    at_size: float


def importances(configs: Sequence[Mapping[str, Any]], sizes: Floats, values: Floats) -> list[Importance]:
    """The parameters that vary, the one that matters most at equal size first; none with fewer than 6 configurations.

    Args:
        configs: parameters by name, one mapping for each configuration.
        sizes: (n,) payload bytes.
        values: (n,) of the metric; errors that span orders of magnitude as logarithms. What is not finite is left out.
    """
    keep = np.isfinite(values) & (sizes > 0)
    if keep.sum() < _FEWEST:
        return []
    kept = [config for config, one in zip(configs, keep, strict=True) if one]
    y, x = values[keep], np.log(sizes[keep])
    rest = y - np.polyval(np.polyfit(x - x.mean(), y, min(2, len(np.unique(x)) - 1)), x - x.mean())
    out = []
    for name in dict.fromkeys(name for config in kept for name in config):
        groups = _groups([config.get(name) for config in kept])
        if groups is None:
            continue
        count = len({_text(config.get(name)) for config in kept})
        out.append(Importance(name, count, _omega_squared(y, groups), _omega_squared(rest, groups)))
    return sorted(out, key=lambda one: (-one.at_size, -one.alone, one.name))


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _groups(values: Sequence[Any]) -> list[int] | None:
    """The group of each value: equal ones, or quarters of the order where numbers hardly repeat; None if neither."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    found: Iterable[Hashable] = [_text(value) for value in values]
    if numbers and len(set(found)) > len(values) / 2:
        order = np.argsort(np.argsort(np.array(values, dtype=np.float64), kind="stable"), kind="stable")
        found = (order * _BINS // len(values)).tolist()
    names = list(dict.fromkeys(found))
    if not 1 < len(names) <= len(values) / 2:
        return None
    return [names.index(one) for one in found]


def _omega_squared(values: Floats, groups: Sequence[int]) -> float:
    which = np.array(groups)
    counts = np.bincount(which)
    means = np.bincount(which, weights=values) / counts
    total = float(np.square(values - values.mean()).sum())
    between = float((counts * np.square(means - values.mean())).sum())
    within = (total - between) / (len(values) - len(counts))
    share = (between - (len(counts) - 1) * within) / (total + within) if total + within > 0 else 0.0
    return min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0
