"""A fit whose worker is killed, and then its whole sweep: it goes on from its checkpoint each time, to the same file."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml

import quantizers
from analysis import store
from quantizers import Table
from sweeps.record.ledger import Ledger

pytestmark = [pytest.mark.xdist_group("checkpoints"), pytest.mark.ray]

PATIENCE = float(os.environ.get("TEST_PATIENCE_SECONDS", "280"))  # on a machine that does other work: more

METHODS = '''
"""Bin, which is lost twice.

Reference: a test.
"""

import json
import os
import signal
from pathlib import Path

import sweeps.record.checkpoints
from quantizers.methods.binary import Bin, BinConfig

sweeps.record.checkpoints.SECONDS = 0.0  # after every step


class FragileConfig(BinConfig):
    """folder: where it leaves notes."""

    folder: str = ""


class Fragile(Bin):
    """Writes down how far each attempt is; the first kills its worker, the second the sweep too."""

    name = "fragile"
    Config = FragileConfig
    reference = "a test"

    def _fit_steps(self, table, **options):
        notes = Path(self.config.folder)
        lost = [notes / "0", notes / "1"]
        attempt = notes / f"attempt-{sum(path.exists() for path in lost)}"
        for step in super()._fit_steps(table, **options):
            with attempt.open("a") as lines:
                lines.write(f"{step.fraction}\\n")
            for path, fraction in zip(lost, (0.3, 0.6)):
                if step.fraction > fraction and not path.exists():
                    path.touch()
                    if path == lost[1]:
                        status = notes.parent / "runs" / "disturbed" / "status.json"
                        os.kill(json.loads(status.read_text())["pid"], signal.SIGKILL)
                    os.kill(os.getpid(), signal.SIGKILL)
            yield step
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, install: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    np.save(folder / "table.npy", np.random.default_rng(0).standard_normal((400, 8)).astype(np.float32))
    install(folder / "packages", fragile=METHODS)
    (folder / "notes").mkdir()
    return folder


def sweeps(place: Path, *words: object) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "sweeps", *map(str, words)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(place / "packages"), *sys.path])},
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stdout + done.stderr
    return done.returncode


@pytest.mark.slow
def test_what_is_killed_costs_the_steps_since_its_checkpoint(place: Path) -> None:
    notes, run_dir = place / "notes", place / "runs" / "disturbed"
    sweep = {
        "name": "disturbed",
        "table": str(place / "table.npy"),
        "quantizers": [{"method": "fragile", "num_bits": 12, "folder": str(notes)}],
        "resources": {"cpu": 1},
        "tracking": False,
        "output": str(place / "runs"),
    }
    (place / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    assert sweeps(place, "run", place / "sweep.yaml") == -signal.SIGKILL
    assert sweeps(place, "resume", run_dir) == 0
    begun = [float((notes / f"attempt-{number}").read_text().split()[0]) for number in range(3)]
    assert begun[0] < 0.1 and 0.3 < begun[1] < 0.4 and 0.6 < begun[2] < 0.7, begun
    (row,) = [row for row in store.read_trials(run_dir).to_pylist() if row["quantizer"] == "fragile"]
    assert row["status"] == "ok"
    assert not (run_dir / "checkpoints").exists()

    undisturbed = quantizers.create("bin", num_bits=12)  # here too one thread, as in the trial
    steps = list(undisturbed.fit_steps(Table(torch.from_numpy(np.load(place / "table.npy")))))
    stored = safetensors.torch.load_file(run_dir / "artifacts" / f"{row['trial_key']}.safetensors")
    expected = undisturbed.state()
    assert expected.keys() <= stored.keys()
    assert all(torch.equal(stored[name], values) for name, values in expected.items())
    result = Ledger(run_dir / "ledger").get(row["trial_key"])
    assert result is not None
    shown = [(point["fraction"], point["value"]) for point in result.curves]
    assert shown == [(step.fraction, step.value) for step in steps]
