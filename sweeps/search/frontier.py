"""The search that spends trial-seconds where they move the frontier: expected hypervolume improvement per second.

The size of a configuration is known before it runs. A Gaussian process guesses what it will come to, another how many
seconds it takes (:mod:`sweeps.search.surrogate`), and the next to run is the one with the largest

    E[ area that it adds between the frontier and the reference ] / E[ seconds ]

in the plane of log payload and metric; with several metrics the areas, as shares of what they could be, are added up.

While a fit runs, its error so far says what it will end at: curves of finished trials of the same method went on by so much
from the same share of the fit. A trial goes on as long as the area that it may still add is worth the seconds that it
still takes, at the price that the best configuration not yet run would have.

Shapes: C candidates, n trials so far, m metrics, S steps of the frontier, Q quantiles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import norm

import quantizers
from analysis.pareto import MARGIN, Direction
from analysis.statistics import Floats
from quantizers import FitStep
from sweeps.search.base import Outcome
from sweeps.search.surrogate import GaussianProcess, encode
from sweeps.spec.space import Planned

_QUANTILES = np.asarray(norm.ppf((np.arange(16) + 0.5) / 16))
_OVERHEAD = 0.05  # seconds between two trials
_CURVES = 2  # finished trials of a method, at the least, before one of its trials is stopped
_LEAST_DEVIATION = 0.03  # of the logarithm of a final error as foretold by a curve
_BARGAIN = 0.5  # a trial goes on as long as its gain per second is this share of what there is to be had elsewhere
_SMALL = 1e-3  # and as long as it may still add this share of the area: what is stopped is not begun again


class FrontierSearch:
    """Over a finite list of configurations, each tried once.

    Args:
        candidates: all of them.
        directions: (m,) of the metrics.
        dense_bytes: of the uncompressed table.
        seed: of what it begins with.
        curves: whether the error that fits report while they run tells how their metrics end (they are errors of
            reconstruction); where it does not, no trial is stopped.
    """

    def __init__(
        self,
        candidates: Sequence[Planned],
        directions: Sequence[Direction],
        dense_bytes: int,
        seed: int = 0,
        *,
        curves: bool = False,
    ) -> None:
        self.refused: list[tuple[Planned, str, str]] = []
        self._candidates = list(candidates)
        self._numbers = {(one.method, one.config): number for number, one in enumerate(candidates)}
        self._signs = [1.0 if direction == "min" else -1.0 for direction in directions]
        self._follow = curves
        self._methods = [one.method for one in candidates]
        self._size = np.log([one.predicted_bytes for one in candidates])
        self._largest = math.log(dense_bytes)
        parameters = [one.config.model_dump() for one in candidates]
        features = encode(self._methods, [one.predicted_bytes for one in candidates], parameters)
        self._models = [GaussianProcess(features) for _ in directions]
        self._cost_model = GaussianProcess(features)
        self._first = self._first_ones(np.random.default_rng(seed))
        self._left = set(range(len(candidates)))
        self._running: set[int] = set()
        self._costs: dict[int, tuple[float, ...]] = {}  # metrics of what ended, less is better
        self._stopped: dict[int, tuple[float, float]] = {}  # logarithm of the error that was foretold, and its variance
        self._seconds: dict[int, float] = {}
        self._curves: dict[int, list[tuple[str, float, float]]] = {}  # phase, share, logarithm of the error
        self._price = 0.0  # gain per second of what would run instead
        self._front: _Staircase | None = None

    def _first_ones(self, chance: np.random.Generator) -> list[int]:
        """One of each method to begin with, of middling size; those without intermediate reports (they are fast) first."""
        first = []
        for method in dict.fromkeys(self._methods):
            mine = sorted((n for n, one in enumerate(self._methods) if one == method), key=lambda n: self._size[n])
            first.append(int(chance.choice(mine[len(mine) // 4 : 3 * len(mine) // 4 + 1])))
        return sorted(first, key=lambda n: quantizers.get(self._methods[n]).iterative)

    def ask(self) -> Planned | None:
        """See :meth:`sweeps.search.adaptive.Strategy.ask`."""
        if not self._left:
            return None
        first = next((number for number in self._first if number in self._left), None)
        number = self._best() if first is None else first
        self._left.discard(number)
        self._running.add(number)
        return self._candidates[number]

    def take(self, planned: Planned) -> None:
        """See :meth:`sweeps.search.adaptive.Strategy.take`."""
        number = self._numbers.get((planned.method, planned.config))
        if number is not None:
            self._left.discard(number)
            self._running.add(number)

    def tell(self, planned: Planned, outcome: Outcome) -> None:
        """See :meth:`sweeps.search.adaptive.Strategy.tell`."""
        number = self._numbers.get((planned.method, planned.config))
        if number is None:
            return
        self._running.discard(number)
        if not outcome.stopped:
            feasible = all(beyond <= 0 for beyond in outcome.violations.values())
            self._seconds[number] = outcome.seconds
            signed = zip(self._signs, outcome.values, strict=True)
            self._costs[number] = tuple(sign * value if feasible else math.nan for sign, value in signed)

    # What is expected --------------------------------------------------------------------------------------------

    def _best(self) -> int:
        left = np.array(sorted(self._left))
        rate = self._gains()[left] / self._expected_seconds()[left]
        best = np.argsort(rate)
        self._price = float(rate[best[-2]]) if len(left) > 1 else 0.0
        return int(left[best[-1]])

    def _expected_seconds(self) -> Floats:
        known = [number for number, seconds in self._seconds.items() if seconds > 0]
        if not known:
            return np.ones(len(self._candidates))
        mean, deviation = self._cost_model.predict(known, np.log([self._seconds[number] for number in known]))
        return np.asarray(np.exp(mean + deviation**2 / 2) + _OVERHEAD)

    def _gains(self) -> Floats:
        """Expected area (C,) that each candidate adds, the metrics' shares added up."""
        total = np.zeros(len(self._candidates))
        for metric, model in enumerate(self._models):
            seen = {number: cost[metric] for number, cost in self._costs.items() if math.isfinite(cost[metric])}
            if not seen:
                continue
            logarithmic = min(seen.values()) > 0
            numbers, noise = list(seen), [0.0] * len(seen)
            values = [math.log(value) if logarithmic else value for value in seen.values()]
            for number, (guess, variance) in self._stopped.items() if logarithmic and metric == 0 else ():
                numbers.append(number)
                values.append(guess)
                noise.append(variance)
            mean, deviation = model.predict(numbers, np.array(values), np.array(noise))
            front = _Staircase([(self._size[number], value) for number, value in seen.items()], self._largest)
            if metric == 0:
                self._front = front.copy() if logarithmic else None
            # What runs now counts as having ended as expected, so that its neighbours are not tried at the same time.
            for number in self._running:
                front.add(self._size[number], math.exp(mean[number]) if logarithmic else mean[number])
            outcomes = mean[:, None] + deviation[:, None] * _QUANTILES
            total += front.gains(self._size, np.exp(outcomes) if logarithmic else outcomes).mean(axis=1)
        return total

    # Early stopping ----------------------------------------------------------------------------------------------

    def judge(self, planned: Planned, step: FitStep, seconds: float) -> str | None:
        """Why the trial of ``planned`` is stopped now, or None: it goes on.

        Args:
            planned: what runs.
            step: what its fit reports.
            seconds: since the fit began.
        """
        if not self._follow or step.value is None or not step.value > 0 or not 0 < step.fraction < 1:
            return None
        number, now = self._numbers[planned.method, planned.config], math.log(step.value)
        curve = self._curves.setdefault(number, [])
        if curve and step.fraction <= curve[-1][1]:
            curve.clear()  # another seed
        curve.append((step.phase, step.fraction, now))
        changes = self._changes(number, step)
        if self._front is None or len(changes) < _CURVES:
            return None
        guess = now + float(np.mean(changes))
        deviation = max(float(np.std(changes, ddof=1)) * math.sqrt(1 + 1 / len(changes)), _LEAST_DEVIATION)
        gain = float(self._front.gains(self._size[[number]], np.exp(guess + deviation * _QUANTILES)[None]).mean())
        left = seconds * (1 - step.fraction) / step.fraction
        if gain >= min(_BARGAIN * self._price * left, _SMALL):
            return None
        self._stopped[number] = guess, deviation**2
        self._seconds[number] = seconds + left
        return f"frontier: at {step.fraction:.0%} bound for {math.exp(guess):.4g}, not worth {left:.2g} s more"

    def _changes(self, number: int, step: FitStep) -> list[float]:
        """By how much the logarithm of the error changed from here to the end in the trials of this method that ended."""
        found = []
        for other, cost in self._costs.items():
            if self._methods[other] == self._methods[number] and other != number and cost[0] > 0:
                points = [(share, value) for phase, share, value in self._curves.get(other, ()) if phase == step.phase]
                if points and points[0][0] <= step.fraction <= points[-1][0]:
                    shares, values = zip(*points, strict=True)
                    found.append(math.log(cost[0]) - float(np.interp(step.fraction, shares, values)))
        return found


