"""Paths below a run directory and a ledger."""

from __future__ import annotations

RESULTS = "results"
FITS = "fits"
BASELINES = "baselines"
ARTIFACTS = "artifacts"
_JSON, _STOPPED = ".json", ".stopped"
DRIVER_CLAIM = "driver.claim"  # who works on the run


def artifact_name(key: str) -> str:
    """Where the compressed file of a trial is, below the run."""
    return f"{ARTIFACTS}/{key}.safetensors"


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
