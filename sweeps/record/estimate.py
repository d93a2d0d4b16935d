"""How long trials took before, and so how long a sweep will take."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence

from sweeps.record.ledger import Ledger
from trainables.trial import TrialResult, TrialSpec


class History:
    """Seconds of finished trials by method and size of the table.

    Args:
        results: finished trials, of any sweep.
    """

    def __init__(self, results: Iterable[TrialResult]) -> None:
        self._seconds: dict[str, dict[tuple[int, int], list[float]]] = {}
        for result in results:
            row = result.row
            method, shape = row.get("quantizer"), (row.get("num_embeddings"), row.get("embedding_dim"))
            if row["status"] == "ok" and result.seconds is not None and method and shape[0] and shape[1]:
                self._seconds.setdefault(method, collections.defaultdict(list))[shape[0], shape[1]].append(result.seconds)

    def seconds(self, method: str, shape: tuple[int, int]) -> float | None:
        """Expected seconds of a trial: the mean for this size, else that of the nearest, in proportion; None: not known."""
        sizes = self._seconds.get(method)
        if not sizes:
            return None
        values = shape[0] * shape[1]
        near = min(sizes, key=lambda size: (size != shape, abs(size[0] * size[1] - values)))
        return sum(sizes[near]) / len(sizes[near]) * values / (near[0] * near[1])


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a sweep has before it.

    Attributes:
        known: trials that the ledger has.
        seconds: of the others, one after the other, as far as their methods ran before.
        unknown: methods that never ran.
    """

    known: int
    seconds: float
    unknown: tuple[str, ...]


def estimate(ledger: Ledger | None, trials: Sequence[TrialSpec], shape: tuple[int, int]) -> Estimate:
    """What is left of ``trials``, judged by all that the ledger holds."""
    results = {} if ledger is None else {result.row["trial_key"]: result for result in ledger.results()}
    history = History(results.values())
    todo = [spec for spec in trials if spec.key not in results]
    times = {method: history.seconds(method, shape) for method in dict.fromkeys(spec.method for spec in todo)}
    seconds = sum(times[spec.method] or 0.0 for spec in todo)
    known = sum(spec.key in results for spec in trials)
    return Estimate(known, seconds, tuple(method for method, time in times.items() if time is None))
