"""Optuna's samplers over a sweep's space: a tree of choices, the quantizer first, then what that quantizer has to set.

Every configuration is tried once: a sampler that comes back to a known one is asked again, and after that gets one that it
has not seen. A configuration that came to nothing (an exception, NaN) is told as failed, since a NaN would stay unfinished
in the study for ever. Constraints go into the study, also those of configurations that are too large to be run at all.
"""

from __future__ import annotations

import itertools
import math
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from analysis.pareto import Direction
from quantizers import FitStep, QuantizerConfig
from sweeps.search.base import Outcome
from sweeps.spec.draws import draw
from sweeps.spec.space import Entry, Planned, Range, Space

_TRIES = 10  # until a sampler that proposes known configurations is given another
_BLIND_TRIES = 1000  # until ranges count as exhausted
_ENTRY = "quantizer"


class OptunaSearch:
    """Asks an Optuna sampler.

    Args:
        space: what may be run.
        directions: of the payload and the metrics that are optimized.
        sampler: "tpe", "nsga2" or "gp".
        seed: of the sampler.
    """

    def __init__(self, space: Space, directions: Sequence[Direction], sampler: str, seed: int) -> None:
        self._space = space
        self._chance = random.Random(seed)
        self._entries = {entry.label: entry for entry in space.entries}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        modes = [StudyDirection.MINIMIZE if direction == "min" else StudyDirection.MAXIMIZE for direction in directions]
        self._study = optuna.create_study(directions=modes, sampler=_sampler(sampler, seed))
        self._listed = {key: place for entry in space.entries for key, place in _places(entry).items()}
        self._left = dict(self._listed)
        self._open: dict[tuple[str, QuantizerConfig], optuna.Trial] = {}
        self._known: set[tuple[str, QuantizerConfig]] = set()
        self.refused: list[tuple[Planned, str, str]] = []

    def ask(self) -> Planned | None:
        """See :meth:`sweeps.search.adaptive.Strategy.ask`."""
        for _ in range(_TRIES if self._left or self._space.ranged else 0):
            trial = self._study.ask()
            planned = self._suggested(trial)
            if planned is not None and (planned.method, planned.config) not in self._known:
                if (refusal := self._space.refusal(planned)) is None:
                    self._take(planned, trial)
                    return planned
                self._refuse(planned, refusal, trial)
            else:
                self._study.tell(trial, state=TrialState.FAIL)
        return self._unseen()

    def _unseen(self) -> Planned | None:
        """A configuration that was not tried yet, drawn blindly; None where none was found."""
        ranged = [entry for entry in self._space.entries if entry.ranged]
        for _ in range(_BLIND_TRIES if ranged else 0):
            entry = self._chance.choice(ranged)
            planned = self._space.at(entry, draw(entry, self._chance))
            if planned is not None and (planned.method, planned.config) not in self._known:
                if self._space.refusal(planned) is None:
                    self.take(planned)
                    return planned
        if not self._left:
            return None
        method, config = self._chance.choice(list(self._left))
        label = self._left[method, config][0]
        planned = next(one for one in self._entries[label].configurations if one.config == config)
        self.take(planned)
        return planned

    def take(self, planned: Planned) -> None:
        """See :meth:`sweeps.search.adaptive.Strategy.take`."""
        place = self._listed.get((planned.method, planned.config)) or self._place_in_ranges(planned)
        if place is None:
            return
        label, values = place
        self._study.enqueue_trial({_ENTRY: label} | {f"{label}.{name}": value for name, value in values.items()})
        trial = self._study.ask()
        self._suggested(trial)
        self._take(planned, trial)

    def tell(self, planned: Planned, outcome: Outcome) -> None:
        """See :meth:`sweeps.search.adaptive.Strategy.tell`."""
        trial = self._open.pop((planned.method, planned.config), None)
        if trial is None:
            return
        values = (float(outcome.payload_bytes), *outcome.values)
        if not all(math.isfinite(value) for value in values):
            self._study.tell(trial, state=TrialState.FAIL)
            return
        for name, beyond in outcome.violations.items():
            trial.set_constraint(name, min(beyond, 1e300))
        self._study.tell(trial, values)

    def judge(self, planned: Planned, step: FitStep, seconds: float) -> None:
        """Samplers look at whole trials only."""

    def _take(self, planned: Planned, trial: optuna.Trial) -> None:
        key = (planned.method, planned.config)
        self._open[key] = trial
        self._known.add(key)
        self._left.pop(key, None)

    def _refuse(self, planned: Planned, refusal: tuple[str, str], trial: optuna.Trial) -> None:
        """Keep what is not run; where it is the size, the sampler learns it (the other values count for nothing)."""
        self._known.add((planned.method, planned.config))
        self.refused.append((planned, *refusal))
        if refusal[0] != "infeasible":
            self._study.tell(trial, state=TrialState.FAIL)
            return
        for name, beyond in self._space.size_violations(planned.predicted_bytes).items():
            trial.set_constraint(name, beyond)
        self._study.tell(trial, [float(planned.predicted_bytes)] + [0.0] * (len(self._study.directions) - 1))

    def _suggested(self, trial: optuna.Trial) -> Planned | None:
        """The configuration at what the sampler suggests for each choice; None where that is not in the space."""
        entry = self._entries[trial.suggest_categorical(_ENTRY, list(self._entries))]
        values = {name: _suggest(trial, f"{entry.label}.{name}", axis) for name, axis in entry.axes.items()}
        return self._space.at(entry, values)

    def _place_in_ranges(self, planned: Planned) -> tuple[str, dict[str, Any]] | None:
        """Entry and values of a configuration that an earlier run drew."""
        for entry in self._space.entries:
            if entry.ranged and entry.method == planned.method:
                values = {name: getattr(planned.config, name) for name in entry.axes}
                suggested = {name: _position(axis, values[name]) for name, axis in entry.axes.items()}
                if None not in suggested.values() and entry.configuration(values) == planned.config:
                    return entry.label, suggested
        return None


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            # In groups: the parameters of one quantizer are drawn together, those of another do not matter to them.
            return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)
        if name == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed)
        return optuna.samplers.GPSampler(seed=seed)


