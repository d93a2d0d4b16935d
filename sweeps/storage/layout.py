"""Every path below a run directory and a ledger; those that the analysis reads too stand in :mod:`analysis.layout`."""

from __future__ import annotations

from analysis.layout import (
    ARTIFACTS,
    FRONTIER_FILE,
    PLOT_FILE,
    REPORT_FILE,
    RUN_FILE,
    SCORES_FILE,
    SWEEP_FILE,
    TRIALS_FILE,
    artifact_name,
    artifact_names,
    other_roles,
)

__all__ = [
    "ARTIFACTS",
    "BASELINES",
    "CHECKPOINTS",
    "DRIVER_CLAIM",
    "FITS",
    "FRONTIER_FILE",
    "JOURNAL_FILE",
    "LEDGER",
    "PLOT_FILE",
    "RAY",
    "REPORT_FILE",
    "RESULTS",
    "RUN_FILE",
    "SCORES_FILE",
    "SHARED",
    "STATUS_FILE",
    "SWEEP_FILE",
    "TRIALS_FILE",
    "TUNE",
    "artifact_name",
    "artifact_names",
    "claim_name",
    "other_roles",
    "result_key",
    "result_name",
    "shared_name",
]

STATUS_FILE = "status.json"
JOURNAL_FILE = "search.jsonl"  # what a search chose
CHECKPOINTS = "checkpoints"
RAY = "ray"  # only while the sweep runs
TUNE = "tune"  # in ray/: Ray Tune's own
SHARED = "shared"  # in ray/: fits and baselines where the ledger is off
LEDGER = "ledger"
RESULTS = "results"
FITS = "fits"
BASELINES = "baselines"
_JSON, _STOPPED = ".json", ".stopped"
DRIVER_CLAIM = "driver.claim"  # who works on the run


def shared_name(kind: str, key: str) -> str:
    """Where a fit or a baseline is, below the ledger."""
    return f"{kind}/{key}.safetensors"


def claim_name(kind: str, key: str) -> str:
    """Where the claim to make a fit or a baseline is, below the ledger."""
    return f"{kind}/{key}.claim"


def result_name(key: str, *, stopped: bool = False) -> str:
    """Where the result of a trial is, below the ledger; one that was stopped early has a place of its own."""
    return f"{RESULTS}/{key}{_STOPPED if stopped else ''}{_JSON}"


def result_key(name: str) -> str | None:
    """The trial of a file in ``results/``, finished or stopped; None where the file is no result."""
    return name.removesuffix(_JSON).removesuffix(_STOPPED) if name.endswith(_JSON) and not name.startswith(".") else None