class _Staircase:
    """The frontier of (size, cost) points, and how much another point adds below it, as a share of what there could be.

    Args:
        points: sizes are logarithms.
        largest: size beyond which nothing counts.
    """

    def __init__(self, points: Sequence[tuple[float, float]], largest: float) -> None:
        self._largest = largest
        self._points = sorted(points)
        front = self._walk()
        self._reference = front[0][1] + MARGIN * ((front[0][1] - front[-1][1]) or abs(front[0][1]) or 1.0)
        self._whole = max((self._reference - front[-1][1]) * (largest - self._points[0][0]), 1e-12)
        self._update(front)

    def copy(self) -> _Staircase:
        """Another with the same points."""
        return _Staircase(self._points, self._largest)

    def add(self, size: float, cost: float) -> None:
        """One point more; the reference stays."""
        self._points = sorted([*self._points, (size, cost)])
        self._update(self._walk())

    def _walk(self) -> list[tuple[float, float]]:
        front: list[tuple[float, float]] = []
        for size, cost in self._points:
            if not front or cost < front[-1][1]:
                front.append((size, cost))
        return front

    def _update(self, front: list[tuple[float, float]]) -> None:
        # From each edge to the next the best cost so far is constant; left of the first it is the reference.
        sizes, costs = zip(*front, strict=True)
        self._edges = np.minimum([-math.inf, *sizes, self._largest], self._largest)
        self._levels = np.array([self._reference, *np.minimum(costs, self._reference)])

    def gains(self, sizes: Floats, costs: Floats) -> Floats:
        """Shares (C, Q) that points of sizes (C,) and costs (C, Q) add."""
        widths = np.clip(self._edges[1:] - np.maximum(sizes[:, None], self._edges[:-1]), 0, None)  # (C, S)
        heights = (np.clip(self._levels - cost[:, None], 0, None) for cost in costs.T)
        return np.stack([(widths * height).sum(axis=1) for height in heights], axis=1) / self._whole
