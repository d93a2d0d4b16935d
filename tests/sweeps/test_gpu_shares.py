"""A sweep on GPUs that Ray is told of: who gets which part of which, by what trials took of their device's memory.

Scheduling needs no GPU: where torch finds none, what a trial takes is measured in main memory.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis import store
from sweeps.tune.resources import CONTEXT_BYTES, MARGIN

pytestmark = [pytest.mark.xdist_group("gpu shares"), pytest.mark.ray, pytest.mark.slow]

PATIENCE = float(os.environ.get("TEST_PATIENCE_SECONDS", "280"))  # on a machine that does other work: more
GPU_BYTES = 4 * 10**9

WATCHED = '''
"""A method that writes down what it was given."""

import json
import os
import time
from pathlib import Path
from typing import Any, ClassVar

import ray
import torch

from quantizers import FitStep, Quantizer, QuantizerConfig, StorageCost


class WatchedConfig(QuantizerConfig):
    """folder: where it leaves notes; megabytes: so much memory the fit takes."""

    folder: str = ""
    megabytes: int = 0


class Watched(Quantizer):
    """float16, slowly."""

    name = "watched"
    Config = WatchedConfig
    reference = "a test"
    state_roles: ClassVar[dict[str, Any]] = {"values": "code"}

    @classmethod
    def configs_for(cls, budget, stats):
        return [WatchedConfig()]

    @classmethod
    def storage(cls, config, shape):
        return StorageCost(2 * shape[0] * shape[1], 0, 0)

    def _fit_steps(self, table, *, seed, weights, budget):
        began = time.time()
        taken = torch.ones(self.config.megabytes * 10**6 // 4)
        time.sleep(1.5)
        del taken
        context = ray.get_runtime_context()
        note = {"method": self.name, "seed": seed, "span": [began, time.time()]}
        note["gpus"] = context.get_accelerator_ids()["GPU"]
        note["share"] = context.get_assigned_resources().get("GPU", 0)
        Path(self.config.folder, f"{self.name}-{seed}-{os.getpid()}.json").write_text(json.dumps(note))
        self._set_state({"values": table.vectors.to(torch.float16)})
        yield FitStep("done", 1.0)

    def reconstruct(self, ids):
        return self._state["values"][ids].to(torch.float32)
'''

ONLOOKER = '''
"""The same without work for a GPU."""

from watched import Watched, WatchedConfig


class Onlooker(Watched):
    """Watched, on the processor."""

    name = "onlooker"
    uses_gpu = False
'''

DRIVER = """
import sys
import ray, sweeps
ray.init(num_cpus=5, num_gpus=2, include_dashboard=False, log_to_driver=False)
sweeps.run(sys.argv[1])
"""


@pytest.fixture(scope="module")
def notes(
    tmp_path_factory: pytest.TempPathFactory, install: Callable[..., Path]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What the trials wrote down, and their rows."""
    folder = tmp_path_factory.mktemp("gpus")
    install(folder, watched=WATCHED, onlooker=ONLOOKER)
    (folder / "notes").mkdir()
    config = {"folder": str(folder / "notes")}
    sweep = {
        "name": "shares",
        "table": "builtin:synthetic-500x16",
        "quantizers": [{"method": "watched", **config, "megabytes": 300}, {"method": "onlooker", **config}],
        "seeds": list(range(7)),
        "resources": {"cpu": 1, "gpu": "auto", "gpu_memory": GPU_BYTES},
        "keep_artifacts": "none",
        "tracking": False,
        "output": str(folder),
    }
    file = folder / "shares.yaml"
    file.write_text(yaml.safe_dump(sweep))
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path}
    words = [sys.executable, "-c", DRIVER, str(file)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = store.read_trials(folder / "shares").to_pylist()
    return [json.loads(note.read_text()) for note in (folder / "notes").iterdir()], rows


def test_every_trial_ran(notes: Any) -> None:
    told, rows = notes
    assert len(rows) == 1 + 2 * 7 and {row["status"] for row in rows} == {"ok"}
    assert sorted((note["method"], note["seed"]) for note in told) == [
        (method, seed) for method in ("onlooker", "watched") for seed in range(7)
    ]


def test_the_first_has_a_gpu_and_the_others_what_it_took(notes: Any) -> None:
    told, rows = notes
    watched = sorted((note for note in told if note["method"] == "watched"), key=lambda note: note["span"][0])
    first = next(row for row in rows if row["quantizer"] == "watched" and row["seed"] == watched[0]["seed"])
    assert watched[0]["share"] == 1
    assert 250e6 < first["peak_memory_bytes"] < 700e6
    peaks = [row["peak_memory_bytes"] for row in rows if row["quantizer"] == "watched"]
    least, most = (int(GPU_BYTES // (MARGIN * peak + CONTEXT_BYTES)) for peak in (max(peaks), first["peak_memory_bytes"]))
    assert most > 1
    for note in watched[1:]:
        assert 1 / most - 1e-4 <= note["share"] <= 1 / least, note
        assert len(note["gpus"]) == 1


def test_a_gpu_never_holds_more_than_it_has(notes: Any) -> None:
    told, rows = notes
    took = {row["seed"]: row["peak_memory_bytes"] + CONTEXT_BYTES for row in rows if row["quantizer"] == "watched"}
    on_gpu = defaultdict(list)
    for note in told:
        for gpu in note["gpus"]:
            on_gpu[gpu].append(note)
    assert on_gpu.keys() <= {"0", "1"}
    together = 0
    for there in on_gpu.values():
        for moment in [note["span"][0] for note in there]:
            now = [note for note in there if note["span"][0] <= moment < note["span"][1]]
            together = max(together, len(now))
            assert sum(note["share"] for note in now) <= 1 + 1e-9
            assert sum(took[note["seed"]] for note in now) <= GPU_BYTES
    assert together > 1


def test_methods_without_work_for_a_gpu_take_none(notes: Any) -> None:
    told, _ = notes
    assert all(note["share"] == 0 and note["gpus"] == [] for note in told if note["method"] == "onlooker")
