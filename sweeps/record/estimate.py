"""How long trials took before, and so how long a sweep will take: before it begins, and while it is under way."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from sweeps.record.ledger import Ledger
from trainables.trial import TrialResult, TrialSpec

# What a fit takes that is cut from a larger one, as a share of a whole fit: 3 to 7 % in docs/results/glove100.
_CUT_SHARE = 0.05
_LEAST_FRACTION = 0.05  # of a fit, between two reports: less of it says little of how long it takes
_TELLING = 5  # trials after which the share of the slots that was in use says something
_LEAST_USE = 0.1
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

    @property
    def work(self) -> float:
        """What the seconds are taken to grow with, within a method.

        The seconds of most methods grow with the payload, by less than in proportion: the table is read whatever its size.
        """
        return math.sqrt(max(1, self.size))


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


def one_of_each_first(trials: Iterable[TrialSpec]) -> list[TrialSpec]:
    """The same trials, each method's first before all others.

    So a sweep that has just begun knows how long each method takes, and has something of each to show.
    """
    seen: set[str] = set()
    first: list[TrialSpec] = []
    others: list[TrialSpec] = []
    for spec in trials:
        (others if spec.method in seen else first).append(spec)
        seen.add(spec.method)
    return first + others


@dataclasses.dataclass
class Sum:
    """Trials of one kind: how many, their seconds, their work."""

    count: int = 0
    seconds: float = 0.0
    work: float = 0.0

    def add(self, job: Job, seconds: float = 0.0, sign: int = 1) -> None:
        """Count a trial, or with the sign -1 count it no more."""
        self.count += sign
        self.seconds += sign * seconds
        self.work += sign * job.work


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

    A trial takes what those of its method take, by the root of its payload; where none has run, the median of what the
    methods take that have. Trials of the ledger and trials that failed do not count: they say nothing of those to come.

    Args:
        planned: the trials by key, in a sweep whose trials are known before.
    """

    def __init__(self, planned: Mapping[str, Job]) -> None:
        self._jobs = dict(planned)
        self._ran: dict[tuple[str, bool], Sum] = collections.defaultdict(Sum)
        self._left: dict[tuple[str, bool], Sum] = collections.defaultdict(Sum)
        for job in self._jobs.values():
            self._left[job.method, job.cut].add(job)
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
            self._left[job.method, job.cut].add(job, sign=-1)

    def left_again(self, key: str) -> None:
        """A trial that had begun was lost, and will run again."""
        if (job := self._jobs.get(key)) is not None:
            self._left[job.method, job.cut].add(job)

    def ended(self, key: str, row: Mapping[str, object], seconds: float) -> None:
        """A trial that ran has ended after ``seconds``."""
        self._ends, self._busy = self._ends + 1, self._busy + seconds
        if row["status"] == "failed":
            return
        method, cut = str(row["quantizer"]), bool(row.get("shared_fit"))
        job = self._jobs.get(key) or Job(method, cut, 1)
        self._ran[method, cut].add(job, seconds)

    def seconds(self, running: Sequence[Running], slots: int, others: int = 0) -> float | None:
        """Expected seconds until all have ended; None: nothing is known yet.

        Args:
            running: the trials that run now.
            slots: how many run at a time.
            others: how many are left beside those that were planned: a search chooses them.
        """
        known = {kind: dataclasses.replace(one) for kind, one in self._ran.items()}
        jobs = [self._jobs.get(one.key) or Job(one.method, False, 1) for one in running]
        for one, job in zip(running, jobs, strict=True):
            if one.projected is not None:
                known.setdefault((job.method, job.cut), Sum()).add(job, one.projected)
        if not known:
            return None
        rates = {kind: one.seconds / one.work for kind, one in known.items()}
        fits = [rate for (method, cut), rate in rates.items() if method != "identity" and not cut]
        typical = statistics.median(fits or rates.values())
        baseline = known.get(("identity", False), Sum())  # it fits nothing, and is measured as all are
        least = baseline.seconds / max(1, baseline.count)

        def expected(method: str, cut: bool, count: int, work: float) -> float:
            if (one := known.get((method, cut))) is not None:
                return one.seconds * work / one.work
            return least * count + _CUT_SHARE * expected(method, False, count, work) if cut else typical * work

        totals = [
            one.projected or max(expected(job.method, job.cut, 1, job.work), _OVERDUE * one.seconds)
            for one, job in zip(running, jobs, strict=True)
        ]
        rest = [max(0.0, total - one.seconds) for one, total in zip(running, totals, strict=True)]
        left = sum(expected(*kind, one.count, one.work) for kind, one in self._left.items() if one.count)
        if others:
            left += others * sum(one.seconds for one in known.values()) / sum(one.count for one in known.values())
        count = len(running) + others + sum(one.count for one in self._left.values())
        used: float
        if self._ends >= _TELLING and self._capacity > 0:  # short trials leave slots empty while the next one is brought
            busy = self._busy + sum(one.seconds for one in running)
            used = max(_LEAST_USE, slots * min(1.0, busy / self._capacity))
        else:
            used = slots
        return max([(left + sum(rest)) / max(_LEAST_USE, min(used, count)), *rest])
