"""Fitting under a metric: errors that a task feels count more than those it does not.

The squared error of a row, ``|x - y|^2``, becomes ``|(x - y) A|^2`` with A (D, D). With A the root of the second moment of a
loss's gradients it is, to second order, what the error adds to the loss (the Fisher approximation; Hassibi & Stork 1993 for
a network's weights, here for vectors).

A method whose rows are linear in stored vectors (codebooks, axes, a mean) needs nothing more for it: it is fitted to the
table times A, and then the stored vectors are multiplied by the inverse of A. The file is as large as without, and is read
by the same code.

Shapes: N rows, D columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from quantizers.errors import InputError
from quantizers.table import Table


def checked(metric: Tensor, table: Table, method: str, linear_state: Sequence[str]) -> Tensor:
    """``metric`` as (D, D) float32 on the table's device.

    Raises:
        InputError: it does not fit the table, has no inverse, or the method's rows are not linear in what it stores.
    """
    dim = table.embedding_dim
    if not linear_state:
        raise InputError(f"{method} cannot be fitted under a metric: its rows are not linear in the vectors that it stores.")
    if tuple(metric.shape) != (dim, dim):
        raise InputError(f"The metric of {table.name} must be ({dim}, {dim}), not {tuple(metric.shape)}.")
    if not bool(torch.isfinite(metric).all()) or int(torch.linalg.matrix_rank(metric.double())) < dim:
        raise InputError(f"The metric of {table.name} must be finite and have an inverse.")
    return metric.to(device=table.vectors.device, dtype=torch.float32)


def under(table: Table, metric: Tensor) -> Table:
    """The table times the metric."""
    return Table(table.vectors @ metric, table.words, table.counts, table.name)


def undone(state: Mapping[str, Tensor], linear_state: Sequence[str], metric: Tensor) -> dict[str, Tensor]:
    """A state that was fitted under the metric, for the table itself: the stored vectors times the inverse."""
    inverse = torch.linalg.inv(metric.double())
    found = dict(state)
    for name in linear_state:
        if name in found:
            dtype = found[name].dtype
            largest = torch.finfo(dtype).max
            found[name] = (found[name].double() @ inverse).clamp(-largest, largest).to(dtype)
    return found


def root(moment: Tensor, floor: float) -> Tensor:
    """The metric of a second moment (D, D): its symmetric root, divided by the largest eigenvalue's.

    Args:
        moment: symmetric, not negative.
        floor: added to every eigenvalue, as a share of the largest; what the task never felt still counts that much.
    """
    values, vectors = torch.linalg.eigh(moment.double())
    largest = float(values[-1])
    if largest <= 0:
        return torch.eye(len(moment))
    scaled = (values.clamp_min(0) / largest + floor).sqrt()
    metric: Tensor = (vectors * scaled) @ vectors.T
    return metric.to(torch.float32)
