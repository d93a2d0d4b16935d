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

from quantizers.coding.words import Words, encode_words
from quantizers.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """An embedding table: what every method compresses.

    Attributes:
        vectors: (N, D) float32, contiguous, finite.
        words: N words in row order, or None; kept as :class:`quantizers.coding.words.Words`. Of a word with several rows,
            the first is the one that is found.
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
        if not isinstance(vectors, Tensor):
            raise InputError(f"{self.name}: a table must be a torch tensor, not {type(vectors).__name__}.")
        if vectors.ndim != 2 or 0 in vectors.shape:
            raise InputError(f"{self.name}: a table must be (N, D) with N, D >= 1, not {tuple(vectors.shape)}.")
        if not vectors.is_floating_point():
            raise InputError(f"{self.name}: a table must hold floating-point numbers, not {vectors.dtype}.")
        object.__setattr__(self, "vectors", vectors.detach().to(torch.float32).contiguous())
        # One pass without a temporary of the table's size: a sum is finite if, and almost only if, all values are.
        if not all(torch.isfinite(part.sum(dtype=torch.float64)) for part in torch.split(self.vectors, 1 << 14)):
            bad = torch.nonzero(~torch.isfinite(self.vectors).all(dim=1)).flatten()
            if len(bad):
                row = int(bad[0])
                word = f" ({self.words[row]!r})" if self.words is not None else ""
                raise InputError(
                    f"{self.name}: {len(bad)} of {len(vectors)} rows hold NaN or infinity, the first is row {row}{word}."
                )
        if self.words is not None and len(self.words) != len(vectors):
            raise InputError(f"{self.name}: {len(self.words)} words for {len(vectors)} rows.")
        if self.words is not None:
            # Words that cannot be stored are refused before a long fit, not after.
            words = self.words if isinstance(self.words, Words) else Words(self.words, self.name)
            object.__setattr__(self, "words", words)
        if self.counts is not None:
            if tuple(self.counts.shape) != (len(vectors),):
                raise InputError(f"{self.name}: counts must be ({len(vectors)},), not {tuple(self.counts.shape)}.")
            object.__setattr__(self, "counts", self.counts.to(torch.float32))

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
            state.update(encode_words(self.words))
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


def checked_weights(weights: Tensor, table: Table) -> Tensor:
    """Row weights (N,) with mean 1, on the table's device.

    Raises:
        InputError: they do not fit the table, one is negative, or all are zero.
    """
    if tuple(weights.shape) != (table.num_embeddings,):
        raise InputError(f"weights must be ({table.num_embeddings},), one a row, not {tuple(weights.shape)}.")
    weights = weights.to(device=table.vectors.device, dtype=torch.float64)
    mean = float(weights.mean())
    if not 0 < mean < float("inf") or float(weights.min()) < 0:
        raise InputError("weights must be finite, not negative, and not all zero.")
    return (weights / mean).to(torch.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class TableStats:
    """What a method may look at to choose its configurations, without the table itself.

    Attributes:
        num_embeddings: N.
        embedding_dim: D.
        eigenvalues: (D,) of the centred covariance, descending (the PCA spectrum).
        has_counts: whether the table carries word frequencies.
        under_metric: whether the fit will see the table under a metric (:mod:`quantizers.fitting.distortion`), which the
            eigenvalues do not know.
    """

    num_embeddings: int
    embedding_dim: int
    eigenvalues: np.ndarray
    has_counts: bool = False
    under_metric: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return self.num_embeddings, self.embedding_dim

    @property
    def dense_bytes(self) -> int:
        """Bytes of the uncompressed float32 table: 4 * N * D."""
        return 4 * self.num_embeddings * self.embedding_dim

    @classmethod
    def unseen(cls, num_embeddings: int, embedding_dim: int) -> TableStats:
        """Of a table that is still to be trained: every direction counts the same."""
        return cls(num_embeddings, embedding_dim, np.ones(embedding_dim))

    @classmethod
    def of(cls, table: Table) -> TableStats:
        """Measure ``table``."""
        return cls(table.num_embeddings, table.embedding_dim, _spectrum(table.vectors), table.counts is not None)


def _spectrum(vectors: Tensor) -> np.ndarray:
    parts = torch.split(vectors, 1 << 13)  # so that no float64 copy of the whole table is made
    mean = torch.stack([part.sum(dim=0, dtype=torch.float64) for part in parts]).sum(dim=0) / len(vectors)
    second = torch.zeros((vectors.shape[1], vectors.shape[1]), dtype=torch.float64, device=vectors.device)
    for part in parts:
        centred = part.to(torch.float64).sub_(mean)
        second += centred.T @ centred
    values = torch.linalg.eigvalsh(second / len(vectors)).flip(0).clamp_min(0)
    return np.asarray(values.cpu().numpy())
