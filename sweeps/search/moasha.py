"""Multi-objective ASHA: trials that fall behind are stopped early.

Schmucker et al., "Multi-objective Asynchronous Successive Halving", 2021. A fit reports its error as it goes; at a few rungs
of its progress (shares 1/eta, 1/eta^2, ... of the fit) a trial is compared with those that were there before it, by its
objectives: the payload, known beforehand, and the error of the moment. It goes on if it is among the best 1/eta of them, by

    (front rank, - crowding distance)        NaN last

so that one end of the frontier is not given up for the other; of equals none is behind. Steps of different phases are
never compared, and a fit that reports nothing (closed-form methods) is left alone.

Shapes: P points, k objectives.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.pareto import Direction, front_rank
from analysis.statistics import Floats
from quantizers import FitStep


def crowding(points: ArrayLike, ranks: ArrayLike) -> Floats:
    """Crowding distance (P,) of each point among those of its rank (Deb et al., 2002).

    The sum over objectives of the gap between its two neighbours, as a share of the rank's range; infinite at the ends.

    Args:
        points: (P, k) finite values.
        ranks: (P,).
    """
    points, ranks = np.asarray(points, dtype=np.float64), np.asarray(ranks)
    distance = np.zeros(len(points))
    for rank in np.unique(ranks):
        here = np.flatnonzero(ranks == rank)
        for column in points[here].T:
            order = np.argsort(column, kind="stable")
            sorted_values = column[order]
            span = sorted_values[-1] - sorted_values[0]
            gaps = np.full(len(here), math.inf)
            if len(here) > 2:
                gaps[1:-1] = (sorted_values[2:] - sorted_values[:-2]) / span if span > 0 else 0.0
            distance[here[order]] += gaps
    return distance


def places(points: ArrayLike, directions: Sequence[Direction]) -> NDArray[np.int64]:
    """Place (P,) of each point, from 1: how many are better, and itself. By front rank, then the less crowded, NaN last.

    Points that are equally good share a place: the ends of a front do, so that none of them is worse for having come later.

    Args:
        points: (P, k).
        directions: "min" or "max" for each objective.
    """
    points = np.asarray(points, dtype=np.float64)
    ranks = front_rank(points, directions)
    ranks[ranks == 0] = len(points) + 1
    crowded = -crowding(np.nan_to_num(points, nan=0.0), ranks)
    order = np.lexsort((crowded, ranks))
    first = np.ones(len(points), dtype=bool)  # of those that share a place
    first[1:] = (np.diff(ranks[order]) != 0) | (crowded[order][1:] != crowded[order][:-1])
    found = np.empty(len(points), dtype=np.int64)
    found[order] = 1 + np.maximum.accumulate(np.where(first, np.arange(len(points)), 0))
    return found


@dataclasses.dataclass
class Rungs:
    """The comparison itself, without Ray.

    Attributes:
        payload_bytes: predicted payload of a trial by its key.
        reduction_factor: eta; the best 1/eta of a rung go on.
        grace: the lowest rung is at this share of a fit at the least.
        curves: what is compared beside the payload: "value" (the error on hard codes) or names of the method's own curves.
    """

    payload_bytes: Callable[[str], int]
    reduction_factor: float = 3.0
    grace: float = 0.1
    curves: Mapping[str, Direction] = dataclasses.field(default_factory=lambda: {"value": "min"})

    def __post_init__(self) -> None:
        count = math.floor(math.log(1 / self.grace) / math.log(self.reduction_factor) + 1e-9)
        self.levels = [self.reduction_factor**-power for power in range(1, count + 1)]  # highest first
        self._rungs: dict[tuple[str, float], dict[str, tuple[float, ...]]] = {}

    def step(self, key: str, step: FitStep, seconds: float) -> str | None:
        """See :data:`sweeps.search.base.Judge`. Only the first report at or beyond a rung counts for it."""
        values = [step.value if name == "value" else step.metrics.get(name) for name in self.curves]
        level = next((level for level in self.levels if step.fraction >= level - 1e-9), None)
        if level is None or step.fraction >= 1 or all(value is None for value in values):
            return None
        rung = self._rungs.setdefault((step.phase, level), {})
        if key in rung:
            return None
        rung[key] = (float(self.payload_bytes(key)), *(math.nan if value is None else float(value) for value in values))
        place = int(places(list(rung.values()), ["min", *self.curves.values()])[-1])
        kept = max(1, math.ceil(len(rung) / self.reduction_factor))
        if place <= kept:
            return None
        return f"moasha: {place} of {len(rung)} at {level:.0%} of {step.phase!r}, the best {kept} go on"
