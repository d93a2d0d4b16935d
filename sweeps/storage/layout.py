"""Every path in a run directory."""

from __future__ import annotations


def artifact_name(key: str) -> str:
    """Where the compressed file of a trial is, below the run."""
    return f"artifacts/{key}.safetensors"
