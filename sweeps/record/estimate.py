"""How long trials took before, and so how long a sweep will take: before it begins, and while it is under way."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from sweeps.record.ledger import Ledger
from trainables.trial import TrialResult, TrialSpec

# What a fit takes that is cut from a larger one, as a share of a whole fit: 3 to 7 % in docs/results/glove100.
_CUT_SHARE = 0.05
_LEAST_FRACTION = 0.05  # of a fit, between two reports: less of it says little of how long it takes
_TELLING = 5  # trials after which the share of the slots that was in use says something
_LEAST_USE = 0.1
_GROWTH = 0.5  # with the size of the payload, of methods of which one size has run
_PRIOR = 0.25  # how much that weighs beside sizes that have run: as much as a half and a whole of a size
_OVERDUE = 1.25  # what has run for longer than was expected goes on for a quarter of that


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


Kind: TypeAlias = tuple[str, bool]  # a method, and whether fits are cut from larger ones
Ran: TypeAlias = dict[int, tuple[int, float]]  # by bytes of the payload: how many trials, their seconds


@dataclasses.dataclass(frozen=True)
class Job:
    """What is known of a trial before it runs.

    Attributes:
        method: name of the quantizer.
        cut: whether its fit is cut from that of a larger configuration, which another trial makes.
        size: predicted bytes of the payload.
    """

    method: str
    cut: bool
    size: int


def jobs(trials: Iterable[TrialSpec], predicted_bytes: Mapping[str, int]) -> dict[str, Job]:
    """The trials of a plan by key.

    Args:
        trials: in the order in which they run.
        predicted_bytes: of their payloads, by key.
    """
    found: dict[str, Job] = {}
    made: set[tuple[str, int, str]] = set()
    for spec in trials:
        cut = False
        if spec.fit_with is not None:
            fit = spec.method, spec.seed, json.dumps(spec.fit_with, sort_keys=True, default=str)
            cut = fit in made
            made.add(fit)
        found[spec.key] = Job(spec.method, cut, predicted_bytes[spec.key])
    return found


def one_of_each_first(trials: Sequence[TrialSpec], predicted_bytes: Mapping[str, int]) -> list[TrialSpec]:
    """The same trials, one of each method before all others: one of middling size.

    So a sweep that has just begun knows how long each method takes, the larger and the smaller alike, and has something of
    each to show.
    """
    sizes: dict[str, list[tuple[int, int]]] = {}
    for place, spec in enumerate(trials):
        sizes.setdefault(spec.method, []).append((predicted_bytes[spec.key], place))
    places = [middle(found) for found in sizes.values()]
    return [trials[place] for place in places] + [spec for place, spec in enumerate(trials) if place not in places]


def middle(sizes: list[tuple[int, int]]) -> int:
    """Of (size, place), the first place with the median size."""
    median = statistics.median_low([size for size, _ in sizes])
    return next(place for size, place in sizes if size == median)


class Law:
    """How long trials of one kind take by the size of their payload: ``rate * size ** growth``.

    The growth of most methods is below one, since the table is read whatever its size. It is learned from
    the sizes that have run, beginning with a half.

    Args:
        ran: how many have run of each size, and their seconds in all.
    """

    def __init__(self, ran: Mapping[int, tuple[int, float]]) -> None:
        self.count = sum(count for count, _ in ran.values())
        self.total = sum(seconds for _, seconds in ran.values())
        points = [(math.log(size), math.log(max(seconds / count, 1e-3)), count) for size, (count, seconds) in ran.items()]
        x, y = (sum(count * point[axis] for *point, count in points) / self.count for axis in (0, 1))
        spread = sum(count * (at - x) ** 2 for at, _, count in points)
        slope = sum(count * (at - x) * (value - y) for at, value, count in points)
        self._growth: float = min(max((slope + _PRIOR * _GROWTH) / (spread + _PRIOR), 0.0), 1.5)
        self.rate: float = self.total / sum(count * size**self._growth for size, (count, _) in ran.items())

    def seconds(self, size: int) -> float:
        """Expected seconds of a trial."""
        return self.rate * math.pow(size, self._growth)


@dataclasses.dataclass(frozen=True)
class Running:
    """A trial that runs.

    Attributes:
        key: of the trial.
        method: name of the quantizer.
        seconds: since it began.
        phases: how many things it has done, that one counted: a fit, the training of a network.
        first: seconds since it began, and how far that thing was (0 to 1), at its first report.
        last: the same at its last report.
    """

    key: str
    method: str
    seconds: float
    phases: int
    first: tuple[float, float] = (0.0, 0.0)
    last: tuple[float, float] = (0.0, 0.0)

    @property
    def projected(self) -> float | None:
        """Its seconds from beginning to end, by how fast it goes between its reports; None where they say nothing.

        Not by how far it has come since it began: a worker that is new takes seconds to begin.
        """
        (began, from_), (now, to) = self.first, self.last
        if self.phases > 1 or to >= 1 or to - from_ < _LEAST_FRACTION:
            return None
        return now + (1 - to) * (now - began) / (to - from_)


class Remaining:
    """How long the trials that are left will take, by those that ran now and by how far those are that run.

    A trial takes what those of its method take, by the size of its payload (:class:`Law`); where none has run, a little
    more than those that have take on average: a few slow methods take most of a sweep's time. Trials of the ledger and
    failed trials do not count: they say nothing of those to come.

    Args:
        planned: the trials by key, in a sweep whose trials are known before.
    """

    def __init__(self, planned: Mapping[str, Job]) -> None:
        self._jobs = dict(planned)
        self._ran: dict[Kind, Ran] = collections.defaultdict(dict)
        self._left: dict[Kind, collections.Counter[int]] = collections.defaultdict(collections.Counter)
        for job in self._jobs.values():
            self._left[job.method, job.cut][job.size] += 1
        self._ends, self._busy, self._capacity = 0, 0.0, 0.0
        self._until: float | None = None

    def use(self, slots: int, now: float, *, begins: bool = False) -> None:
        """There were so many slots until ``now``, in seconds; it counts from when a trial first begins."""
        if self._until is not None:
            self._capacity += slots * (now - self._until)
        if self._until is not None or begins:
            self._until = now

    def no_longer_left(self, key: str) -> None:
        """The trial of ``key`` begins, or its result was found."""
        if (job := self._jobs.get(key)) is not None:
            self._left[job.method, job.cut][job.size] -= 1

    def left_again(self, key: str) -> None:
        """A trial that had begun was lost, and will run again."""
        if (job := self._jobs.get(key)) is not None:
            self._left[job.method, job.cut][job.size] += 1

    def ended(self, key: str, row: Mapping[str, object], seconds: float) -> None:
        """A trial that ran has ended after ``seconds``."""
        self._ends, self._busy = self._ends + 1, self._busy + seconds
        if row["status"] == "failed":
            return
        method, cut = str(row["quantizer"]), bool(row.get("shared_fit"))
        job = self._jobs.get(key) or Job(method, cut, 1)
        _add(self._ran[method, cut], job.size, seconds)

    def seconds(self, running: Sequence[Running], slots: int, others: int = 0) -> float | None:
        """Expected seconds until all have ended; None: nothing is known yet.

        Args:
            running: the trials that run now.
            slots: how many run at a time.
            others: how many are left beside those that were planned: a search chooses them.
        """
        ran = {kind: dict(sizes) for kind, sizes in self._ran.items()}
        jobs = [self._jobs.get(one.key) or Job(one.method, False, 1) for one in running]
        for one, job in zip(running, jobs, strict=True):
            if one.projected is not None:
                _add(ran.setdefault((job.method, job.cut), {}), job.size, one.projected)
        if not ran:
            return None
        laws = {kind: Law(sizes) for kind, sizes in ran.items()}
        fits = [law for (method, cut), law in laws.items() if method != "identity" and not cut] or list(laws.values())
        baseline = laws.get(("identity", False))  # it fits nothing, and is measured as all are
        least = 0.0 if baseline is None else baseline.total / baseline.count

        def expected(method: str, cut: bool, size: int) -> float:
            if (law := laws.get((method, cut))) is not None:
                return law.seconds(size)
            if cut:
                return least + _CUT_SHARE * expected(method, False, size)
            known = [law.seconds(size) for law in fits]
            return (max(known) + 3 * statistics.fmean(known)) / 4

        totals = [
            one.projected or max(expected(job.method, job.cut, job.size), _OVERDUE * one.seconds)
            for one, job in zip(running, jobs, strict=True)
        ]
        rest = [max(0.0, total - one.seconds) for one, total in zip(running, totals, strict=True)]
        sizes = [(kind, size, count) for kind, left in self._left.items() for size, count in left.items() if count]
        left = sum(count * expected(*kind, size) for kind, size, count in sizes)
        if others:
            left += others * sum(law.total for law in laws.values()) / sum(law.count for law in laws.values())
        count = len(running) + others + sum(count for *_, count in sizes)
        used: float
        if self._ends >= _TELLING and self._capacity > 0:  # short trials leave slots empty while the next one is brought
            busy = self._busy + sum(one.seconds for one in running)
            used = max(_LEAST_USE, slots * min(1.0, busy / self._capacity))
        else:
            used = slots
        return max([(left + sum(rest)) / max(_LEAST_USE, min(used, count)), *rest])


def _add(ran: Ran, size: int, seconds: float) -> None:
    count, before = ran.get(size, (0, 0.0))
    ran[size] = count + 1, before + seconds
