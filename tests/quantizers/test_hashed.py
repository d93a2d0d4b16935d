import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from quantizers.base import Budget
from quantizers.methods.hashed import Hashed, HashedConfig
from quantizers.table import Table, TableStats

MASK = 0xFFFFFFFF


def murmur3_finalizer(value):
    value = (value ^ value >> 16) * 0x85EBCA6B & MASK
    value = (value ^ value >> 13) * 0xC2B2AE35 & MASK
    return value ^ value >> 16


def place(config, key):
    """Address and sign of a block, in Python's unbounded integers."""
    key = (key & MASK) ^ (key >> 32) * 0x9E3779B9 & MASK
    hashed = murmur3_finalizer(key ^ murmur3_finalizer(config.hash_seed))
    places = config.pool_size if config.overlapping else config.pool_size // config.block_size
    return hashed * places >> 32, (1 - 2 * (hashed & 1)) if config.signs else 1


def slots(config, row, dim):
    """For every column of a row, the value of the pool that it reads, and its sign."""
    width = config.block_size
    found = []
    for column in range(dim):
        address, sign = place(config, row * -(-dim // width) + column // width)
        start = address if config.overlapping else address * width
        found.append(((start + column % width) % config.pool_size, sign))
    return found


def test_the_finalizer_is_murmur3s():
    assert murmur3_finalizer(1) == 0x514E28B7  # the published value
    # With seed 0 (which the finalizer leaves 0) element 1 is read at 0x514E28B7 * 1000 >> 32 = 317.
    table = Hashed.from_state(HashedConfig(pool_size=1000), {"pool": torch.arange(1000.0)}, shape=(1, 2))
    assert table.to_dense().tolist() == [[0.0, 0x514E28B7 * 1000 >> 32]] == [[0.0, 317.0]]


def test_pool_of_one_value_holds_the_weighted_mean():
    table = torch.tensor([[1.0, 3.0], [5.0, 11.0]])
    hashed = Hashed(HashedConfig(pool_size=1)).fit(table, weights=torch.tensor([3.0, 1.0]))
    assert hashed.state()["pool"].tolist() == [(3 * 1 + 3 * 3 + 5 + 11) / 8]
    assert hashed.payload_bytes == 4


def test_one_block_a_row_holds_the_column_means():
    table = torch.tensor([[1.0, 3.0, 0.0], [5.0, 11.0, 1.0]])
    hashed = Hashed(HashedConfig(pool_size=4, block_size=3)).fit(table)  # rounded down to one block
    assert hashed.to_dense().tolist() == [[3.0, 7.0, 0.5], [3.0, 7.0, 0.5]]
    assert hashed.payload_bytes == 12


@settings(max_examples=60, deadline=None)
@given(
    num_rows=st.integers(1, 30),
    dim=st.integers(1, 12),
    block_size=st.integers(1, 14),
    pool=st.integers(0, 120),
    overlapping=st.booleans(),
    signs=st.booleans(),
    hash_seed=st.integers(0, MASK),
    seed=st.integers(0, 10**6),
)
def test_fit_is_least_squares_on_the_addresses(num_rows, dim, block_size, pool, overlapping, signs, hash_seed, seed):
    config = HashedConfig(
        pool_size=pool + block_size, block_size=block_size, overlapping=overlapping, signs=signs, hash_seed=hash_seed
    )
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(num_rows, dim))
    weights = rng.uniform(0.1, 2, num_rows)
    hashed = Hashed(config).fit(torch.from_numpy(vectors), weights=torch.from_numpy(weights))

    stored = Hashed.storage(config, (num_rows, dim)).payload_bytes // 4
    design = np.zeros((num_rows * dim, stored))
    for row in range(num_rows):
        for column, (slot, sign) in enumerate(slots(config, row, dim)):
            design[row * dim + column, slot] = sign
    scale = np.sqrt(np.repeat(weights, dim))
    solution = np.linalg.lstsq(design * scale[:, None], vectors.reshape(-1) * scale, rcond=None)[0]
    expected = (design @ solution).reshape(num_rows, dim)

    assert hashed.payload_bytes == 4 * stored
    np.testing.assert_allclose(hashed.to_dense().numpy(), expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(row=st.integers(0, 10**9 - 1), dim=st.integers(1, 300), hash_seed=st.integers(0, MASK))
def test_keys_beyond_32_bits(row, dim, hash_seed):
    config = HashedConfig(pool_size=100_003, hash_seed=hash_seed)
    table = Hashed.from_state(config, {"pool": torch.arange(100_003.0)}, shape=(10**9, dim))
    expected = [slot for slot, _ in slots(config, row, dim)]
    if 10**9 * dim <= MASK:
        assert row * dim + dim - 1 <= MASK
    assert table.reconstruct(torch.tensor([row])).tolist() == [expected]


@pytest.mark.parametrize("pool_size", [1 << 10, 1000])
def test_addresses_are_uniform(pool_size):
    pool = torch.arange(float(pool_size))
    table = Hashed.from_state(HashedConfig(pool_size=pool_size), {"pool": pool}, shape=(2000, 100))
    counts = torch.bincount(table.to_dense().to(torch.int64).reshape(-1), minlength=pool_size)
    expected = 200_000 / pool_size
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    # Mean pool_size - 1, standard deviation sqrt(2 * pool_size).
    assert abs(chi_squared - pool_size) < 5 * (2 * pool_size) ** 0.5


@pytest.mark.parametrize("options", [{}, {"block_size": 3}, {"block_size": 3, "overlapping": True, "signs": True}])
def test_gradient_of_the_pool(options):
    config = HashedConfig(pool_size=20, **options)
    module = Hashed.untrained(config, (6, 7), seed=1).training_module(Table(torch.zeros(6, 7)))
    module(torch.tensor([4, 2, 4])).sum().backward()
    expected = np.zeros(config.stored_values)
    for row in (4, 2, 4):
        for slot, sign in slots(config, row, 7):
            expected[slot] += sign
    assert next(module.parameters()).grad.tolist() == expected.tolist()


def test_untrained_pool():
    config = HashedConfig(pool_size=100_000)
    pool = Hashed.untrained(config, (10, 10), seed=3).state()["pool"]
    assert float(pool.std()) == pytest.approx(0.05, rel=0.02)
    assert abs(float(pool.mean())) < 0.001
    assert torch.equal(pool, Hashed.untrained(config, (10, 10), seed=3).state()["pool"])


def test_proposal_fills_the_budget_with_whole_blocks():
    stats = TableStats(1000, 100, np.ones(100))
    config = Hashed.configs_for(Budget(20_001), stats)[0]
    assert (config.pool_size, config.block_size, config.pool_dtype) == (10_000, 25, "float16")
    assert Hashed.configs_for(Budget(7), stats)[0].pool_size == 3


def test_a_block_larger_than_the_pool_is_refused():
    with pytest.raises(ValidationError, match="does not fit"):
        HashedConfig(pool_size=10, block_size=11)
