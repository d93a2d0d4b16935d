"""Compressed files of trials whose results come from the ledger."""

from __future__ import annotations

import shutil

from quantizers.files import replacing
from sweeps.spec.config import SweepConfig
from sweeps.storage import join, open_storage, split
from sweeps.storage.layout import artifact_name
from trainables.records import TrialResult, TrialSpec


def bring(known: TrialResult, spec: TrialSpec, config: SweepConfig) -> bool:
    """Make a result of the ledger this sweep's own; False where its compressed file is wanted and gone.

    A trial that was stopped early is a result for sweeps that stop trials.
    """
    known.row.update(reused=False, budget_bytes=spec.budget_bytes)
    if known.row["status"] == "stopped":
        return config.scheduler.kind != "none"
    if config.keep_artifacts == "all":
        return fetch_copy(known, spec.key, config)
    if config.keep_artifacts == "frontier":
        # Of its own run, what is gone was not on the frontier. Of another, it may be on this one, which keeps its files.
        if known.artifact == join(config.run_location, artifact_name(spec.key)):
            return True
        folder, file = split(known.artifact or "")
        there = bool(file) and open_storage(folder).exists(file)
        return there or open_storage(config.run_location).exists(artifact_name(spec.key))
    return True


def fetch_copy(known: TrialResult, key: str, config: SweepConfig) -> bool:
    """Have the compressed file of trial ``key`` with this run, whole; False where it is gone from the ledger's place too."""
    storage, name = open_storage(config.run_location), artifact_name(key)
    if storage.exists(name):
        return True
    folder, file = split(known.artifact or "")
    copy = open_storage(folder).fetch(file) if file else None
    if copy is None:
        return False
    with replacing(storage.local(name)) as part:
        shutil.copyfile(copy, part)
    storage.keep(name)
    known.artifact = join(config.run_location, name)
    return True
