"""Proposals fill their budgets: at least 97 % of the bytes, or there is a reason."""

import numpy as np
import pytest

import quantizers
from quantizers import Budget, Skip, TableStats

SHAPES = ((10_000, 50), (50_000, 100), (50_000, 300))
RATIOS = (4, 8, 16, 32, 64, 128)
LEAST = 0.97
WHOLE_BYTES = "a row's codes are whole bytes, and what would use the bytes left over is predicted to be worse"
# Why a first proposal is smaller than the budget, and where: rows, columns, how many times smaller.
REASONS: dict[str, dict[str, list[tuple[int, int, int]]]] = {
    "bin": {
        "one bit more takes another byte of each row": [(10_000, 50, 128), (50_000, 300, 128)],
    },
    "dccl": {
        "256 books and 4,096 codewords at the most: its network has an output for each": [(50_000, 300, 4)],
    },
    "dpq": {WHOLE_BYTES: [(10_000, 50, 128)]},
    "lowrank": {
        "all axes in 8 bits are predicted to be better than some in 16": [(10_000, 50, 4)],
        "axes of 4 bits come in pairs, to fill a byte": [
            (10_000, 50, 128),
            (50_000, 100, 16),
            (50_000, 100, 32),
            (50_000, 100, 64),
        ],
    },
    "lsq": {
        "128 books and 16,384 codewords at the most: the time of a fit goes with them": [(50_000, 300, 4), (50_000, 300, 8)],
    },
    "opq": {
        "every column has a code already, and one bit more of each is too much": [
            (10_000, 50, 4),
            (50_000, 100, 4),
            (50_000, 300, 4),
        ],
        WHOLE_BYTES: [(10_000, 50, 16), (50_000, 100, 64), (50_000, 100, 128)],
    },
    "pq": {
        "every column has a code already, and one bit more of each is too much": [
            (10_000, 50, 4),
            (50_000, 100, 4),
            (50_000, 300, 4),
        ],
    },
    "rq": {"256 books at the most: the time of a fit goes with their square": [(50_000, 300, 4)]},
    "scalar": {
        "one bit more of each value takes more than is left": [
            (rows, columns, ratio) for rows, columns in SHAPES for ratio in (4, 8, 16)
        ],
    },
    "transform": {WHOLE_BYTES: [(10_000, 50, 32), (10_000, 50, 128), (50_000, 300, 128)]},
    "tt": {"one rank more takes more than is left": [(10_000, 50, 32), (10_000, 50, 64), (10_000, 50, 128)]},
}


def fills(name: str) -> dict[tuple[int, int, int], float]:
    """The share of the budget that the first proposal of a method takes, for a spectrum like GloVe's."""
    method, found = quantizers.get(name), {}
    for rows, columns in SHAPES:
        stats = TableStats(rows, columns, np.arange(1, columns + 1) ** -0.4)
        for ratio in RATIOS:
            budget = Budget.from_ratio(ratio, stats.shape)
            proposed = method.configs_for(budget, stats)
            if not isinstance(proposed, Skip):
                found[rows, columns, ratio] = method.storage(proposed[0], stats.shape).payload_bytes / budget.payload_bytes
    return found


# Of variable length: they fill what they are given, and their prediction is that.
VARIABLE = ("adacomp", "transform_entropy", "trellis")


OWN = [name for name, cls in quantizers.list_methods().items() if cls.__module__.startswith("quantizers.")]


@pytest.mark.parametrize("name", [name for name in OWN if name not in VARIABLE])
def test_proposals_fill_their_budgets(name: str) -> None:
    small = {where for where, fill in fills(name).items() if fill < LEAST}
    assert small == {where for places in REASONS.get(name, {}).values() for where in places}
