"""Uncompressed baselines on disk: scores and arrays of one task, in one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.numpy import save_file

from trainables.task import Baseline, Score


def save_baseline(baseline: Baseline, path: Path) -> None:
    """Write ``baseline`` to ``path``."""
    scores = {name: [score.value, score.num_examples] for name, score in baseline.scores.items()}
    save_file(dict(baseline.arrays), path, metadata={"scores": json.dumps(scores)})


def load_baseline(path: Path) -> Baseline:
    """Undo :func:`save_baseline`."""
    with safe_open(path, framework="numpy") as handle:
        arrays = {name: handle.get_tensor(name) for name in handle.keys()}
        scores = json.loads(handle.metadata()["scores"])
    return Baseline({name: Score(value, count) for name, (value, count) in scores.items()}, arrays)
