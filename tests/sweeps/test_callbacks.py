"""What becomes of trials as Tune tells of them: rows, second chances, time-outs, the end by time or by a plateau."""

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import ray.cloudpickle
from ray.exceptions import ActorDiedError

from sweeps.record.status import Progress
from sweeps.search.moasha import Rungs
from sweeps.spec.config import build
from sweeps.tune import callbacks as module
from sweeps.tune.callbacks import Collector
from sweeps.tune.queue import Feed
from sweeps.tune.resources import Policy
from sweeps.tune.scheduler import EarlyStopping
from trainables.trial import TrialResult, TrialSpec, blank_row

TABLE = ("t", 10, 4)


def spec(seed: int) -> TrialSpec:
    return TrialSpec("cast", {"dtype": "float16"}, None, seed, "pretrained", "none", "table", "", (), "code")


class Sweep:
    """A collector, what it collects, and trials as Tune has them."""

    def __init__(self, folder: Path, **keys: Any) -> None:
        config = build({"name": "s", "table": "t", "quantizers": ["pq"], **keys})
        todo = iter([spec(seed) for seed in range(4)])
        policy = Policy(config.trial_resources, gpus=0, gpu_bytes=None)
        self.feed = Feed(lambda: next(todo, None), policy)
        self.results: list[TrialResult] = []
        self.stopped: dict[str, str] = {}
        self.ledger: dict[str, TrialResult] = {}
        self.folder = folder
        progress = Progress(None, folder, name="s", total=4, skipped=0, objective=("reconstruction.mse", "min"))
        self.collector = Collector(
            config, TABLE, feed=self.feed, policy=policy, progress=progress,
            add=self.results.append, known=lambda spec: self.ledger.get(spec.key),
            plateau=None, stopped=self.stopped,
        )  # fmt: skip

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [result.row for result in self.results]

    def start(self, name: str) -> Any:
        suggested = self.feed.suggest(name)
        assert isinstance(suggested, dict)
        state = types.SimpleNamespace(ray_actor=f"actor of {name}")
        file = self.folder / name
        trial = types.SimpleNamespace(
            trial_id=name, config=suggested, temporary_state=state, pickled_error_file=str(file), get_error=lambda: None
        )
        self.collector.on_trial_start(0, [], trial)
        return trial

    def step(self, trial: Any, fraction: float, value: float) -> None:
        report = {"phase": "train", "fraction": fraction, "value": value, "seconds": 3 * fraction, "metrics": "{}"}
        self.collector.on_trial_result(0, [], trial, report | {"result": None})

    def end(self, trial: Any, status: str = "ok", *, out_of_memory: bool = False) -> None:
        one = TrialSpec.from_json(trial.config["spec"])
        result = TrialResult(blank_row(one, TABLE, status=status, reason=None if status == "ok" else "planted"))
        report = {"result": json.dumps(result.to_json()), "out_of_memory": out_of_memory, "device_memory_bytes": 5}
        self.collector.on_trial_result(0, [], trial, report)
        self.feed.on_trial_complete(trial.trial_id)

    def lose(self, trial: Any, error: Exception | None = None) -> None:
        if error is not None:
            Path(trial.pickled_error_file).write_bytes(ray.cloudpickle.dumps(error))
        self.feed.on_trial_complete(trial.trial_id, error=True)
        self.collector.on_trial_error(0, [], trial)


