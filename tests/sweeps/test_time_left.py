"""How long a sweep still takes: replays of recorded sweeps, and what is said of it off a terminal."""

import dataclasses
import heapq
import io
import itertools
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from quantizers import FitStep
from sweeps.record import status
from sweeps.record.estimate import Job, Remaining, Running, jobs, middle, one_of_each_first
from sweeps.record.status import Progress
from trainables.records import TrialResult, TrialSpec, blank_row

ROOT = Path(__file__).parents[2]
OVERHEAD = 0.3  # seconds of a trial beside its fit
SLOTS = 2


def recorded(file: str) -> list[tuple[Job, float]]:
    """What a recorded sweep ran, one trial of each method before the others, with its seconds."""
    rows = [row for row in pq.read_table(ROOT / file).to_pylist() if row.get("status", "ok") == "ok"]
    timed = [
        (
            Job(row["quantizer"], bool(row.get("shared_fit")), row["payload_bytes"]),
            OVERHEAD + (row["seconds"] if "seconds" in row else row["fit_seconds"] + (row.get("train_seconds") or 0.0)),
        )
        for row in rows
    ]
    sizes: dict[str, list[tuple[int, int]]] = {}
    for place, (job, _) in enumerate(timed):
        sizes.setdefault(job.method, []).append((job.size, place))
    first = [middle(found) for found in sizes.values()]
    return [timed[place] for place in first] + [one for place, one in enumerate(timed) if place not in first]


@pytest.mark.parametrize(
    "file",
    [
        "docs/results/adacomp/adacomp-table2-sst5/trials.parquet",
        "docs/results/adacomp/adacomp-table2-conll2000/trials.parquet",
        "docs/results/adacomp/sst5-smallest/trials.parquet",
        "docs/results/glove100/trials.parquet",
        "benchmarks/grids/glove.parquet",
    ],
)
def test_the_time_left_is_right_within_a_factor_of_two_after_five_trials(file: str) -> None:
    trials = recorded(file)
    remaining = Remaining({str(number): job for number, (job, _) in enumerate(trials)})
    running: list[tuple[float, int, float]] = []  # until when, which, since when
    now, ended, told = 0.0, 0, []
    waiting = iter(range(len(trials)))
    while True:
        for number in itertools.islice(waiting, SLOTS - len(running)):
            remaining.no_longer_left(str(number))
            heapq.heappush(running, (now + trials[number][1], number, now))
        if not running:
            break
        now, number, _ = heapq.heappop(running)
        job, seconds = trials[number]
        remaining.ended(str(number), {"status": "ok", "quantizer": job.method, "shared_fit": job.cut}, seconds)
        ended += 1
        at_work = [
            Running(str(one), trials[one][0].method, now - since, 1, last=(now - since, (now - since) / (until - since)))
            for until, one, since in running
        ]
        told.append((ended, now, remaining.seconds(at_work, SLOTS)))
    for count, when, left in told:
        if count >= 5 and now - when > 0.1 * now:  # of the last tenth, a factor says little
            assert left is not None
            assert 0.5 <= left / (now - when) <= 2, (count, left, now - when)


def spec(seed: int) -> TrialSpec:
    return TrialSpec("cast", {"dtype": "float16"}, None, seed, "pretrained", "none", "table", "", (), "code")


def test_trials_that_failed_or_were_known_say_nothing_and_long_ones_count_by_how_far_they_are() -> None:
    remaining = Remaining({str(number): Job("pq", False, 100) for number in range(10)})
    for number in range(6):
        remaining.no_longer_left(str(number))  # of the ledger, or begun
    remaining.ended("4", {"status": "failed", "quantizer": "pq"}, 1000.0)
    assert remaining.seconds([], 2) is None
    far = Running("5", "pq", 30.0, 1, (6.0, 0.05), (30.0, 0.25))  # 120 s from beginning to end
    assert remaining.seconds([far], 2) == pytest.approx((90 + 4 * 120) / 2)
    remaining.ended("3", {"status": "ok", "quantizer": "pq"}, 60.0)
    assert remaining.seconds([far], 2) == pytest.approx((90 + 4 * 90) / 2)
    silent = Running("5", "pq", 30.0, 0)
    assert remaining.seconds([silent], 2) == pytest.approx((30 + 4 * 60) / 2)
    second_phase = Running("5", "pq", 30.0, 2, (6.0, 0.05), (30.0, 0.9))  # 90 % of what? It is known of fits alone
    assert remaining.seconds([second_phase], 2) == remaining.seconds([silent], 2)
    assert remaining.seconds([far], 100) == pytest.approx(90)  # no sooner than the longest that runs
    remaining.left_again("5")
    assert remaining.seconds([], 2) == pytest.approx(5 * 60 / 2)


