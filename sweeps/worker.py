"""What runs on a Ray worker: one trial, with its failure as a result like any other."""

from __future__ import annotations

import dataclasses
import json
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quantizers import FitStep, Table
from quantizers.errors import InputError
from sweeps.ledger import Ledger
from trainables import trial
from trainables.tables import from_shared
from trainables.tasks.registry import make_task
from trainables.trial import TrialResult, TrialSpec

_REPORT_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all trials of a sweep have in common; small, and pickled to the workers once."""

    artifacts_dir: str
    ledger_dir: str
    remember_results: bool
    tasks: tuple[Any, ...]
    data_dir: str | None
    threads: int
    gpu: bool

    def artifact_path(self, key: str) -> Path:
        """Where the compressed file of a trial is."""
        return Path(self.artifacts_dir) / f"{key}.safetensors"

    def open_ledger(self) -> Ledger:
        """The sweep's ledger."""
        return Ledger(Path(self.ledger_dir), remember_results=self.remember_results)


_TABLES: dict[str, Table] = {}


def _table(shared: dict[str, Any]) -> Table:
    """The shared table, made once for each worker process; its vectors stay in the object store."""
    digest = str(shared["digest"])
    if digest not in _TABLES:
        _TABLES.clear()
        _TABLES[digest] = from_shared(shared)
    return _TABLES[digest]


def run_one(
    spec: TrialSpec, shared: dict[str, Any], weights: np.ndarray | None, settings: Settings, *, report: Any
) -> TrialResult:
    """Run ``spec``; whatever goes wrong becomes a row with status ``failed`` and the reason."""
    torch.set_num_threads(settings.threads)
    ledger = settings.open_ledger()
    table = _table(shared)
    data_dir = None if settings.data_dir is None else Path(settings.data_dir)
    tasks = [make_task(entry, data_dir) for entry in settings.tasks]
    path = settings.artifact_path(spec.key)
    try:
        result = trial.run(
            spec,
            table,
            tasks,
            weights=None if weights is None else torch.tensor(weights),
            artifact_path=path,
            once=ledger.once,
            device=torch.device("cuda" if settings.gpu else "cpu"),
            report=report,
        )
    except Exception as error:
        reason = str(error) if isinstance(error, InputError) else _one_line(error)
        return TrialResult(trial.blank_row(spec, (table.name, *table.shape), status="failed", reason=reason))
    if result.row["status"] == "ok":  # a failure is not remembered: the next run tries again
        ledger.put(spec.key, result)
    return result


def _one_line(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:500]
    return f"{type(error).__name__}: {text} ({Path(frame.filename).name}:{frame.lineno})"


def tune_trial(config: dict[str, Any], shared: dict[str, Any], weights: np.ndarray | None, settings: Settings) -> None:
    """The function that Ray Tune runs; reports the fit's progress, and the whole result at the end."""
    from ray import tune

    last = time.monotonic()

    def report(step: FitStep) -> None:
        nonlocal last
        if time.monotonic() - last >= _REPORT_SECONDS:  # each report is a round trip to the driver
            last = time.monotonic()
            tune.report({"phase": step.phase, "fraction": step.fraction, "value": step.value, "result": None})

    result = run_one(TrialSpec.from_json(config["spec"]), shared, weights, settings, report=report)
    tune.report({"phase": "done", "fraction": 1.0, "value": None, "result": json.dumps(result.to_json())})
