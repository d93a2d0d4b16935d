"""Uncompressed baselines on disk: scores and arrays of one task, in one safetensors file with a digest of what it holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from quantizers.errors import InputError
from quantizers.files import ALTERED, digest_of
from trainables.task import Baseline, Score


def _digest(scores: str, arrays: Mapping[str, np.ndarray]) -> str:
    parts: list[bytes | memoryview] = [scores.encode()]
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        parts += [f"{name}:{array.dtype}:{array.shape};".encode(), array.reshape(-1).view(np.uint8).data]
    return digest_of(*parts)


def save_baseline(baseline: Baseline, path: Path) -> None:
    """Write ``baseline`` to ``path``."""
    scores = json.dumps({name: [score.value, score.num_examples] for name, score in baseline.scores.items()})
    arrays = dict(baseline.arrays)
    path.write_bytes(save(arrays, metadata={"scores": scores, "digest": _digest(scores, arrays)}))


def load_baseline(path: Path) -> Baseline:
    """Undo :func:`save_baseline`.

    Raises:
        InputError: the file is not there, or damaged.
    """
    try:
        content = path.read_bytes()
        arrays = load(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        older = set(metadata) == {"scores"}  # of a version without digests
        if not older and _digest(metadata["scores"], arrays) != metadata["digest"]:
            raise ValueError(ALTERED)
        scores = {name: Score(value, count) for name, (value, count) in json.loads(metadata["scores"]).items()}
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, RuntimeError, AssertionError) as error:
        raise InputError(f"{path}: not a baseline ({error!r}).") from None
    return Baseline(scores, arrays)
