"""A look at a sweep before its end: what its files hold then, at what cost, and what is said of a run that is incomplete."""

import datetime
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import Result

import sweeps.driver
from analysis import store
from analysis.runs import incomplete, load
from quantizers.errors import InputError
from sweeps.record.cleanup import referred_to
from sweeps.record.intake import Intake
from sweeps.record.ledger import Ledger
from sweeps.record.snapshot import Snapshots
from sweeps.spec.config import SweepConfig, build
from sweeps.spec.prepare import Prepared, prepare
from sweeps.storage.layout import artifact_name
from trainables import trial
from trainables.records import TrialResult, TrialSpec

TRIALS = 5


def config_in(folder: Path, **changes: Any) -> SweepConfig:
    entry = {"method": "pq", "num_codebooks": [1, 2], "codebook_size": 4}
    keys = {"name": "s", "table": str(folder / "t.npy"), "quantizers": [entry], "seeds": [0, 1], "tracking": False}
    return build({**keys, "output": str(folder), **changes})


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, dict[str, TrialResult], Path]:
    """Five trials of a small table, measured in this process."""
    folder = tmp_path_factory.mktemp("measured")
    np.save(folder / "t.npy", np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32))
    prepared = prepare(config_in(folder), None)
    ledger = Ledger(folder / "ledger")

    def measured(spec: TrialSpec) -> TrialResult:
        def path(role: str | None) -> Path:
            return folder / artifact_name(spec.key, role)

        about: dict[str, Any] = {"weights": None, "once": ledger.once, "device": torch.device("cpu")}
        return trial.run(spec, prepared.table, prepared.tasks, artifact_path=path, report=lambda step: None, **about)

    return prepared, {spec.key: measured(spec) for spec in prepared.plan.trials}, folder


class Later:
    """A clock that is a day later whenever a test says so."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def end(self, snapshots: Snapshots, result: TrialResult) -> None:
        """A trial ends, a day after the last."""
        self.seconds += 86_400
        snapshots.ended(result)
        snapshots.tick()


def snapshots_of(prepared: Prepared, known: Mapping[str, TrialResult], clock: Callable[[], float]) -> Snapshots:
    started = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    prepared.config.run_dir.mkdir(exist_ok=True)
    return Snapshots(
        prepared, lambda: known, lambda: prepared.plan, TRIALS, started=started, command="frontier run s.yaml", clock=clock
    )


@pytest.fixture
def fresh(results: tuple[Prepared, dict[str, TrialResult], Path]) -> tuple[Prepared, dict[str, TrialResult]]:
    """The same without a run's folder."""
    prepared, measured, folder = results
    shutil.rmtree(folder / "s", ignore_errors=True)
    return prepared, measured


