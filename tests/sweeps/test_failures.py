"""A sweep in which trials go wrong in every way: each is a row with its reason, and the sweep ends by itself."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from analysis import store

pytestmark = [pytest.mark.xdist_group("failures"), pytest.mark.ray]

PATIENCE = float(os.environ.get("TEST_PATIENCE_SECONDS", "280"))  # on a machine that does other work: more

METHODS = '''
"""A method that works, goes wrong, or hangs, as its configuration says."""

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any, ClassVar

import torch
from threadpoolctl import threadpool_info

from quantizers import FitStep, Quantizer, QuantizerConfig, StorageCost


class PlantedConfig(QuantizerConfig):
    """what: how the fit ends; number: tells configurations apart; folder: where it leaves notes."""

    what: str = "ok"
    number: int = 0
    folder: str = ""


class Planted(Quantizer):
    """float16, and trouble."""

    name = "planted"
    Config = PlantedConfig
    reference = "a test"
    state_roles: ClassVar[dict[str, Any]] = {"values": "code"}

    @classmethod
    def configs_for(cls, budget, stats):
        return [PlantedConfig()]

    @classmethod
    def storage(cls, config, shape):
        return StorageCost(2 * shape[0] * shape[1], 0, 0)

    def _note(self):
        with (Path(self.config.folder) / self.config.what).open("a") as notes:
            notes.write(f"{os.getpid()}\\n")

    def _fit_steps(self, table, *, seed, weights, budget):
        values = table.vectors.to(torch.float16)
        yield FitStep("start", 0.1)
        match self.config.what:
            case "exception":
                raise RuntimeError("planted failure")
            case "nan":
                values = values * float("nan")
            case "hang":
                ctypes.PyDLL(None).sleep(1000)  # in C, with the interpreter's lock: nothing in Python can end it
            case "hog":
                hogged = [torch.ones(25_000_000) for _ in range(40)]
            case "hog in numpy":
                hogged = __import__("numpy").ones(2**29)
            case "killed":
                self._note()
                os.kill(os.getpid(), signal.SIGKILL)
            case "killed once":
                first = not (Path(self.config.folder) / self.config.what).exists()
                self._note()
                if first:
                    os.kill(os.getpid(), signal.SIGKILL)
            case "ends Ray":
                first = not (Path(self.config.folder) / self.config.what).exists()
                self._note()
                if first:
                    time.sleep(1.0)
                    os.kill(os.getppid(), signal.SIGKILL)
                    time.sleep(60.0)
            case "threads":
                pools = sorted({pool["num_threads"] for pool in threadpool_info()})
                raise RuntimeError(f"torch {torch.get_num_threads()}, pools {pools}")
        self._set_state({"values": values})
        yield FitStep("end", 1.0)

    def reconstruct(self, ids):
        return self._state["values"][ids].to(torch.float32)
'''

WORKS = [{"method": "planted", "what": "ok", "number": list(range(6))}]
TROUBLE = ["exception", "nan", "hang", "hog", "hog in numpy", "killed", "killed once", "threads"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, install: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("failures")
    np.save(folder / "table.npy", np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32))
    install(folder / "packages", planted=METHODS)
    sweep = {
        "name": "trouble",
        "table": str(folder / "table.npy"),
        "quantizers": [{"method": "planted", "what": TROUBLE, "folder": str(folder)}, *WORKS],
        "resources": {"cpu": 1, "memory": "600MB"},
        "trial_timeout": "15s",
        "tracking": False,
        "output": str(folder / "runs"),
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    return folder


@pytest.fixture(scope="module")
def swept(place: Path) -> tuple[subprocess.CompletedProcess[str], dict[str, dict[str, Any]], float]:
    """The process, the failed rows by what was planted, and how long it took."""
    environment = {**os.environ, "PYTHONPATH": str(place / "packages"), "COLUMNS": "200", "OMP_NUM_THREADS": "7"}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "sweeps", "run", place / "sweep.yaml"],
        env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    rows = store.read_trials(place / "runs" / "trouble").to_pylist()
    found = {}
    for row in rows:
        what = yaml.safe_load(row["config_json"]).get("what")
        if what in TROUBLE:
            assert what not in found
            found[what] = row
    assert len(rows) == 1 + len(TROUBLE) + 6
    assert all(row["status"] == "ok" for row in rows if row not in found.values())
    return done, found, time.monotonic() - began


def test_the_sweep_ends_by_itself_with_a_row_for_each(swept: Any) -> None:
    done, rows, seconds = swept
    assert done.returncode == 1, done.stdout + done.stderr
    assert seconds < PATIENCE
    assert rows.keys() == set(TROUBLE)
    assert {what for what, row in rows.items() if row["status"] == "failed"} == set(TROUBLE) - {"killed once"}
    assert all(row["reason"] in done.stdout for row in rows.values() if row["status"] == "failed")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("exception", ["RuntimeError: planted failure", "planted.py"]),
        ("nan", ["NaN"]),
        ("hang", ["timed out", "trial_timeout = 15 s"]),
        ("hog", ["over its memory limit of 600,000,000 bytes", "can't allocate memory"]),
        ("hog in numpy", ["over its memory limit of 600,000,000 bytes", "Unable to allocate"]),
        ("killed", ["worker lost", "tried 2 times"]),
    ],
)
def test_the_reason_says_what_happened(swept: Any, what: str, words: list[str]) -> None:
    reason = swept[1][what]["reason"]
    assert all(word in reason for word in words), reason


def test_a_lost_worker_gets_a_second_chance(place: Path, swept: Any) -> None:
    assert len((place / "killed").read_text().split()) == 2
    assert len((place / "killed once").read_text().split()) == 2
    assert swept[1]["killed once"]["status"] == "ok"


def test_threads_are_as_many_as_the_trial_has_cores(swept: Any) -> None:
    assert "torch 1, pools [1]" in swept[1]["threads"]["reason"]


@pytest.mark.slow
def test_a_ray_that_dies_ends_the_sweep_and_resume_goes_on(place: Path, tmp_path: Path) -> None:
    quantizers = [*WORKS, {"method": "planted", "what": "ends Ray", "folder": str(tmp_path)}]
    sweep = {"name": "dies", "table": str(place / "table.npy"), "quantizers": quantizers, "output": str(tmp_path)}
    (tmp_path / "dies.yaml").write_text(yaml.safe_dump({**sweep, "resources": {"cpu": 1}, "tracking": False}))
    run_dir = tmp_path / "dies"

    def frontier(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sweeps", *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(place / "packages"), "COLUMNS": "200"},
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip

    done = frontier("run", tmp_path / "dies.yaml")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "dies: Ray died: its processes ended, or were too busy to answer. Finished trials are kept" in done.stdout
    assert f"Continue with: frontier resume {run_dir}" in done.stdout
    rows = store.read_trials(run_dir).to_pylist()
    assert {row["status"] for row in rows} <= {"ok", "stopped"}
    assert {row["reason"] for row in rows if row["status"] == "stopped"} == {"Ray died"}
    done = frontier("resume", run_dir)
    assert done.returncode == 0, done.stdout + done.stderr
    after = store.read_trials(run_dir).to_pylist()
    assert len(after) == 8 and {row["status"] for row in after} == {"ok"}
    known = {row["trial_key"]: row["started_at"] for row in rows if row["status"] == "ok"}
    assert known.items() <= {row["trial_key"]: row["started_at"] for row in after}.items()
