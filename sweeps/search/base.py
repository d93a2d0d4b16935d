"""What a search strategy is, and what decides during a fit whether it goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol

from quantizers import FitStep
from sweeps.spec.space import Planned

# (trial key, what its fit reports, seconds since the fit began) -> why the trial is stopped now, or None: it goes on.
Judge = Callable[[str, FitStep, float], str | None]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a configuration: means over its seeds.

    Attributes:
        values: the metrics that are optimized; NaN where there is none.
        payload_bytes: as measured, or else as predicted.
        seconds: that all its trials took together.
        stopped: whether a trial was stopped early.
        violations: by constraint, how far it is beyond the limit; above 0 where it breaks it.
    """

    values: tuple[float, ...]
    payload_bytes: float
    seconds: float
    stopped: bool = False
    violations: Mapping[str, float] = dataclasses.field(default_factory=dict)


class Strategy(Protocol):
    """Chooses configurations.

    Attributes:
        refused: what was chosen and is not run, with status and reason.
    """

    refused: list[tuple[Planned, str, str]]

    def ask(self) -> Planned | None:
        """The next configuration, never the same twice; None: there is none left."""

    def take(self, planned: Planned) -> None:
        """``planned`` runs without having been asked for."""

    def tell(self, planned: Planned, outcome: Outcome) -> None:
        """What came of ``planned``."""

    def judge(self, planned: Planned, step: FitStep, seconds: float) -> str | None:
        """Why the trial of ``planned`` is stopped now, ``seconds`` after its fit began, or None: it goes on."""
