"""What the files of a run directory are called that a person, or the analysis, reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

SWEEP_FILE = "sweep.yaml"  # the sweep, resolved; what makes a folder a run
RUN_FILE = "run.json"
REPORT_FILE = "report.html"
PLOT_FILE = "frontier.png"
TRIALS_FILE, SCORES_FILE, FRONTIER_FILE = "trials.parquet", "scores.parquet", "frontier.parquet"
ARTIFACTS = "artifacts"


def artifact_name(key: str, role: str | None = None) -> str:
    """Where the compressed file of a trial is; of a trial with several, that of the first role (None) or of another."""
    return f"{ARTIFACTS}/{key}.safetensors" if role is None else f"{ARTIFACTS}/{key}.{role}.safetensors"


def other_roles(row: Mapping[str, Any]) -> list[str]:
    """The roles, beside the first, that a row of ``trials.parquet`` has a compressed file for."""
    return list(json.loads(row.get("roles") or "{}"))[1:]


def artifact_names(row: Mapping[str, Any]) -> list[str]:
    """All compressed files of a row's trial, the first role's first."""
    return [artifact_name(row["trial_key"], role) for role in (None, *other_roles(row))]
