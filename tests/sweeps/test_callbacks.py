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
from ray.tune.experiment import Trial

from sweeps.record.intake import Intake, Listed, Observer
from sweeps.record.ledger import Ledger
from sweeps.record.status import Progress
from sweeps.search.moasha import Rungs
from sweeps.spec.config import build
from sweeps.tune import callbacks as module
from sweeps.tune import ray_internals
from sweeps.tune.callbacks import Callbacks
from sweeps.tune.queue import Queue
from sweeps.tune.resources import Policy
from sweeps.tune.scheduler import Scheduler
from trainables.records import TrialResult, TrialSpec, blank_row

TABLE = ("t", 10, 4)


def spec(seed: int) -> TrialSpec:
    return TrialSpec("cast", {"dtype": "float16"}, None, seed, "pretrained", "none", "table", "", (), "code")


@pytest.fixture(autouse=True)
def alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no Ray here to ask."""
    monkeypatch.setattr(module, "is_alive_here", lambda: True)


class Sweep:
    """An intake as Tune drives it, what came of it, and trials as Tune has them."""

    def __init__(self, folder: Path, judge: Any = None, trials: int = 4, **keys: Any) -> None:
        config = build({"name": "s", "table": "t", "quantizers": ["pq"], "keep_artifacts": "none", **keys})
        policy = Policy(config.trial_resources, gpus=0, gpu_bytes=None)
        self.ledger, self.folder, self.results = Ledger(folder / "ledger"), folder, []
        progress = Progress(None, folder, name="s", total=4, skipped=0, objective=("reconstruction.mse", "min"))
        sweep = self

        class Collected(Observer):
            def ended(self, result: TrialResult) -> None:
                sweep.results.append(result)

        self.intake = Intake(config, TABLE, ledger=self.ledger, judge=judge, observers=[progress, Collected()])
        self.intake.draw_from(Listed(spec(seed) for seed in range(trials)))
        self.queue = Queue(self.intake, policy)
        self.callbacks = Callbacks(config, self.intake, self.queue)
        self.scheduler = Scheduler(self.intake, self.queue, policy, lambda: 1)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [result.row for result in self.results]

    def start(self, name: str) -> Any:
        suggested = self.queue.suggest(name)
        assert isinstance(suggested, dict)
        state = types.SimpleNamespace(ray_actor=f"actor of {name}")
        file = self.folder / name
        kept = types.SimpleNamespace(metric_analysis={}, metric_n_steps={}, last_result={})
        trial = types.SimpleNamespace(
            run_metadata=kept,
            trial_id=name,
            config=suggested,
            temporary_state=state,
            pickled_error_file=str(file),
            get_error=lambda: None,
        )
        self.callbacks.on_trial_start(0, [], trial)
        return trial

    def _report(self, trial: Any, report: dict[str, Any]) -> str:
        decision = self.scheduler.on_trial_result(None, trial, report)
        if decision == "STOP":
            self.queue.on_trial_complete(trial.trial_id)
            self.callbacks.on_trial_result(0, [], trial, report)
            self.callbacks.on_trial_complete(0, [], trial)
        else:
            self.callbacks.on_trial_result(0, [], trial, report)
        return decision

    def step(self, trial: Any, fraction: float, value: float) -> str:
        report = {"phase": "train", "fraction": fraction, "value": value, "seconds": 3 * fraction, "metrics": "{}"}
        return self._report(trial, report | {"result": None})

    def end(self, trial: Any, status: str = "ok", *, out_of_memory: bool = False) -> None:
        one = TrialSpec.from_json(trial.config["spec"])
        result = TrialResult(blank_row(one, TABLE, status=status, reason=None if status == "ok" else "planted"))
        report = {"result": json.dumps(result.to_json()), "out_of_memory": out_of_memory, "device_memory_bytes": 5}
        self._report(trial, report)
        self.queue.on_trial_complete(trial.trial_id)

    def elsewhere(self, trial: Any, turn: str) -> None:
        self._report(trial, {"phase": "elsewhere", "fraction": 0.0, "value": None, "result": None, "turn": turn})
        self.queue.on_trial_complete(trial.trial_id)

    def lose(self, trial: Any, error: Exception | None = None) -> None:
        if error is not None:
            Path(trial.pickled_error_file).write_bytes(ray.cloudpickle.dumps(error))
        self.queue.on_trial_complete(trial.trial_id, error=True)
        self.callbacks.on_trial_error(0, [], trial)


def test_a_lost_trial_gets_one_more_chance_at_once_and_then_is_a_row(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    first, lost = sweep.start("a"), sweep.start("b")
    sweep.lose(lost, ActorDiedError())
    assert sweep.rows == []
    again = sweep.start("c")  # beside the others, before those that never ran
    assert again.config["spec"] == lost.config["spec"]
    sweep.lose(again, ActorDiedError())
    sweep.end(first)
    for name in "de":
        sweep.end(sweep.start(name))
    assert sweep.queue.suggest("f") == "FINISHED"
    assert [row["status"] for row in sweep.rows] == ["failed", "ok", "ok", "ok"]
    assert "worker lost" in sweep.rows[0]["reason"] and "tried 2 times" in sweep.rows[0]["reason"]


def test_a_worker_on_its_way_is_waited_for_while_others_have_trials_to_run(tmp_path: Path) -> None:
    scheduler = Sweep(tmp_path).scheduler
    trials = [Trial("function", stub=True, trial_id=name) for name in "abc"]
    workers: dict[Trial, str] = {}
    manager = types.SimpleNamespace(is_actor_started=lambda actor: actor == "comes")
    controller = types.SimpleNamespace(
        _tune_controller=types.SimpleNamespace(_trial_to_actor=workers, _actor_manager=manager)
    )
    for trial in trials:
        trial.init_local_path = lambda: None
        scheduler.on_trial_add(controller, trial)
    assert scheduler.choose_trial_to_run(controller) is trials[0]
    workers.update({trials[0]: "comes", trials[1]: "has no place yet"})
    assert scheduler.choose_trial_to_run(controller) is trials[1]
    workers.update(dict.fromkeys(trials, "comes"))
    assert scheduler.choose_trial_to_run(controller) is trials[0], "there is no other"


def test_hundreds_that_are_lost_with_a_node_run_again_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ActorDiedError, "__str__", lambda self: "its node has died.")
    sweep = Sweep(tmp_path, trials=300)
    running = [sweep.start(f"first {number}") for number in range(200)]
    for trial in running:
        sweep.lose(trial, ActorDiedError())
    again = [sweep.start(f"second {number}") for number in range(200)]  # none waits for another
    assert {json.dumps(trial.config["spec"]) for trial in again} == {json.dumps(trial.config["spec"]) for trial in running}


def test_for_want_of_memory_a_trial_runs_again_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ActorDiedError, "__str__", lambda self: "the node running low on memory.")
    sweep = Sweep(tmp_path, trials=3)
    lost, other = sweep.start("a"), sweep.start("b")
    sweep.lose(lost, ActorDiedError())
    last = sweep.start("c")
    assert last.config["spec"] != lost.config["spec"]
    sweep.end(other)
    assert sweep.queue.suggest("d") is None  # not while another runs
    sweep.end(last)
    assert sweep.start("d").config["spec"] == lost.config["spec"] and sweep.queue.suggest("e") is None


def test_a_trial_whose_last_report_was_lost_is_in_the_ledger(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    lost = sweep.start("a")
    one = TrialSpec.from_json(lost.config["spec"])
    sweep.ledger.put(one.key, TrialResult(blank_row(one, TABLE, status="ok")))
    sweep.lose(lost, ActorDiedError())
    assert [(row["trial_key"], row["status"]) for row in sweep.rows] == [(one.key, "ok")]
    for name in "bcd":
        sweep.end(sweep.start(name))
    assert sweep.queue.suggest("e") == "FINISHED"


@pytest.mark.process
def test_a_worker_whose_reports_nobody_takes_ends() -> None:
    """The report hangs as it does where the connection is gone and the driver does not know."""
    code = (
        "import time; from ray import tune; from sweeps.tune import worker\n"
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


def test_a_trial_that_a_rule_stops_is_a_row_with_its_reason(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, Rungs(lambda key: 100).step)
    first = sweep.start("a")
    decisions = [sweep.step(first, share, 1.0) for share in (0.05, 0.2)]
    sweep.end(first)
    second = sweep.start("b")
    decisions += [sweep.step(second, share, 2.0) for share in (0.05, 0.2)]
    assert decisions == ["CONTINUE", "CONTINUE", "CONTINUE", "STOP"]
    assert [row["status"] for row in sweep.rows] == ["ok", "stopped"]
    assert sweep.rows[1]["reason"] == "moasha: 2 of 2 at 11% of 'train', the best 1 go on"
    assert sweep.rows[1]["fit_seconds"] == pytest.approx(0.6)
    kept = sweep.ledger.get(sweep.rows[1]["trial_key"])
    assert kept is not None and kept.row["status"] == "stopped"


def test_the_curve_of_a_trial_that_went_on_from_a_checkpoint_has_every_step_once(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, lambda key, step, seconds: "planted" if step.fraction == 0.5 else None)
    lost = sweep.start("a")
    for fraction in (0.1, 0.2, 0.3, 0.4):
        sweep.step(lost, fraction, 1 - fraction)
    sweep.lose(lost, ActorDiedError())
    again = sweep.start("b")
    assert sweep.step(again, 0.25, 0.75) == "CONTINUE"  # the checkpoint was at 0.2
    assert sweep.step(again, 0.5, 0.5) == "STOP"
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


def test_what_another_sweep_runs_comes_last_and_is_taken_over_when_it_has_ended(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, trials=3)
    theirs = sweep.start("a")
    assert theirs.config["turn"] == "eager"
    sweep.elsewhere(theirs, "theirs")
    others = [sweep.start(name) for name in "bc"]
    later = sweep.start("d")
    assert later.config == theirs.config | {"turn": "patient"}
    sweep.elsewhere(later, "theirs")  # it still runs there
    later = sweep.start("e")
    one = TrialSpec.from_json(later.config["spec"])
    sweep.ledger.put(one.key, TrialResult(blank_row(one, TABLE, status="ok")))
    sweep.elsewhere(later, "done")
    for trial in others:
        sweep.end(trial)
    assert sweep.queue.suggest("f") == "FINISHED"
    assert [(row["status"], row["reused"]) for row in sweep.rows] == [("ok", True), ("ok", False), ("ok", False)]
    assert sweep.rows[0]["trial_key"] == one.key and sweep.intake.reused == 1


def test_a_trial_that_another_sweep_finished_runs_again_where_its_file_is_gone(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, trials=1, keep_artifacts="all", output=str(tmp_path / "runs"))
    trial = sweep.start("a")
    one = TrialSpec.from_json(trial.config["spec"])
    sweep.ledger.put(one.key, TrialResult(blank_row(one, TABLE, status="ok"), artifact=str(tmp_path / "gone.safetensors")))
    sweep.elsewhere(trial, "done")
    again = sweep.start("b")
    assert again.config == trial.config | {"turn": "regardless"}
    sweep.end(again)
    assert sweep.queue.suggest("c") == "FINISHED" and sweep.intake.reused == 0


def test_waiting_for_another_sweep_is_no_part_of_a_trials_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[str] = []
    monkeypatch.setattr(ray_internals.ray, "kill", killed.append)
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    sweep = Sweep(tmp_path, trials=1, trial_timeout="10s")
    sweep.elsewhere(sweep.start("a"), "theirs")
    sweep.start("b")
    now[0] += module.WAIT_SECONDS + 9
    sweep.callbacks.on_step_end(0, [])
    assert killed == []
    now[0] += 2
    sweep.callbacks.on_step_end(0, [])
    assert killed == ["actor of b"]


def test_what_runs_for_too_long_is_killed_once_and_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[str] = []
    monkeypatch.setattr(ray_internals.ray, "kill", killed.append)
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    sweep = Sweep(tmp_path, trial_timeout="10s")
    first = sweep.start("a")
    now[0] += 6
    sweep.start("b")
    sweep.callbacks.on_step_end(0, [])
    assert killed == []
    now[0] += 5
    sweep.callbacks.on_step_end(0, [])
    sweep.callbacks.on_step_end(0, [])
    assert killed == ["actor of a"]
    sweep.lose(first, ActorDiedError())
    assert sweep.rows[0]["reason"] == "timed out: still running after trial_timeout = 10 s"
    assert sweep.intake.stop_reason is None


def test_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    sweep = Sweep(tmp_path, stop={"time": "1m"})
    running = sweep.start("a")
    now[0] += 59
    sweep.callbacks.on_step_end(0, [])
    assert sweep.intake.stop_reason is None
    now[0] += 2
    sweep.callbacks.on_step_end(0, [])
    assert sweep.intake.stop_reason == "stop.time: 60 s were over" and sweep.queue.suggest("b") == "FINISHED"
    sweep.lose(running)  # nothing starts any more: no second chance
    assert [row["status"] for row in sweep.rows] == ["failed"]


@pytest.mark.parametrize("question", ["has_died", "is_alive_here"])
def test_a_ray_that_died_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, question: str) -> None:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    sweep = Sweep(tmp_path)
    sweep.start("a")
    sweep.callbacks.on_step_end(0, [])
    monkeypatch.setattr(module, question, lambda: question == "has_died")
    now[0] += 3
    with pytest.raises(ray_internals.RayLostError):
        sweep.callbacks.on_step_end(0, [])
