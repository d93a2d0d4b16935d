"""The state of a sweep under way, and what stops it: the live frontier, failures, the hypervolume rule."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from quantizers.errors import InputError
from sweeps.record.display import render
from sweeps.record.run_folder import check_run_dir
from sweeps.record.status import Progress, is_alive, read_status
from sweeps.search.plateau import Plateau
from sweeps.spec.config import HypervolumeStop, build
from sweeps.storage.processes import is_gone, is_here, note
from trainables.trial import TrialResult


def result(size: int, value: float | None, status: str = "ok", reason: str | None = None) -> TrialResult:
    row: dict[str, Any] = {
        "trial_key": f"{size}-{value}",
        "quantizer": "pq",
        "status": status,
        "reason": reason,
        "budget_bytes": 1000,
        "payload_bytes": size,
        "num_embeddings": 100,
        "embedding_dim": 10,
        "dense_bytes": 4000,
    }
    return TrialResult(row, [] if value is None else [{"task": "t", "metric": "m", "value": value}])


def test_the_frontier_so_far_is_what_status_shows(tmp_path: Path) -> None:
    points = [(400, 0.5), (800, 0.9), (800, 0.7), (400, 0.6), (200, 0.6), (100, 0.1)]
    with Progress(None, tmp_path, name="s", total=7, skipped=0, objective=("t.m", "max")) as progress:
        for size, value in points:
            progress.ended(result(size, value))
        progress.ended(result(300, None, "failed", "planted"))
    state = read_status(tmp_path)
    assert state is not None and state["done"] == 6 and state["failed"] == 1 and is_alive(state)
    assert [(one["payload_bytes"], one["value"]) for one in state["frontier"]] == [(800, 0.9), (200, 0.6), (100, 0.1)]
    assert state["best"]["1000"]["value"] == 0.9
    text = io.StringIO()
    Console(file=text, width=120).print(render(state))
    assert "x20.0" in text.getvalue() and "failed: pq: planted" in text.getvalue()


DIRECTIONS = {"t.m": {"direction": "max"}}


def test_a_plateau_is_so_many_trials_without_a_gain() -> None:
    rule = Plateau(HypervolumeStop(trials=3), ["payload_bytes", "t.m"], DIRECTIONS)
    ends = [(100, 0.1), (800, 0.9), (400, 0.5), (400, 0.4), (850, 0.9), (300, 0.5), (400, 0.4), (90, None), (500, 0.5)]
    assert [rule.reached(result(size, value, "ok" if value else "failed")) for size, value in ends] == 8 * [False] + [True]


def test_trials_of_an_earlier_run_are_what_a_gain_is_over() -> None:
    rule = Plateau(HypervolumeStop(trials=2, gain=0.01), ["payload_bytes", "t.m"], DIRECTIONS)
    for size, value in [(100, 0.1), (800, 0.9), (400, 0.5)]:
        rule.know(result(size, value))
    assert [rule.reached(result(399, 0.5)), rule.reached(result(398, 0.5))] == [False, True]


@pytest.mark.parametrize(("gain", "ends"), [(0.0, False), (5.0, True)])
def test_a_gain_may_be_too_small_to_count(gain: float, ends: bool) -> None:
    rule = Plateau(HypervolumeStop(trials=1, gain=gain), ["payload_bytes", "t.m"], DIRECTIONS)
    rule.reached(result(100, 0.1))
    rule.reached(result(800, 0.9))
    assert rule.reached(result(400, 0.7)) is ends


def test_an_edit_of_the_file_in_the_folder_is_compared_with_what_was_run(tmp_path: Path) -> None:
    sweep = {"name": "s", "table": "t", "quantizers": ["pq"], "seeds": [0, 1], "output": str(tmp_path)}
    ran, more, less = build(sweep), build({**sweep, "seeds": [0, 1, 2]}), build({**sweep, "seeds": [0]})
    ran.run_dir.mkdir()
    (ran.run_dir / "sweep.yaml").write_text(ran.to_yaml())
    kept = ran.model_dump(mode="json")
    with Progress(None, ran.run_dir, name="s", total=1, skipped=0, objective=("t.m", "max"), sweep=kept):
        pass
    for edited in (more, ran):
        (ran.run_dir / "sweep.yaml").write_text(edited.to_yaml())
        check_run_dir(edited)
    (ran.run_dir / "sweep.yaml").write_text(less.to_yaml())
    with pytest.raises(InputError, match="different: seeds"):
        check_run_dir(less)


@pytest.mark.process
def test_a_note_tells_whether_its_process_is_gone() -> None:
    assert not is_gone(note()) and is_here(note())
    process, started, *where = note().split(" ")
    assert is_gone(" ".join([process, str(int(started) + 1), *where])), "the number was given to another process"
    code = "from sweeps.storage.processes import note; print(note())"
    left = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert is_here(left) and is_gone(left)
    elsewhere = f"{process} 1 another machine"
    assert not is_gone(elsewhere) and not is_here(elsewhere) and not is_gone("")


def test_a_sweep_whose_process_is_gone_is_not_at_work() -> None:
    state = {"phase": "running", "updated_at": 1e12}
    process, started, *where = note().split(" ")
    assert is_alive({**state, "process": note()})
    assert not is_alive({**state, "process": " ".join([process, "1", *where])})
    assert not is_alive({**state, "process": note(), "phase": "finished"})
    assert is_alive({**state, "process": "1 1 elsewhere"}) and not is_alive({**state, "updated_at": 0.0})