def test_slots_that_stand_empty_between_short_trials_count() -> None:
    remaining = Remaining({str(number): Job("pq", False, 100) for number in range(20)})
    for number in range(10):  # 1 s each on one of two slots, and 1 s until the next begins
        remaining.use(2, 2.0 * number, begins=True)
        remaining.no_longer_left(str(number))
        remaining.ended(str(number), {"status": "ok", "quantizer": "pq"}, 1.0)
    remaining.use(2, 20.0)
    assert remaining.seconds([], 2) == pytest.approx(20)


def test_one_trial_of_each_method_runs_first_and_cut_fits_are_known() -> None:
    def nested(method: str, books: int, seed: int = 0) -> TrialSpec:
        largest = {"num_codebooks": 4, "codebook_size": 16}
        return dataclasses.replace(spec(seed), method=method, config={**largest, "num_codebooks": books}, fit_with=largest)

    trials = [spec(0), spec(1), nested("rq", 4), nested("rq", 2), nested("rq", 2, seed=1), nested("lsq", 2)]
    sizes = {one.key: 9 for one in trials}
    order = one_of_each_first(trials, sizes)
    assert [(one.method, one.seed) for one in order] == [
        ("cast", 0), ("rq", 0), ("lsq", 0), ("cast", 1), ("rq", 0), ("rq", 1)
    ]  # fmt: skip
    planned = jobs(order, sizes)
    assert [planned[one.key].cut for one in order] == [False, False, False, False, True, False]
    budgets = [dataclasses.replace(spec(0), method="pq", config={"num_codebooks": count}) for count in range(1, 6)]
    first, *_ = one_of_each_first(budgets, {one.key: one.config["num_codebooks"] for one in budgets})
    assert first.config["num_codebooks"] == 3  # tells as much of larger ones as of smaller ones


def test_off_a_terminal_lines_say_how_far_trials_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(status.time, "time", lambda: now[0])
    text = io.StringIO()
    trials = [spec(seed) for seed in range(6)]
    planned = jobs(trials, {one.key: 100 for one in trials})
    about: dict[str, Any] = {"name": "s", "total": 6, "skipped": 0, "objective": ("t.m", "max"), "planned": planned}
    with Progress(Console(file=text, width=60), tmp_path, **about) as progress:
        progress.say("s: starting Ray ...")
        progress.set_slots(2)
        progress.started(trials[0])
        progress.started(trials[1])
        for second in range(60):  # no trial ends
            now[0] += 1
            if second in (20, 22):
                progress.stepped(trials[0], FitStep("train", 0.4 if second == 20 else 0.5))
            progress.tick()
        now[0] += 20
        progress.ended(TrialResult(blank_row(trials[0], ("t", 10, 4), status="ok")))
    lines = text.getvalue().splitlines()
    assert lines.pop(0) == "s: starting Ray ..."
    assert lines[0] == "s: 0/6 trials, 1 running (cast seed 0: 0 s)"
    assert lines[1] == "s: 0/6 trials, 2 running (cast seed 0: 15 s; cast seed 1: 15 s)"
    assert lines[2].startswith("s: 0/6 trials, 2 running (cast seed 0: train 50%, 30 s; cast seed 1: 30 s), about")
    assert len(lines) == 6 and lines[-1].startswith("s: 1/6 trials, 1 running (cast seed 1: 1 min 20 s), about")
    with Progress(Console(file=text), tmp_path, **{**about, "total": 1}) as progress:
        progress.started(trials[0])
    assert "s: 0/1 trial, 1 running" in text.getvalue()
