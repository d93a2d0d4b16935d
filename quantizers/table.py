"""An embedding table in memory, its content digest, and the statistics that methods plan with.

Shapes: N rows (num_embeddings), D columns (embedding_dim).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from quantizers.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """An embedding table: what every method compresses.

    Attributes:
        vectors: (N, D) float32, contiguous, finite.
        words: N distinct words in row order, or None.
        counts: (N,) float32 word frequencies, or None.
        name: for people; not part of the digest.

    Raises:
        InputError: the vectors are not a finite two-dimensional float table, or words or counts do not fit them.
    """

    vectors: Tensor
    words: Sequence[str] | None = None
    counts: Tensor | None = None
    name: str = "table"

    def __post_init__(self) -> None:
        vectors = self.vectors
        if vectors.ndim != 2 or 0 in vectors.shape:
            raise InputError(f"{self.name}: a table must be (N, D) with N, D >= 1, not {tuple(vectors.shape)}.")
        if not vectors.is_floating_point():
            raise InputError(f"{self.name}: a table must hold floating-point numbers, not {vectors.dtype}.")
        object.__setattr__(self, "vectors", vectors.detach().to(torch.float32).contiguous())
        # One pass without a temporary of the table's size: the sum is finite if, and almost only if, all values are.
        if not torch.isfinite(self.vectors.sum(dtype=torch.float64)):
            bad = torch.nonzero(~torch.isfinite(self.vectors).all(dim=1)).flatten()
            if len(bad):
                row = int(bad[0])
                word = f" ({self.words[row]!r})" if self.words is not None else ""
                raise InputError(
                    f"{self.name}: {len(bad)} of {len(vectors)} rows hold NaN or infinity, the first is row {row}{word}."
                )
        if self.words is not None and len(self.words) != len(vectors):
            raise InputError(f"{self.name}: {len(self.words)} words for {len(vectors)} rows.")
        if self.counts is not None and tuple(self.counts.shape) != (len(vectors),):
            raise InputError(f"{self.name}: counts must be ({len(vectors)},), not {tuple(self.counts.shape)}.")

    @property
    def num_embeddings(self) -> int:
        """N."""
        return int(self.vectors.shape[0])

    @property
    def embedding_dim(self) -> int:
        """D."""
        return int(self.vectors.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return self.num_embeddings, self.embedding_dim

    @functools.cached_property
    def digest(self) -> str:
        """Content digest (32 hexadecimal digits) of the shape, the values, and the words."""
        state = hashlib.blake2b(digest_size=16)
        state.update(repr(self.shape).encode())
        state.update(self.vectors.cpu().numpy().data.cast("B"))
        if self.words is not None:
            state.update("\n".join(self.words).encode("utf-8", "surrogateescape"))
        return state.hexdigest()

    def head(self, rows: int) -> Table:
        """The first ``rows`` rows, as a view."""
        if rows >= self.num_embeddings:
            return self
        return Table(
            self.vectors[:rows],
            None if self.words is None else self.words[:rows],
            None if self.counts is None else self.counts[:rows],
            self.name,
        )

    def to(self, device: torch.device | str) -> Table:
        """The same table on ``device``."""
        if self.vectors.device == torch.device(device):
            return self
        counts = None if self.counts is None else self.counts.to(device)
        return Table(self.vectors.to(device), self.words, counts, self.name)


@dataclasses.dataclass(frozen=True, eq=False)
class TableStats:
    """What a method may look at to choose its configurations, without the table itself.

    Attributes:
        num_embeddings: N.
        embedding_dim: D.
        eigenvalues: (D,) of the centred covariance, descending (the PCA spectrum).
        has_counts: whether the table carries word frequencies.
    """

    num_embeddings: int
    embedding_dim: int
    eigenvalues: np.ndarray
    has_counts: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return self.num_embeddings, self.embedding_dim

    @property
    def dense_bytes(self) -> int:
        """Bytes of the uncompressed float32 table: 4 * N * D."""
        return 4 * self.num_embeddings * self.embedding_dim

    @classmethod
    def of(cls, table: Table) -> TableStats:
        """Measure ``table``."""
        return cls(table.num_embeddings, table.embedding_dim, _spectrum(table.vectors), table.counts is not None)


def _spectrum(vectors: Tensor) -> np.ndarray:
    mean = vectors.mean(dim=0, dtype=torch.float64)
    second = torch.zeros((vectors.shape[1], vectors.shape[1]), dtype=torch.float64, device=vectors.device)
    for part in torch.split(vectors, 1 << 16):
        centred = part.to(torch.float64) - mean
        second += centred.T @ centred
    values = torch.linalg.eigvalsh(second / len(vectors)).flip(0).clamp_min(0)
    return np.asarray(values.cpu().numpy())
