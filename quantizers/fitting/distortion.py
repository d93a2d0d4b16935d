"""Fitting under a metric: errors that a task feels count more than those it does not.

The squared error of a row, ``|x - y|^2``, becomes ``|(x - y) A|^2`` with A (D, D). With A the root of the second moment of a
loss's gradients it is, to second order, what the error adds to the loss (the Fisher approximation; Hassibi & Stork 1993 for
a network's weights, here for vectors).

A method whose rows are linear in stored vectors (codebooks, axes, a mean) needs nothing more for it: it is fitted to the
table times A, and then the stored vectors are multiplied by the inverse of A. Vectors that are stored in int8, with a
factor each, get new factors. The file is as large as without, and is read by the same code::

    quantizer = unfold(quantizers.create("rq").fit(under(table, metric)), metric)

Shapes: N rows, D columns, B batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantizers.base import Quantizer
from quantizers.coding.int8 import to_int8_like
from quantizers.embedding import CompressedEmbedding
from quantizers.errors import InputError
from quantizers.learned import LearnedEmbedding
from quantizers.table import Table


def under(table: Table, metric: Tensor) -> Table:
    """The table times the metric.

    Raises:
        InputError: the metric does not fit the table, or has no inverse.
    """
    dim = table.embedding_dim
    if tuple(metric.shape) != (dim, dim):
        raise InputError(f"The metric of {table.name} must be ({dim}, {dim}), not {tuple(metric.shape)}.")
    if not bool(torch.isfinite(metric).all()) or int(torch.linalg.matrix_rank(metric.double())) < dim:
        raise InputError(f"The metric of {table.name} must be finite and have an inverse.")
    metric = metric.to(device=table.vectors.device, dtype=torch.float32)
    return Table(table.vectors @ metric, table.words, table.counts, table.name)


def unfold(quantizer: Quantizer, metric: Tensor) -> Quantizer:
    """The quantizer of the table itself, from one that was fitted under ``metric``.

    Raises:
        InputError: the method's rows are not linear in what it stores.
    """
    if not quantizer.takes_metric(quantizer.config):
        raise InputError(f"{quantizer.name} cannot be fitted under a metric: its rows are not linear in what it stores.")
    inverse = torch.linalg.inv(metric.double()).to(quantizer.device)
    state = quantizer.state()
    for name in quantizer.linear_state:
        if name not in state:
            continue
        if (scale := state.get(f"{name}_scale")) is not None:
            values = state[name].double() * scale.double()[..., None]
            state[name], state[f"{name}_scale"] = to_int8_like(values @ inverse, scale)
        else:
            dtype = state[name].dtype
            largest = torch.finfo(dtype).max
            state[name] = (state[name].double() @ inverse).clamp(-largest, largest).to(dtype)
    found = type(quantizer).from_state(quantizer.config, state, shape=quantizer.shape)
    found.words, found.encode_seconds = quantizer.words, quantizer.encode_seconds
    return found


class UnderMetric(LearnedEmbedding):
    """A training module of a quantizer that was fitted under a metric; its rows are those of the table itself.

    Args:
        inner: the training module under the metric.
        quantizer: the quantizer that it trains, under the metric too.
        table: the table itself.
        metric: (D, D).
    """

    inverse: Tensor

    def __init__(self, inner: CompressedEmbedding, quantizer: Quantizer, table: Table, metric: Tensor) -> None:
        super().__init__(quantizer, table)
        self.inner = inner
        self._metric = metric
        self.register_buffer("inverse", torch.linalg.inv(metric.double()).to(table.vectors), persistent=False)

    def soft(self, ids: Tensor) -> Tensor:
        """Rows under the metric, brought back."""
        rows: Tensor = self.inner(ids) @ self.inverse
        return rows

    def build(self) -> Quantizer:
        """The inner quantizer, unfolded."""
        return unfold(self.inner.harden(), self._metric)

    def regularizer(self) -> Tensor:
        """The inner module's."""
        return self.inner.regularizer()

    def set_progress(self, fraction: float) -> None:
        """Tell the inner module."""
        self.inner.set_progress(fraction)

    def rate_scales(self) -> dict[nn.Parameter, float]:
        """The inner module's."""
        return self.inner.rate_scales()

    @property
    def annealing(self) -> bool:
        """The inner module's."""
        return self.inner.annealing

    def curves(self) -> dict[str, float]:
        """The inner module's."""
        return self.inner.curves()


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