def test_a_lost_trial_gets_one_more_chance_and_then_is_a_row(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    lost = sweep.start("a")
    sweep.lose(lost, ActorDiedError())
    assert sweep.rows == []
    for name in "bcd":
        sweep.end(sweep.start(name))
    again = sweep.start("e")
    assert again.config["spec"] == lost.config["spec"]
    sweep.lose(again, ActorDiedError())
    assert sweep.feed.suggest("f") == "FINISHED"
    assert [row["status"] for row in sweep.rows] == ["ok", "ok", "ok", "failed"]
    assert "worker lost" in sweep.rows[-1]["reason"] and "ran again, alone" in sweep.rows[-1]["reason"]


def test_a_trial_whose_last_report_was_lost_is_in_the_ledger(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    lost = sweep.start("a")
    one = TrialSpec.from_json(lost.config["spec"])
    sweep.ledger[one.key] = TrialResult(blank_row(one, TABLE, status="ok"))
    sweep.lose(lost, ActorDiedError())
    assert [(row["trial_key"], row["status"]) for row in sweep.rows] == [(one.key, "ok")]
    for name in "bcd":
        sweep.end(sweep.start(name))
    assert sweep.feed.suggest("e") == "FINISHED"


def test_a_worker_whose_reports_nobody_takes_ends() -> None:
    """The report hangs as it does where the connection is gone and the driver does not know."""
    code = (
        "import time; from ray import tune; from sweeps import worker\n"
        "tune.report = lambda message: time.sleep(message['seconds'])\n"
        "worker._UNHEARD_SECONDS = 1.0\n"
        "worker._tell({'seconds': 0}); time.sleep(1.5)\n"
        "print('heard', flush=True)\n"
        "worker._tell({'seconds': 30})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=25, check=False)
    assert done.returncode == 1 and done.stdout == "heard\n"
    assert "did not take a report" in done.stderr


def test_no_memory_gets_one_more_chance_and_an_exception_none(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    sweep.end(sweep.start("a"), "failed", out_of_memory=True)
    sweep.end(sweep.start("b"), "failed")
    assert [row["seed"] for row in sweep.rows] == [1]
    sweep.lose(sweep.start("c"), ValueError("what Tune made of it"))
    assert sweep.rows[-1]["reason"] == "ValueError: what Tune made of it"
    sweep.end(sweep.start("d"))
    sweep.end(sweep.start("e"))
    assert [(row["seed"], row["status"]) for row in sweep.rows][-1] == (0, "ok")


def test_a_trial_that_the_scheduler_stops_is_a_row_with_its_reason(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    stopper = Rungs(lambda key: 100)
    scheduler = EarlyStopping(sweep.feed, stopper)
    sweep.collector._stopped = scheduler.reasons
    decisions = []
    for name, error in (("a", 1.0), ("b", 2.0)):
        trial = sweep.start(name)
        for share in (0.05, 0.2):
            report = {
                "phase": "train",
                "fraction": share,
                "value": error,
                "seconds": 3 * share,
                "metrics": "{}",
                "result": None,
            }
            decisions.append(scheduler.on_trial_result(None, trial, report))
            sweep.collector.on_trial_result(0, [], trial, report)
        if name == "a":
            sweep.end(trial)
        sweep.feed.on_trial_complete(trial.trial_id)
    assert decisions == ["CONTINUE", "CONTINUE", "CONTINUE", "STOP"]
    assert [row["status"] for row in sweep.rows] == ["ok", "stopped"]
    assert sweep.rows[1]["reason"] == "moasha: 2 of 2 at 11% of 'train', the best 1 go on"
    assert sweep.rows[1]["fit_seconds"] == pytest.approx(0.6)


def test_the_curve_of_a_trial_that_went_on_from_a_checkpoint_has_every_step_once(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    lost = sweep.start("a")
    for fraction in (0.1, 0.2, 0.3, 0.4):
        sweep.step(lost, fraction, 1 - fraction)
    sweep.lose(lost, ActorDiedError())
    for name in "bcd":
        sweep.end(sweep.start(name))
    again = sweep.start("e")
    sweep.step(again, 0.25, 0.75)  # the checkpoint was at 0.2
    sweep.stopped[TrialSpec.from_json(again.config["spec"]).key] = "planted"
    sweep.step(again, 0.5, 0.5)
    assert sweep.rows[-1]["status"] == "stopped"
    assert [step["fraction"] for step in sweep.results[-1].curves] == [0.1, 0.2, 0.25, 0.5]


def test_max_failures_of_none(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, max_failures=0)
    sweep.lose(sweep.start("a"))
    assert [row["status"] for row in sweep.rows] == ["failed"] and "again" not in sweep.rows[0]["reason"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("The actor is dead because its node has died. Node Id: 1", "worker lost: its node is gone"),
        ("Task was killed due to the node running low on memory.", "out of memory: Ray ended its worker"),
        ("Worker exit detail: End of file. Some common causes include: memory", "worker lost: End of file."),
    ],
)
def test_why_a_worker_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str) -> None:
    sweep = Sweep(tmp_path, max_failures=0)
    monkeypatch.setattr(ActorDiedError, "__str__", lambda self: text)
    sweep.lose(sweep.start("a"), ActorDiedError())
    assert sweep.rows[0]["reason"].startswith(reason)


def test_what_runs_for_too_long_is_killed_once_and_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[str] = []
    monkeypatch.setattr(module.ray, "kill", killed.append)
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    sweep = Sweep(tmp_path, trial_timeout="10s")
    first = sweep.start("a")
    now[0] += 6
    sweep.start("b")
    sweep.collector.on_step_end(0, [])
    assert killed == []
    now[0] += 5
    sweep.collector.on_step_end(0, [])
    sweep.collector.on_step_end(0, [])
    assert killed == ["actor of a"]
    sweep.lose(first, ActorDiedError())
    assert sweep.rows[0]["reason"] == "timed out: still running after trial_timeout = 10 s"
    assert sweep.feed.stop_reason is None


def test_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    sweep = Sweep(tmp_path, stop={"time": "1m"})
    running = sweep.start("a")
    now[0] += 59
    sweep.collector.on_step_end(0, [])
    assert sweep.feed.stop_reason is None
    now[0] += 2
    sweep.collector.on_step_end(0, [])
    assert sweep.feed.stop_reason == "stop.time: 60 s were over" and sweep.feed.suggest("b") == "FINISHED"
    sweep.lose(running)  # nothing starts any more: no second chance
    assert [row["status"] for row in sweep.rows] == ["failed"]
