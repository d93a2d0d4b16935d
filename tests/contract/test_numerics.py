"""Numbers of every kind and size: the same table is the same in any memory, and what comes back is finite."""

import pytest
import torch

from quantizers import InputError, Skip, Table

pytestmark = pytest.mark.slow  # every method is fitted nine times


def normal(rows: int = 24, dim: int = 8) -> torch.Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(0))


SIZES = {
    "denormal": lambda: normal() * 1e-40,
    "the largest": lambda: normal() * 1e37,
    "both": lambda: torch.cat([normal(12) * 1e-38, normal(12) * 1e36]),
    "rows fewer than codes": lambda: normal(3),
    "duplicates": lambda: normal(3).repeat(8, 1),
    "negative zeros": lambda: -torch.zeros(24, 8),
}


@pytest.mark.parametrize("size", SIZES)
def test_what_comes_back_is_finite(method, size):
    table = Table(SIZES[size]()).to(method.device)
    cases = [method.first, *(case for _, case in method.proposals(table)[:1])]
    fitted = 0
    for case in cases:
        refused = case.check(table)
        try:
            quantizer = case.cls(case.config).fit(table)
        except InputError:
            assert isinstance(refused, Skip) and refused.reason.strip(), "check() accepts what fit() refuses"
            continue
        fitted += 1
        rebuilt = quantizer.to_dense()
        assert tuple(rebuilt.shape) == table.shape and torch.isfinite(rebuilt).all()
    if not fitted:
        pytest.skip("refused with a reason")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_same_numbers_in_other_types_and_memory(method, dtype):
    values = torch.randint(-100, 100, (40, 10), generator=torch.Generator().manual_seed(0)) / 64  # which all types hold
    plain = Table(values).to(method.device)
    wide = torch.zeros(10, 80, dtype=dtype, device=plain.vectors.device)
    wide[:, ::2] = plain.vectors.T.to(dtype)
    odd = wide[:, ::2].T
    assert not odd.is_contiguous() and odd.dtype == dtype
    case = method.first
    if isinstance(case.check(plain), Skip):
        pytest.skip("refused with a reason")
    one, other = (case.cls(case.config).fit(table) for table in (plain, Table(odd)))
    for name, tensor in one.state().items():
        assert torch.equal(tensor, other.state()[name]), name
