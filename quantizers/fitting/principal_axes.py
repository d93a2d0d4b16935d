"""Principal axes of a table and sums over its coordinates: what low rank and transform coding share.

Pearson 1901; Eckart & Young 1936: of all approximations of rank r, the projection on the first r axes has the least squared
error. The axes are the eigenvectors of the D x D second moment, so that no N x D decomposition is ever made.

Shapes: N rows, D columns, r axes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_CHUNK_VALUES = 1 << 18


def principal_axes(vectors: Tensor, weights: Tensor | None, *, center: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variances and axes of a table, in float64.

    Args:
        vectors: (N, D) float32.
        weights: (N,) with mean 1: each row's share in the moments; or None.
        center: whether the mean is taken off first; a mean of 0 is returned where not.

    Returns:
        The mean (D,); the variances along the axes, descending (D,); the axes, one a row (D, D), each with its largest
        component positive, so that its sign does not depend on the solver.
    """
    dim = vectors.shape[1]
    step = max(1, _CHUNK_VALUES // dim)
    shares = None if weights is None else weights.to(torch.float64)
    mean = torch.zeros(dim, dtype=torch.float64, device=vectors.device)
    if center:
        for start in range(0, len(vectors), step):
            rows = vectors[start : start + step].to(torch.float64)
            mean += rows.sum(dim=0) if shares is None else shares[start : start + step] @ rows
        mean /= len(vectors)
    moment = torch.zeros((dim, dim), dtype=torch.float64, device=vectors.device)
    for start in range(0, len(vectors), step):
        rows = vectors[start : start + step].to(torch.float64) - mean
        moment.addmm_(rows.T, rows if shares is None else rows * shares[start : start + step, None])
    moment /= len(vectors)
    values, columns = torch.linalg.eigh((moment + moment.T) / 2)
    axes = columns.T.flip(0)
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    return mean, values.flip(0).clamp_min(0), axes * torch.where(largest < 0, -1.0, 1.0)


def project(vectors: Tensor, mean: Tensor, axes: Tensor) -> Tensor:
    """Coordinates of rows along axes: (N, D), mean (D,), axes (r, D) -> (N, r) float32."""
    out = torch.empty((len(vectors), len(axes)), dtype=torch.float32, device=vectors.device)
    step = max(1, _CHUNK_VALUES // vectors.shape[1])
    for start in range(0, len(vectors), step):
        rows = vectors[start : start + step].to(torch.float64) - mean
        out[start : start + step] = rows @ axes.T
    return out


class Coordinates:
    """Coordinates of a table along axes, made where they are looked at: there are never N x r of them.

    Args:
        vectors: (N, D) float32.
        mean: (D,) float64.
        axes: (r, D) float64.
    """

    def __init__(self, vectors: Tensor, mean: Tensor, axes: Tensor) -> None:
        self._vectors, self._mean, self._axes = vectors, mean, axes
        self.shape, self.device = (len(vectors), len(axes)), vectors.device

    def __len__(self) -> int:
        return len(self._vectors)

    def __getitem__(self, rows: slice) -> Tensor:
        """Of some rows: (n, r) float32."""
        return project(self._vectors[rows], self._mean, self._axes)

    def chunks(self, chunk_rows: int | None = None) -> Iterator[tuple[slice, Tensor]]:
        """Rows, and their coordinates (n, r); for sums always as many at a time, so that they are the same bit for bit."""
        step = chunk_rows or max(1, _CHUNK_VALUES // self._vectors.shape[1])
        for start in range(0, len(self), step):
            rows = slice(start, min(start + step, len(self)))
            yield rows, self[rows]

    def ends(self) -> tuple[Tensor, Tensor]:
        """Least and largest of each axis: two (r,)."""
        low = torch.full((self.shape[1],), torch.inf, device=self.device)
        high = -low
        # Compared as they come: small results kept between large temporaries would pin the allocator's memory.
        for _, values in self.chunks():
            torch.minimum(low, values.amin(dim=0), out=low)
            torch.maximum(high, values.amax(dim=0), out=high)
        return low, high

    def peak(self) -> float:
        """The largest magnitude."""
        low, high = self.ends()
        return float(torch.maximum(-low, high).amax())

    def scaled(self, factor: float) -> Coordinates:
        """All of them times ``factor``."""
        return Coordinates(self._vectors, self._mean, self._axes * factor)


def sums_per_part(
    chunks: Iterator[tuple[slice, Tensor]], low: Tensor, span: Tensor, parts: int, weights: Tensor | None
) -> Tensor:
    """Histograms of all columns, from which the error of any quantizer follows without another look at the values.

    Args:
        chunks: rows and their values (n, r), one after another.
        low: (r,) where each column's first part begins.
        span: (r,) length of all its parts together, above 0; what lies outside counts for the first or last part.
        parts: of equal length.
        weights: (N,) or None.

    Returns:
        (3, parts, r) float64: weighted sums of 1, z and z^2 over each part, with z = (value - low) / span.
    """
    rank = len(low)
    sums = torch.zeros((3, parts * rank), dtype=torch.float64, device=low.device)
    for rows, values in chunks:
        place = ((values - low) / span).to(torch.float64)
        part = (place * parts).to(torch.int64).clamp_(0, parts - 1) * rank + torch.arange(rank, device=low.device)
        share = torch.ones_like(place) if weights is None else weights[rows, None].expand_as(place)
        for power, total in enumerate(sums):
            total.index_add_(0, part.reshape(-1), (share * place**power).reshape(-1))
    return sums.reshape(3, parts, rank)