def _ordered(axis: tuple[Any, ...]) -> bool:
    numbers = [value for value in axis if isinstance(value, int | float) and not isinstance(value, bool)]
    return len(axis) > 2 and len(numbers) == len(axis) and list(axis) == sorted(axis)


def _suggest(trial: optuna.Trial, name: str, axis: Range | tuple[Any, ...]) -> Any:
    """A value of ``axis``; choices are suggested by their number, as an order where they are rising numbers."""
    if isinstance(axis, Range):
        if axis.whole:
            return trial.suggest_int(name, int(axis.low), int(axis.high), log=axis.log)
        return trial.suggest_float(name, axis.low, axis.high, log=axis.log)
    if _ordered(axis):
        return axis[trial.suggest_int(name, 0, len(axis) - 1)]
    return axis[trial.suggest_categorical(name, list(range(len(axis))))]


def _position(axis: Range | tuple[Any, ...], value: Any) -> Any:
    """What :func:`_suggest` suggests for ``value``, or None where it is not on the axis."""
    if isinstance(axis, Range):
        return value if axis.low <= value <= axis.high else None
    found = [number for number, one in enumerate(axis) if one == value or (isinstance(one, list) and tuple(one) == value)]
    return found[0] if found else None


def _places(entry: Entry) -> Mapping[tuple[str, QuantizerConfig], tuple[str, dict[str, Any]]]:
    """Where each configuration that is listed stands: the entry's label, and what is suggested for each axis."""
    if entry.ranged:
        return {}
    known = {one.config for one in entry.configurations}
    axes: dict[str, tuple[Any, ...]] = {name: axis for name, axis in entry.axes.items() if isinstance(axis, tuple)}
    places = {}
    for numbers in itertools.product(*(range(len(axis)) for axis in axes.values())):
        config = entry.configuration(
            {name: axis[number] for (name, axis), number in zip(axes.items(), numbers, strict=True)}
        )
        if config in known:
            places[entry.method, config] = (entry.label, dict(zip(axes, numbers, strict=True)))
    return places
