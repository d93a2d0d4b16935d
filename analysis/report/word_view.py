"""What the pick does to single words: which suffer, and whose neighbours change.

It is made of two compressed files of the run: the pick's, and that of the uncompressed table (the trial of ``identity``).
Both are read for the first rows only, since in most tables those are the most frequent words.

Shapes: V rows that are looked at, D columns, k neighbours.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from analysis.answer import answers
from analysis.layout import artifact_name
from analysis.recommend import Recommendation, recommend
from analysis.runs import Runs
from quantizers.artifact import read
from quantizers.errors import ArtifactError

MAX_ROWS = 10_000
MAX_FILE_BYTES = 2_000_000  # of a file that the page carries
NEIGHBOURS = 10
_CHUNK_ROWS = 1024
_SAME_TABLE = ("table_digest", "task_scope", "regime", "num_embeddings")


@dataclasses.dataclass(frozen=True)
class WordView:
    """What the page is given.

    Attributes:
        method: of the pick.
        num_rows: V.
        of_rows: N.
        file: the pick's compressed file, or None where it is too large to carry.
        file_bytes: its size.
        words: the words of the rows; None where the page has them from the file, or the table has none.
        cosine: (V,) of each row with itself before it was compressed; None where that table is not in the run.
        before: (V, k) rows of the nearest neighbours in the uncompressed table, -1 where there are fewer; None likewise.
        after: the same of the compressed table, where the page cannot find them itself.
    """

    method: str
    num_rows: int
    of_rows: int
    file: bytes | None
    file_bytes: int
    words: Sequence[str] | None
    cosine: np.ndarray | None
    before: np.ndarray | None
    after: np.ndarray | None

    def page_data(self) -> dict[str, Any]:
        """As JSON: arrays are base64 of little-endian numbers (cosines as 0 to 65535, from -1 to 1)."""
        cosine = None if self.cosine is None else np.rint((self.cosine.clip(-1, 1) + 1) / 2 * 65535).astype("<u2")
        return {
            "method": self.method,
            "rows": self.num_rows,
            "of": self.of_rows,
            "neighbours": NEIGHBOURS,
            "file": None if self.file is None else base64.b64encode(self.file).decode(),
            "words": None if self.words is None else list(self.words),
            "cosine": _encoded(cosine),
            "before": _encoded(self.before),
            "after": _encoded(self.after),
        }


def word_view(runs: Runs) -> WordView | str:
    """The word view of the first run's first pick, or a sentence that says why there is none."""
    run_dir = runs.dirs[0]
    found = answers(recommend(run_dir), "")
    if not found:
        return "No trial succeeded, so there is no table to look at."
    pick = found[0].pick
    path = run_dir / artifact_name(pick.trial_keys[0]) if pick.trial_keys else None
    if path is None or not path.is_file():
        return "The pick's compressed file is not in the run's folder (keep_artifacts says which files a sweep keeps)."
    try:
        artifact = read(path)
    except ArtifactError as error:
        return f"The pick's compressed file cannot be read: {error}"
    quantizer = artifact.quantizer
    count = min(MAX_ROWS, quantizer.num_embeddings)
    rows = quantizer.reconstruct(torch.arange(count))
    original = _uncompressed(runs, pick, run_dir, count, quantizer.shape)
    carried = path.read_bytes() if artifact.file_bytes <= MAX_FILE_BYTES else None
    words = None if quantizer.words is None or carried is not None else quantizer.words[:count]
    return WordView(
        method=quantizer.name,
        num_rows=count,
        of_rows=quantizer.num_embeddings,
        file=carried,
        file_bytes=artifact.file_bytes,
        words=words,
        cosine=None if original is None else torch.cosine_similarity(rows, original, dim=1).numpy(),
        before=None if original is None else nearest(original),
        after=None if carried is not None else nearest(rows),
    )


def _uncompressed(runs: Runs, pick: Recommendation, run_dir: Path, count: int, shape: tuple[int, int]) -> Tensor | None:
    """The first ``count`` rows of the table that the pick was made of; None where the run does not have it."""
    names = [*_SAME_TABLE, "seed", "trial_key", "quantizer"]
    trials = runs.trials.filter(pc.equal(runs.trials["status"], "ok")).select(names).to_pylist()
    by_key = {row["trial_key"].rpartition(":")[2]: row for row in trials}  # with several runs a key has a number before it
    mine = by_key[pick.trial_keys[0]]
    baselines = [
        (row["seed"] != mine["seed"], key)
        for key, row in by_key.items()
        if row["quantizer"] == "identity" and all(row[name] == mine[name] for name in _SAME_TABLE)
    ]
    for _, key in sorted(baselines):
        try:
            with safe_open(run_dir / artifact_name(key), framework="pt") as file:
                rows: Tensor = file.get_slice("vectors")[:count]
        except (SafetensorError, OSError):
            continue
        if rows.shape == (count, shape[1]):
            return rows.to(torch.float32)
    return None


def nearest(rows: Tensor, count: int = NEIGHBOURS) -> np.ndarray:
    """The rows of the largest cosine with each row, itself left out: (V, D) -> (V, k) uint16, nearest first."""
    unit = torch.nn.functional.normalize(rows, dim=1)
    found = []
    for start in range(0, len(unit), _CHUNK_ROWS):
        cosines = unit[start : start + _CHUNK_ROWS] @ unit.T
        cosines[torch.arange(len(cosines)), torch.arange(start, start + len(cosines))] = -2
        found.append(cosines.topk(min(count, len(unit) - 1), dim=1).indices)
    return torch.cat(found).numpy().astype("<u2")


def _encoded(values: np.ndarray | None) -> str | None:
    return None if values is None else base64.b64encode(values.tobytes()).decode()
