"""What a Gaussian may cost: reverse water-filling.

Reference: Cover & Thomas, Elements of Information Theory, section 10.3.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def gaussian_distortion(variances: np.ndarray[Any, np.dtype[np.float64]], bits: float) -> float:
    """The least squared error of a Gaussian at so many bits in all.

    Args:
        variances: (D,) of its independent components, in any order; those that are not above 0 cost nothing.
        bits: of all components together.
    """
    variances = np.sort(variances[variances > 0])[::-1]
    if not len(variances) or bits <= 0:
        return float(variances.sum())
    coded = np.arange(1, len(variances) + 1)
    log_level = (np.cumsum(np.log2(variances)) - 2 * bits) / coded  # the water level if so many components are coded
    last = int(np.nonzero(log_level <= np.log2(variances))[0][-1])
    return float(coded[last] * 2.0 ** log_level[last] + variances[last + 1 :].sum())


def gaussian_distortions(
    variances: np.ndarray[Any, np.dtype[np.float64]], bits: float
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """:func:`gaussian_distortion` of many Gaussians at once, at so many bits each.

    Args:
        variances: (B, D), a Gaussian a row.
        bits: of all components of one together.

    Returns:
        (B,).
    """
    variances = -np.sort(-np.maximum(variances, 0.0), axis=1)
    logarithms = np.log2(np.maximum(variances, 1e-300))
    coded = np.arange(1, variances.shape[1] + 1)
    log_level = (np.cumsum(logarithms, axis=1) - 2 * bits) / coded
    fits = (log_level <= logarithms) & (variances > 0)
    last = np.where(fits, coded, 0).max(axis=1)  # how many are coded
    rows = np.arange(len(variances))
    after = np.cumsum(variances, axis=1)[rows, last - 1]
    level = last * 2.0 ** log_level[rows, last - 1]
    found: np.ndarray[Any, np.dtype[np.float64]] = np.where(last > 0, level + variances.sum(axis=1) - after, 0.0)
    return found
