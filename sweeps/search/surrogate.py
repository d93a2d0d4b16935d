"""What a configuration will cost and come to, guessed from those that ran: a Gaussian process over methods and parameters.

The kernel adds what all methods have in common, what a method has of its own, and what its parameters do:

    k(a, b) = s0 + s1 r_a r_b + s2 E1(x) + [same method] (s3 + s4 r_a r_b + s5 E2(x) + s6 E3(x) exp(-sum_p d_p^2 / 2 l_p^2))

with x the logarithm of the payload, r the payload itself (the logarithm of an error falls in a straight line with the
bits of a row), E squared exponentials, and d_p the distance in parameter p. Scales and lengths maximize the likelihood
times log-normal priors.

Shapes: C candidates, n observed ones, F columns of parameters.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from analysis.statistics import Floats

_MANY = 4.0  # numbers that differ by more than this factor are taken as logarithms
# Medians and log-deviations of the scales (the observations have variance 1) and of the lengths (columns have spread 1).
_PRIOR = {
    "constant": (0.3, 1.5),
    "linear": (0.3, 1.5),
    "curve": (0.6, 1.5),
    "method": (0.3, 1.5),
    "method_linear": (0.1, 1.5),
    "method_curve": (0.3, 1.5),
    "parameters": (0.3, 1.5),
    "noise": (0.003, 1.5),
    "curve_length": (0.6, 0.7),
    "method_length": (0.6, 0.7),
    "parameters_length": (1.0, 0.7),
}
_PARAMETER_LENGTH = (2.0, 1.0)
_ITERATIONS = 40


@dataclasses.dataclass(frozen=True)
class Features:
    """Candidates as numbers: logarithm of the payload (C,), payload (C,), method (C,), parameters (C, F); float64."""

    log_size: Tensor
    size: Tensor
    method: Tensor
    parameters: Tensor

    def __getitem__(self, rows: Sequence[int]) -> Features:
        index = torch.tensor(list(rows), dtype=torch.int64)
        return Features(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))


def encode(methods: Sequence[str], payload_bytes: Sequence[int], parameters: Sequence[Mapping[str, Any]]) -> Features:
    """Candidates as numbers.

    A parameter is a column: numbers scaled to [0, 1], as logarithms where they span a lot; anything else is a column for
    each of its values. A parameter that never varies is left out.
    """
    size = np.asarray(payload_bytes, dtype=np.float64)
    names = sorted({name for one in parameters for name in one})
    columns = [column for name in names for column in _columns(name, parameters)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(methods))}
    table = np.stack(columns, axis=1) if columns else np.zeros((len(size), 0))
    return Features(
        torch.from_numpy(_standard(np.log(size))),
        torch.from_numpy(_standard(size)),
        torch.tensor([numbers[name] for name in methods]),
        torch.from_numpy(table),
    )


def _standard(values: Floats) -> Floats:
    return np.asarray((values - values.mean()) / (values.std() or 1.0))


def _columns(name: str, parameters: Sequence[Mapping[str, Any]]) -> list[Floats]:
    values = [one.get(name) for one in parameters]
    numeric = np.array([_number(value) for value in values])
    out = []
    known = numeric[np.isfinite(numeric)]
    if len(known) and np.ptp(known) > 0:
        if known.min() > 0 and known.max() / known.min() > _MANY:
            numeric, known = np.log(numeric), np.log(known)
        out.append(np.nan_to_num((numeric - known.min()) / np.ptp(known)))
    texts = [
        None if value is None or math.isfinite(number) else str(value) for value, number in zip(values, numeric, strict=True)
    ]
    distinct = sorted({text for text in texts if text is not None})
    if len(distinct) > 1:
        out += [np.array([float(text == one) for text in texts]) for one in distinct]
    return out


def _number(value: Any) -> float:
    """A number as it is, a list of numbers (code lengths) as its sum, anything else as NaN."""
    if isinstance(value, list | tuple):
        return sum(_number(one) for one in value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


class GaussianProcess:
    """A Gaussian process over :class:`Features`."""

    def __init__(self, features: Features) -> None:
        self._features = features
        prior = [*_PRIOR.values(), *[_PARAMETER_LENGTH] * features.parameters.shape[1]]
        self._median = torch.tensor([math.log(median) for median, _ in prior], dtype=torch.float64)
        self._spread = torch.tensor([spread for _, spread in prior], dtype=torch.float64)
        self._theta = self._median.clone()
        self._learned_from = 0

    def _kernel(self, theta: Tensor, a: Features, b: Features) -> Tensor:
        value = dict(zip(_PRIOR, torch.exp(theta[: len(_PRIOR)]), strict=True))
        inverse = torch.exp(-theta[len(_PRIOR) :])
        apart = (a.log_size[:, None] - b.log_size[None]) ** 2
        line = a.size[:, None] * b.size[None]
        same = (a.method[:, None] == b.method[None]).to(torch.float64)

        def bump(length: str) -> Tensor:
            return torch.exp(-0.5 * apart / value[length] ** 2)

        left, right = a.parameters * inverse, b.parameters * inverse
        far = (left**2).sum(1)[:, None] + (right**2).sum(1)[None] - 2 * left @ right.T
        own = value["method"] + value["method_linear"] * line + value["method_curve"] * bump("method_length")
        own = own + value["parameters"] * bump("parameters_length") * torch.exp(-0.5 * far.clamp(min=0))
        common = value["constant"] + value["linear"] * line + value["curve"] * bump("curve_length")
        return torch.addcmul(common, same, own)

    def _factor(self, theta: Tensor, rows: Features, noise: Tensor) -> Tensor:
        own = torch.exp(theta[list(_PRIOR).index("noise")]) + noise + 1e-6
        factor: Tensor = torch.linalg.cholesky(self._kernel(theta, rows, rows) + torch.diag(own))
        return factor

    def predict(self, observed: Sequence[int], values: Floats, noise: Floats | None = None) -> tuple[Floats, Floats]:
        """Mean and standard deviation (C,), (C,) of all candidates.

        Args:
            observed: (n,) numbers of candidates.
            values: (n,) what was seen.
            noise: (n,) variance of each, for guesses that stand for what was not seen to its end.
        """
        values = np.asarray(values, dtype=np.float64)
        centre, scale = values.mean(), max(values.std(), 1e-3)
        y = torch.from_numpy((values - centre) / scale)
        extra = torch.zeros(len(y), dtype=torch.float64) if noise is None else torch.from_numpy(noise / scale**2)
        rows = self._features[observed]
        if len(y) >= 1.15 * self._learned_from:
            self._learn(rows, y, extra)
        with torch.no_grad():
            factor = self._factor(self._theta, rows, extra)
            weights = torch.cholesky_solve(y[:, None], factor)
            cross = self._kernel(self._theta, self._features, rows)
            mean = (cross @ weights)[:, 0]
            # The diagonal of the kernel of the candidates with themselves.
            value = dict(zip(_PRIOR, torch.exp(self._theta[: len(_PRIOR)]), strict=True))
            own = value["constant"] + value["curve"] + value["method"] + value["method_curve"] + value["parameters"]
            own = own + (value["linear"] + value["method_linear"]) * self._features.size**2
            variance = own - (torch.linalg.solve_triangular(factor, cross.T, upper=False) ** 2).sum(0) + value["noise"]
        deviation = np.sqrt(np.maximum(variance.numpy(), 1e-9))
        return np.asarray(centre + scale * mean.numpy()), np.asarray(scale * deviation)

    def _learn(self, rows: Features, y: Tensor, noise: Tensor) -> None:
        def loss(point: Floats) -> tuple[float, Floats]:
            theta = torch.tensor(point, requires_grad=True)
            factor = self._factor(theta, rows, noise)
            half = torch.linalg.solve_triangular(factor, y[:, None], upper=False)
            away = (theta - self._median) / self._spread
            total = 0.5 * (half**2).sum() + torch.log(torch.diagonal(factor)).sum() + 0.5 * (away**2).sum()
            total.backward()
            assert theta.grad is not None
            return total.item(), theta.grad.numpy()

        low, high = (self._median - 3 * self._spread).numpy(), (self._median + 3 * self._spread).numpy()
        found = minimize(
            loss,
            self._theta.numpy(),
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(low, high, strict=True)),
            options={"maxiter": _ITERATIONS},
        )
        self._theta = torch.tensor(found.x)
        self._learned_from = len(y)