def test_snapshots_cost_a_hundredth_of_the_time_and_come_ten_seconds_apart(
    fresh: tuple[Prepared, dict[str, TrialResult]], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, measured = fresh
    now, cost, written = [0.0], [0.05], []

    def write(*_: object) -> None:
        written.append(now[0])
        now[0] += cost[0]

    monkeypatch.setattr(Snapshots, "_write_files", write)
    snapshots = snapshots_of(prepared, measured, lambda: now[0])
    one = next(iter(measured.values()))
    snapshots.tick()
    assert written == []  # no trial has ended
    for _ in range(1000):  # a trial a second
        now[0] += 1
        snapshots.ended(one)
        snapshots.tick()
    assert len(written) == pytest.approx(100, abs=10) and min(np.diff(written)) >= 10
    cost[0], before = 3.0, len(written)
    for _ in range(10_000):
        now[0] += 1
        snapshots.ended(one)
        snapshots.tick()
    late = len(written) - before
    assert 25 <= late <= 36 and late * 3.0 + before * 0.05 <= 0.011 * now[0]


def test_a_snapshot_is_what_the_end_would_have_written_of_these_trials(
    fresh: tuple[Prepared, dict[str, TrialResult]],
) -> None:
    prepared, measured = fresh
    known: dict[str, TrialResult] = {}
    snapshots = snapshots_of(prepared, known, later := Later())
    for number, (key, result) in enumerate(measured.items(), 1):
        known[key] = result
        later.end(snapshots, result)
        run_dir = prepared.config.run_dir
        assert store.read_trials(run_dir)["trial_key"].to_pylist() == list(known)
        scores = store.read_scores(run_dir)
        assert scores.num_rows == sum(len(one.scores) for one in known.values())
        assert set(scores["trial_key"].to_pylist()) == set(known)
        missing = incomplete(run_dir, "running")
        assert (
            str(missing) == f"Incomplete: the sweep is running, {number} of 5 trials {'is' if number == 1 else 'are'} here."
        )
    whole = load([prepared.config.run_dir])
    assert (
        str(whole.incomplete[0])
        == "Incomplete: the sweep has not ended, 5 of 5 trials are here; frontier resume continues it."
    )
    assert whole.frontier.num_rows and not store.has_ended(prepared.config.run_dir)


def test_what_an_earlier_run_measured_stays_until_it_is_there_again(fresh: tuple[Prepared, dict[str, TrialResult]]) -> None:
    prepared, measured = fresh
    clock = Later()
    first = snapshots_of(prepared, dict(list(measured.items())[:3]), clock)
    one = next(iter(measured.values()))
    clock.end(first, one)
    known: dict[str, TrialResult] = {}
    again = snapshots_of(prepared, known, clock)  # without a ledger all of them run again
    held = []
    for key, result in reversed(measured.items()):
        known[key] = result
        clock.end(again, result)
        held.append(store.read_trials(prepared.config.run_dir).num_rows)
    assert held == [3, 3, 3, 3, 5]


def test_a_kill_between_two_files_leaves_a_run_that_is_read_or_one_line(
    fresh: tuple[Prepared, dict[str, TrialResult]], frontier: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, measured = fresh
    run_dir, honest = prepared.config.run_dir, store.write_bytes
    known: dict[str, TrialResult] = {}
    snapshots = snapshots_of(prepared, known, later := Later())
    (run_dir / "sweep.yaml").write_text(prepared.config.to_yaml())
    told = []
    for upto, (key, result) in zip((0, 1, 2, 3, 4, 1, 2, 3), [*measured.items(), *measured.items()], strict=False):
        left = [upto]

        def write(path: Path, content: bytes, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            honest(path, content)

        known[key] = result
        with monkeypatch.context() as patch:
            patch.setattr(store, "write_bytes", write)
            try:
                later.end(snapshots, result)
            except KeyboardInterrupt:
                assert upto < 4
        done = frontier("recommend", run_dir)
        told.append(done.exit_code)
        assert len(done.stderr.strip().splitlines()) == (done.exit_code == 2), done.output
        assert done.exit_code == 0 or "frontier resume" in done.stderr
        if done.exit_code == 0:
            assert "Incomplete: the sweep has not ended" in done.stdout and "Next: frontier export" in done.stdout
            assert load([run_dir]).trials.num_rows
    assert told == [2, 2, 2, 2, 0, 0, 0, 0]


def test_a_run_that_is_kept_elsewhere_is_sent_each_snapshot_once(
    fresh: tuple[Prepared, dict[str, TrialResult]], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, measured = fresh
    sent: list[list[str]] = []
    monkeypatch.setattr("sweeps.record.snapshot.mirror.push", lambda config, names: sent.append(list(names)))
    snapshots = snapshots_of(prepared, measured, later := Later())
    snapshots.send()
    later.end(snapshots, next(iter(measured.values())))
    snapshots.send()
    snapshots.send()
    files = ["run.json", "scores.parquet", "trials.parquet", "frontier.parquet"]
    assert sent == [["status.json"], [*files, "status.json"], ["status.json"]]


def test_a_snapshot_that_cannot_be_written_ends_no_sweep(
    fresh: tuple[Prepared, dict[str, TrialResult]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prepared, measured = fresh

    def full(*_: object) -> None:
        raise InputError("run.json: cannot be written: No space left on device.")

    monkeypatch.setattr(store, "write_bytes", full)
    snapshots = snapshots_of(prepared, measured, later := Later())
    for result in measured.values():
        later.end(snapshots, result)
    assert caplog.text.count("No space left on device") == 1


def test_a_sweep_is_looked_at_while_it_runs_and_after_it_was_stopped(
    results: tuple[Prepared, dict[str, TrialResult], Path],
    tmp_path: Path,
    frontier: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, measured, folder = results
    shutil.copy(folder / "t.npy", tmp_path)
    config = config_in(tmp_path)
    run_dir, said = config.run_dir, []

    def run_trials(prepared: Prepared, intake: Intake, ledger: Ledger, *_: object) -> None:
        for name in ("recommend", "report"):
            said.append(frontier(name, run_dir))
        for _ in range(3):
            spec = intake.next_trial()
            assert spec is not None
            intake.begin(spec)
            for file in (folder / "artifacts").glob(f"{spec.key}*"):
                (run_dir / "artifacts").mkdir(exist_ok=True)
                shutil.copy(file, run_dir / "artifacts")
            intake.take(spec, measured[spec.key])
            intake.tick()
        spec = intake.next_trial()
        assert spec is not None
        intake.begin(spec)
        said.append(frontier("recommend", run_dir))
        said.append(frontier("recommend", run_dir, "--json"))
        said.append(frontier("report", run_dir))
        said.append(frontier("export", run_dir, "--max-drop", "1000", "-o", tmp_path / "small.safetensors"))
        raise KeyboardInterrupt

    monkeypatch.setattr("sweeps.driver.engine.run_trials", run_trials)
    monkeypatch.setattr("sweeps.record.snapshot._LEAST_SECONDS", 0.0)
    monkeypatch.setattr("sweeps.record.snapshot._SHARE", 1e9)
    with pytest.raises(KeyboardInterrupt):
        sweeps.driver.run(config)
    early, page, pick, as_json, report, export = said
    assert early.exit_code == page.exit_code == 2 and "once its first trial has ended" in early.stderr
    running = "Incomplete: the sweep is running, 3 of 5 trials are here."
    assert pick.exit_code == 0 and running in pick.stdout and "Pick: pq" in pick.stdout, pick.output
    assert json.loads(as_json.stdout)["incomplete"] == {"how": "running", "ended": 3, "planned": 5}
    assert report.exit_code == 0 and running in report.stdout, report.output
    assert export.exit_code == 0 and running in export.stdout and (tmp_path / "small.safetensors").is_file(), export.output

    stopped = frontier("report", run_dir)
    assert "Incomplete: the sweep was stopped, 3 of 5 trials are here; frontier resume continues it." in stopped.stdout
    page_text = (run_dir / "report.html").read_text()
    assert ">incomplete</span> s: the sweep was stopped, 3 of 5 trials are here; <code>frontier resume</code>" in page_text
    state = json.loads((run_dir / "status.json").read_text())
    process, _, *where = state["process"].split(" ")
    del state["digest"]
    (run_dir / "status.json").write_text(
        json.dumps({**state, "phase": "running", "process": " ".join([process, "1", *where])})
    )
    assert "the sweep was killed, 3 of 5 trials are here" in frontier("recommend", run_dir).stdout
    with pytest.raises(InputError, match="has not ended"):
        referred_to([run_dir])
