"""What the files of a run directory are called that a person, or the analysis, reads."""

from __future__ import annotations

SWEEP_FILE = "sweep.yaml"  # the sweep, resolved; what makes a folder a run
RUN_FILE = "run.json"
REPORT_FILE = "report.html"
PLOT_FILE = "frontier.png"
TRIALS_FILE, SCORES_FILE, FRONTIER_FILE = "trials.parquet", "scores.parquet", "frontier.parquet"
ARTIFACTS = "artifacts"


def artifact_name(key: str) -> str:
    """Where the compressed file of a trial is."""
    return f"{ARTIFACTS}/{key}.safetensors"
