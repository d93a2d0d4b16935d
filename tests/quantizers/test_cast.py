import pytest
import torch

from quantizers import Budget, Skip, Table, TableStats, create
from quantizers.methods.cast import Cast

# Value, and what IEEE binary16, bfloat16, E4M3 and E5M2 make of it: nearest, ties to even; what is too large, clamped.
BY_HAND = [
    (0.0, 0.0, 0.0, 0.0, 0.0),
    (1.0, 1.0, 1.0, 1.0, 1.0),
    (-2.5, -2.5, -2.5, -2.5, -2.5),
    (1.0625, 1.0625, 1.0625, 1.0, 1.0),  # 1 + 1/16: halfway between E4M3's 1 and 1.125, the even one is 1
    (1.1875, 1.1875, 1.1875, 1.25, 1.25),  # halfway between 1.125 and 1.25, the even one is 1.25; E5M2 has 1 and 1.25
    (1 + 2**-11, 1.0, 1.0, 1.0, 1.0),  # halfway between binary16's 1 and 1 + 2**-10
    (1 + 3 * 2**-11, 1 + 2**-9, 1.0, 1.0, 1.0),  # halfway between 1 + 2**-10 and 1 + 2**-9, the even one is the larger
    (449.0, 449.0, 448.0, 448.0, 448.0),  # 449 = 256 * 1.7539: bfloat16 has 448 and 450, a tie, 448 is even
    (500.0, 500.0, 500.0, 448.0, 512.0),
    (60_000.0, 60_000.0, 59_904.0, 448.0, 57_344.0),  # bfloat16's steps are 256 there: 234.375 of them
    (70_000.0, 65_504.0, 70_144.0, 448.0, 57_344.0),  # 512: 136.7 of them
    (-(2.0**100), -65_504.0, -(2.0**100), -448.0, -57_344.0),
    (2**-24, 2**-24, 2**-24, 0.0, 0.0),  # binary16's smallest
    (2**-9, 2**-9, 2**-9, 2**-9, 2**-9),  # E4M3's smallest
    (2**-16, 2**-16, 2**-16, 0.0, 2**-16),  # E5M2's smallest
]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3", "float8_e5m2"])
def test_numbers_by_hand(dtype):
    column = 1 + ["float16", "bfloat16", "float8_e4m3", "float8_e5m2"].index(dtype)
    rebuilt = create("cast", dtype=dtype).fit(torch.tensor([[row[0]] for row in BY_HAND])).to_dense()
    assert rebuilt.flatten().tolist() == [row[column] for row in BY_HAND]


@pytest.mark.parametrize(("dtype", "width"), [("float16", 2), ("bfloat16", 2), ("float8_e4m3", 1), ("float8_e5m2", 1)])
def test_bytes(dtype, width):
    quantizer = create("cast", dtype=dtype).fit(torch.zeros(5, 3))
    assert quantizer.payload_bytes == 15 * width
    assert quantizer.measured_storage().code_bytes == 15 * width


@pytest.mark.parametrize(
    ("ratio", "dtypes"),
    [(1, ["float16", "bfloat16"]), (2, ["float16", "bfloat16"]), (2.1, ["float8_e4m3"]), (4, ["float8_e4m3"])],
)
def test_the_widest_types_that_fit(ratio, dtypes):
    stats = TableStats.of(Table(torch.randn(6, 4, generator=torch.Generator().manual_seed(0))))
    configs = Cast.configs_for(Budget.from_ratio(ratio, stats.shape), stats)
    assert [config.dtype for config in configs] == dtypes


def test_nothing_fits_beyond_ratio_four():
    stats = TableStats.of(Table(torch.ones(6, 4)))
    skip = Cast.configs_for(Budget(23), stats)
    assert isinstance(skip, Skip)
    assert "24 bytes" in skip.reason
