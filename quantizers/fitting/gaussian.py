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
