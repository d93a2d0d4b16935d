"""How far a reconstruction is from its table.

Shapes: N rows, D columns; x a row, y its reconstruction, e = x - y.

Sums run over the values of a row first and over rows after that, both in float64 and in an order that does not depend on the
number of threads, so that the same file gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from quantizers.errors import InputError
from quantizers.table import Table
from trainables.task import Metric

METRICS = (
    Metric("mse", "min", description="mean squared error of a value"),
    Metric("half_mse", "min", description="half the squared error of a row, mean over rows"),
    Metric("nmse", "min", description="mse over the variance of the column-centred table; 1 = the mean row for every row"),
    Metric("weighted_mse", "min", description="mse with every row's error weighted"),
    Metric("cosine", "max", description="cosine of a row and its reconstruction, mean over rows"),
    Metric("sqnr_db", "max", "dB", "energy of the table over energy of the error; infinite for an exact reconstruction"),
    Metric("max_abs_error", "min", description="largest absolute error of a value"),
)
_CHUNK_VALUES = 1 << 20


def measure(
    table: Table, rebuilt: Tensor | Callable[[Tensor], Tensor], weights: Tensor | None = None
) -> dict[str, float | None]:
    """Compare a table with its reconstruction.

    An exact reconstruction has mse 0 and sqnr_db infinite; a table of zeros that was not rebuilt exactly has sqnr_db minus
    infinity. Two zero rows have cosine 1, a zero row and another one 0. A constant table has nmse 0 if the reconstruction
    is exact, else infinite. Nothing is NaN where the reconstruction is finite.

    Args:
        table: the original.
        rebuilt: (N, D) dense, or what rebuilds rows: (B,) int64 -> (B, D), like ``Quantizer.reconstruct``.
        weights: (N,) how much each row's error counts in ``weighted_mse``; their scale does not matter.

    Returns:
        Every metric of ``METRICS`` by name; ``weighted_mse`` is None without weights.

    Raises:
        InputError: the reconstruction or the weights have another shape.
    """
    num_rows, dim = table.shape
    if isinstance(rebuilt, Tensor) and tuple(rebuilt.shape) != table.shape:
        raise InputError(f"The reconstruction is {tuple(rebuilt.shape)}, the table {table.shape}.")
    if weights is not None and tuple(weights.shape) != (num_rows,):
        raise InputError(f"weights must be ({num_rows},), one a row, not {tuple(weights.shape)}.")
    device = table.vectors.device
    mean = _column_means(table.vectors)
    errors, energies, centred, cosines = (np.empty(num_rows) for _ in range(4))
    largest = 0.0
    step = max(1, _CHUNK_VALUES // dim)
    for start in range(0, num_rows, step):
        rows = slice(start, min(start + step, num_rows))
        if isinstance(rebuilt, Tensor):
            part = rebuilt[rows]
        else:
            with torch.no_grad():
                part = rebuilt(torch.arange(rows.start, rows.stop, device=device))
        x = table.vectors[rows].to(torch.float64)
        y = part.to(device=device, dtype=torch.float64)
        difference = x - y
        largest = max(largest, float(difference.abs().max()))
        energy_x, energy_y = x.square().sum(dim=1), y.square().sum(dim=1)
        # Products of exact squares: a row equal to its reconstruction has a cosine of exactly 1.
        norms = (energy_x * energy_y).sqrt()
        cosine = torch.where(norms > 0, (x * y).sum(dim=1) / norms.clamp_min(1e-300), (energy_x == energy_y).double())
        errors[rows] = difference.square().sum(dim=1).cpu().numpy()
        energies[rows] = energy_x.cpu().numpy()
        centred[rows] = (x - mean).square().sum(dim=1).cpu().numpy()
        cosines[rows] = cosine.cpu().numpy()
    error, energy, spread = float(errors.sum()), float(energies.sum()), float(centred.sum())
    return {
        "mse": error / (num_rows * dim),
        "half_mse": error / (2 * num_rows),
        "nmse": _ratio(error, spread),
        "weighted_mse": None if weights is None else _weighted(errors, weights) / dim,
        "cosine": float(cosines.mean()),
        "sqnr_db": _decibels(energy, error),
        "max_abs_error": largest,
    }


def together(shapes: Sequence[tuple[int, int]], measured: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The metrics of several tables taken as one set of values.

    Errors are added up before anything is divided by; ``cosine`` is the mean over all rows; ``weighted_mse`` is None, for
    weights of one table say nothing of another.

    Args:
        shapes: (N, D) of each table.
        measured: what :func:`measure` gave for each.
    """
    values, rows = np.array([n * d for n, d in shapes], dtype=np.float64), np.array([n for n, _ in shapes])
    column = {
        name: np.array([one[name] for one in measured], dtype=np.float64) for name in ("mse", "nmse", "sqnr_db", "cosine")
    }
    errors = column["mse"] * values
    error = float(errors.sum())
    # A table without an error does not say how far its values spread; the others' spread is then all that is known.
    known = (errors > 0) & np.isfinite(column["nmse"])
    spread = float((errors[known] / column["nmse"][known]).sum())
    energy = float((errors[errors > 0] * 10 ** (column["sqnr_db"][errors > 0] / 10)).sum())
    return {
        "mse": error / float(values.sum()),
        "half_mse": error / (2 * float(rows.sum())),
        "nmse": _ratio(error, spread),
        "weighted_mse": None,
        "cosine": float((column["cosine"] * rows).sum() / rows.sum()),
        "sqnr_db": _decibels(energy, error),
        "max_abs_error": max(float(one["max_abs_error"] or 0.0) for one in measured),
    }


def _column_means(vectors: Tensor) -> Tensor:
    """(D,) float64. Measured from the first row, so that the mean of a constant table is that row exactly."""
    origin = vectors[0].cpu().numpy().astype(np.float64)
    total = np.zeros_like(origin)
    for part in torch.split(vectors, max(1, _CHUNK_VALUES // vectors.shape[1])):
        total += (part.cpu().numpy() - origin).sum(axis=0)
    return torch.from_numpy(origin + total / len(vectors)).to(vectors.device)


def _weighted(errors: np.ndarray, weights: Tensor) -> float:
    """Weighted mean of the rows' squared errors."""
    shares = weights.detach().cpu().numpy().astype(np.float64)
    return float((errors * shares).sum() / shares.sum())


def _ratio(error: float, spread: float) -> float:
    if error == 0:
        return 0.0
    return error / spread if spread > 0 else math.inf


def _decibels(energy: float, error: float) -> float:
    if error == 0:
        return math.inf
    return 10 * math.log10(energy / error) if energy > 0 else -math.inf
