"""The intake, driven by hand: a trial ends once, everybody is told, a source is never asked while it learns."""

from pathlib import Path
from typing import Any

from quantizers import FitStep
from sweeps.record.intake import Intake, Listed, Observer
from sweeps.record.ledger import Ledger
from sweeps.spec.config import build
from trainables.records import TrialResult, TrialSpec, blank_row

TABLE = ("t", 10, 4)


def spec(seed: int) -> TrialSpec:
    return TrialSpec("cast", {"dtype": "float16"}, None, seed, "pretrained", "none", "table", "", (), "code")


def result(seed: int, status: str = "ok") -> TrialResult:
    return TrialResult(
        blank_row(spec(seed), TABLE, status=status, reason=None if status == "ok" else "planted"), curves=[{}]
    )


class Told(Observer):
    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def started(self, spec: TrialSpec) -> None:
        self.events.append(("started", spec.seed))

    def stepped(self, spec: TrialSpec, step: FitStep) -> None:
        self.events.append(("stepped", step.fraction))

    def set_aside(self, spec: TrialSpec) -> None:
        self.events.append(("set aside", spec.seed))

    def ended(self, result: TrialResult) -> None:
        self.events.append(("ended", result.row["seed"]))


def intake_of(folder: Path, source: Any = None, trials: int = 3, **keys: Any) -> tuple[Intake, Told, Ledger]:
    config = build({"name": "s", "table": "t", "quantizers": ["pq"], "keep_artifacts": "none", **keys})
    told, ledger = Told(), Ledger(folder / "ledger")
    intake = Intake(config, TABLE, ledger=ledger, observers=[told])
    intake.draw_from(source or Listed(spec(seed) for seed in range(trials)))
    return intake, told, ledger


def test_a_trial_ends_once_whatever_arrives_after(tmp_path: Path) -> None:
    intake, told, _ = intake_of(tmp_path)
    one = intake.next_trial()
    assert one is not None
    intake.begin(one)
    assert intake.report(one, FitStep("fit", 0.5), 1.0) is None
    assert not intake.take(one, result(0))
    assert not intake.take(one, result(0, "failed")) and not intake.lose(one, "late", again=True)
    assert intake.report(one, FitStep("fit", 0.6), 1.0) is None
    assert told.events == [("started", 0), ("stepped", 0.5), ("ended", 0)]
    assert intake.results[one.key].row["status"] == "ok"


def test_curves_are_not_kept(tmp_path: Path) -> None:
    intake, _, _ = intake_of(tmp_path)
    one = intake.next_trial()
    assert one is not None
    handed_in = result(0)
    intake.take(one, handed_in)
    assert intake.results[one.key].curves == [] and handed_in.curves == [{}]


def test_known_trials_are_passed_over_and_told(tmp_path: Path) -> None:
    intake, told, ledger = intake_of(tmp_path)
    for seed in (0, 1):
        ledger.put(spec(seed).key, result(seed))
    one = intake.next_trial()
    assert one == spec(2) and intake.next_trial() is None and intake.stop_reason is None
    assert told.events == [("ended", 0), ("ended", 1)] and intake.reused == 2


def test_a_source_learns_after_it_was_asked_and_never_within(tmp_path: Path) -> None:
    class Source:
        asked = False

        def __init__(self) -> None:
            self.left, self.learned = list(range(3)), 0

        def next_trial(self) -> TrialSpec | None:
            self.asked = True
            try:
                return spec(self.left.pop(0)) if self.left else None
            finally:
                self.asked = False

        def learn(self, result: TrialResult) -> None:
            assert not self.asked
            self.learned += 1

    source = Source()
    intake, _, ledger = intake_of(tmp_path, source)
    for seed in range(3):
        ledger.put(spec(seed).key, result(seed))
    assert not intake.has_more() and source.learned == 3


def test_no_more_than_so_many_trials(tmp_path: Path) -> None:
    intake, _, _ = intake_of(tmp_path, stop={"trials": 2})
    assert intake.next_trial() is not None and intake.next_trial() is not None
    assert intake.next_trial() is None and intake.stop_reason == "stop.trials: 2 were run"
    whole, _, _ = intake_of(tmp_path, stop={"trials": 3})
    assert all(whole.next_trial() is not None for _ in range(3))
    assert whole.next_trial() is None and whole.stop_reason is None


def test_after_a_stop_nothing_is_handed_out_and_nothing_runs_again(tmp_path: Path) -> None:
    intake, told, _ = intake_of(tmp_path)
    one = intake.next_trial()
    assert one is not None
    intake.stop("first")
    intake.stop("second")
    assert intake.next_trial() is None and intake.stop_reason == "first"
    assert not intake.lose(one, "worker lost", again=True)
    assert told.events == [("ended", 0)] and intake.results[one.key].row["reason"] == "worker lost"
