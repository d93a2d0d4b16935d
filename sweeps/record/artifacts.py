"""Compressed files of trials whose results come from the ledger."""

from __future__ import annotations

import shutil

from quantizers.files import replacing
from sweeps.spec.config import SweepConfig
from sweeps.storage import join, open_storage, split
from sweeps.storage.layout import artifact_name, artifact_names
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
        there, here = open_storage(folder) if file else None, open_storage(config.run_location)
        first, *others = artifact_names(known.row)
        places = {first: file, **{name: _beside(file, name) for name in others}}
        return all((there is not None and there.exists(place)) or here.exists(name) for name, place in places.items())
    return True


def fetch_copy(known: TrialResult, key: str, config: SweepConfig) -> bool:
    """Have the compressed files of trial ``key`` with this run; False where one is gone from the ledger's place too."""
    storage = open_storage(config.run_location)
    missing = [name for name in artifact_names(known.row) if not storage.exists(name)]
    if not missing:
        return True
    folder, file = split(known.artifact or "")
    for name in missing:
        there = file if name == artifact_name(key) else _beside(file, name)
        copy = open_storage(folder).fetch(there) if file else None
        if copy is None:
            return False
        with replacing(storage.local(name)) as part:
            shutil.copyfile(copy, part)
        storage.keep(name)
    known.artifact = join(config.run_location, artifact_name(key))
    return True


def _beside(file: str, name: str) -> str:
    """Where the ledger's place has the file ``name`` of a further role, ``file`` being that of the first role there."""
    return "/".join([*file.split("/")[:-1], name.rsplit("/", 1)[-1]])
