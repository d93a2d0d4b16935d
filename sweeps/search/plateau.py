"""The stop rule that looks at the frontier: no better for so many trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from analysis.pareto import Direction, hypervolume, reference_point
from analysis.text import counted
from sweeps.spec.config import HypervolumeStop
from trainables.trial import TrialResult


class Plateau:
    """Whether the last trials have left the hypervolume of the frontier where it was.

    All trials are measured against one reference point, a little worse than the worst of the frontier, at the time of
    asking: a point that was fixed at the start would have to be known before anything was measured.

    Args:
        rule: how many trials, and how much counts as a gain.
        objectives: ``payload_bytes`` and ``task.metric``.
        directions: of each metric.
    """

    def __init__(
        self, rule: HypervolumeStop, objectives: Sequence[str], directions: Mapping[str, Mapping[str, str]]
    ) -> None:
        self._rule = rule
        self._objectives = tuple(objectives)
        self._directions: list[Direction] = [
            "max" if name in directions and directions[name]["direction"] == "max" else "min" for name in objectives
        ]
        self._points: list[list[float]] = []
        self._known = 0

    @property
    def reason(self) -> str:
        """What to say of it."""
        return f"stop.hypervolume: no better for {counted(self._rule.trials, 'trial')}"

    def know(self, result: TrialResult) -> None:
        """Take note of a trial of an earlier run: a gain is one over it, but it is none of the trials without a gain."""
        self._points.append(self._point(result))
        self._known += 1

    def reached(self, result: TrialResult) -> bool:
        """Take note of a trial that ended, and say whether it is time to stop. Failures are trials without a gain."""
        self._points.append(self._point(result))
        if len(self._points) - self._known < self._rule.trials or len(self._points) == self._rule.trials:
            return False
        points = np.array(self._points)
        reference = reference_point(points, self._directions)
        now = hypervolume(points, self._directions, reference)
        before = hypervolume(points[: -self._rule.trials], self._directions, reference)
        return now <= before * (1 + self._rule.gain)

    def _point(self, result: TrialResult) -> list[float]:
        values = {f"{score['task']}.{score['metric']}": score["value"] for score in result.scores}
        values["payload_bytes"] = result.row.get("payload_bytes")
        ok = result.row["status"] == "ok"
        return [float(values[name]) if ok and values.get(name) is not None else np.nan for name in self._objectives]
