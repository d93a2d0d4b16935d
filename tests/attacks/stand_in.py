"""Sweeps in this process, without Ray and without pictures: trials are fitted, written, read back and measured as always."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from sweeps.storage.layout import artifact_name
from trainables import trial
from trainables.records import TrialResult, TrialSpec


@contextlib.contextmanager
def without_ray(before: Callable[[], None] = lambda: None) -> Iterator[list[str]]:
    """Sweeps of this process run in it; yields the keys of the trials that were measured.

    Args:
        before: called before each trial.
    """
    ran: list[str] = []

    def run_trials(prepared: Any, intake: Any, ledger: Any, *_: object) -> None:
        while (spec := intake.next_trial()) is not None:
            before()
            ran.append(spec.key)
            intake.take(spec, measured(spec, prepared, ledger))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeps.driver.engine.run_trials", run_trials)
        patch.setattr("analysis.report.plots.frontier_png", _no_picture)
        patch.setattr("analysis.report.page.get_plotlyjs", lambda: "")
        yield ran


def _no_picture(run_dir: Path, path: Path) -> Path:
    path.write_bytes(b"no picture")
    return path


def measured(spec: TrialSpec, prepared: Any, ledger: Any) -> TrialResult:
    """What a worker does with a trial, in this process."""
    run_dir = prepared.config.run_dir
    result = trial.run(
        spec,
        prepared.table,
        prepared.tasks,
        weights=None,
        artifact_path=lambda role: run_dir / artifact_name(spec.key, role),
        once=ledger.once,
        device=torch.device("cpu"),
        report=lambda step: None,
    )
    result.artifact = str(run_dir / artifact_name(spec.key))
    ledger.put(spec.key, result)
    return result


def sweep_file(folder: Path, **changes: Any) -> Path:
    """A sweep of five trials in ``folder``, and the table that it is of; the run goes to ``folder/s``."""
    np.save(folder / "t.npy", np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32))
    pq = {"method": "pq", "num_codebooks": [1, 2], "codebook_size": 4}
    sweep = {"name": "s", "table": str(folder / "t.npy"), "quantizers": [pq], "seeds": [0, 1], "tracking": False}
    file = folder / "s.yaml"
    file.write_text(yaml.safe_dump({**sweep, "output": str(folder), **changes}))
    return file
