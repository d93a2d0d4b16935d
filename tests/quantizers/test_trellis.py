import itertools

import numpy as np
import pytest
import torch

from quantizers.base import Budget
from quantizers.methods.transform_entropy import TransformEntropy
from quantizers.methods.trellis.filling import choose_classes
from quantizers.methods.trellis.learning import learn, rate_weights
from quantizers.methods.trellis.machine import POLYNOMIALS, flips, transitions
from quantizers.methods.trellis.method import Trellis, TrellisConfig
from quantizers.methods.trellis.search import contexts_of, search
from quantizers.table import Table, TableStats


def gaussian_table(rows, spectrum, seed):
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), generator=generator))
    return torch.randn(rows, len(spectrum), generator=generator) * spectrum.sqrt() @ rotation + 0.3


def half_mse(quantizer, vectors):
    return 0.5 * float((quantizer.to_dense() - vectors).square().sum(dim=1).mean())


@pytest.fixture(scope="module")
def small():
    """A table of 600 x 12 and what is learned on it."""
    vectors = gaussian_table(600, 0.8 ** torch.arange(12), seed=0) - 0.3
    weight = rate_weights(None, 600, 1.5, torch.device("cpu"))
    return vectors, learn(vectors, weight, 30.0, 600, 4).model


@pytest.mark.parametrize("states", POLYNOMIALS)
def test_the_machine_comes_to_every_state_in_two_ways(states):
    before, branch = transitions(states)
    for state in range(states):
        for way in (0, 1):
            source, taken = int(before[way, state]), int(branch[way, state])
            assert taken // 2 == source % 2
            assert source >> 1 ^ flips(states)[taken] == state
    # From each state two others, one for each parity.
    pairs = set(zip(before.flatten().tolist(), branch.flatten().tolist(), strict=True))
    assert len(pairs) == 2 * states


def test_row_by_hand():
    # One table, frequencies of 0, 1, -1: 8, 4, 4 of 16 in both quantizers. Places: i / 4 of 0 and (2 i + 1) / 4 of the
    # others, so that 0 has the numbers 0, 1, 4, 5, 8, .., 1 has 2, 6, 10, 14, and -1 has 3, 7, 11, 15.
    state = {
        "heads": torch.tensor([18, 0], dtype=torch.uint8),
        "tails": torch.tensor([], dtype=torch.int32),
        "step": torch.tensor(2.0),
        "precision": torch.tensor(4, dtype=torch.uint8),
        "slot_bytes": torch.tensor([1], dtype=torch.int16),
        "table_row": torch.tensor([0], dtype=torch.uint8),
        "table_of": torch.tensor([[0, 0, 0]], dtype=torch.uint8),
        "largest": torch.tensor([1, 1], dtype=torch.int16),
        "frequency": torch.tensor([4, 4], dtype=torch.int16),
        "shrink": torch.tensor([[0.25, 0, 0], [0.5, 0, 0]], dtype=torch.float16),
        "mean": torch.tensor([10.0, 20.0, 30.0]),
    }
    trellis = Trellis.from_state(TrellisConfig(rank=0, states=4), state, shape=(2, 3))
    rows = trellis.to_dense()
    assert torch.equal(rows[1], state["mean"])
    # 18 is 2 mod 16: the symbol 1, its first number, and X = 4 * 1 + 0 = 4; the state is then 1. 4 is 0's third:
    # X = 8 * 0 + 2, and the state (1 >> 1) ^ 2 = 2, of quantizer 0 again. 2 is 1's first.
    # In quantizer 0 the symbol 1 stands for 2 * (2 - 0.25) = 3.5.
    assert rows[0].tolist() == [13.5, 20.0, 33.5]


@pytest.mark.parametrize("states", [4, 8])
def test_the_search_finds_the_best_of_all_ways(small, states):
    _, model = small
    values = torch.tensor([[0.4, -2.1, 1.2, 0.3], [3.3, 0.9, -1.4, 0.1], [0.1, 0.2, 0.1, 0.3]])
    model = type(model)(
        model.step, model.precision, model.slot_bytes, model.table_of[:, :4], model.frequency, model.largest, model.shrink
    )
    classes, weight = torch.zeros(3, dtype=torch.int64), torch.full((3,), 0.8)
    found = search(values, classes, weight, model, states)
    everything = torch.tensor(list(itertools.product(range(-2, 3), repeat=4)), dtype=torch.int16)
    contexts = contexts_of(everything, torch.zeros(len(everything), dtype=torch.int64), model, states)
    magnitude = everything.abs().to(torch.int64)
    bits = model.bits[contexts, magnitude]
    bits = torch.where(magnitude.flip(1).cumsum(1).flip(1) > 0, bits, 0.0).sum(dim=1)
    rebuilt = model.values[contexts, magnitude] * everything.sign()
    for row in range(3):
        errors = (values[row] - rebuilt).square().sum(dim=1)
        assert float(found.errors[row] + 0.8 * found.bits[row]) == pytest.approx(
            float((errors + 0.8 * bits).min()), rel=1e-5
        )


def test_within_the_room_there_is(small):
    vectors, model = small
    values = vectors / model.step
    classes, weight = torch.zeros(len(values), dtype=torch.int64), torch.full((len(values),), 0.65)
    free = search(values, classes, weight, model, 4)
    room = (free.bits - 4).clamp_min(0)
    held = search(values, classes, weight, model, 4, room=room)
    assert bool((held.bits <= room).all())
    assert torch.equal(held.asked, free.bits)
    assert float(held.errors.sum()) > float(free.errors.sum())


def test_classes_take_what_there_is(small):
    vectors, model = small
    bits = search(vectors / model.step, torch.zeros(600, dtype=torch.int64), torch.full((600,), 0.65), model, 4).bits
    middle = int(600 * float(model.slot_bytes.to(torch.float32).mean()))
    classes, size = choose_classes(bits, model, middle + 100)
    assert 0.97 * (middle + 100) <= size <= middle + 100
    assert choose_classes(bits, model, 600 * int(model.slot_bytes[0]) - 1) is None


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [16, 32])
def test_better_than_equal_steps(ratio):
    table = Table(gaussian_table(1200, 0.9 ** torch.arange(24), seed=1))
    budget, stats = Budget.from_ratio(ratio, table.shape), TableStats.of(table)
    errors = []
    for method in (Trellis, TransformEntropy):
        fitted = method(method.configs_for(budget, stats)[0]).fit(table)
        assert 0.97 * budget.payload_bytes <= fitted.payload_bytes <= budget.payload_bytes
        errors.append(half_mse(fitted, table.vectors))
    assert errors[0] < 0.9 * errors[1]


def test_reading_in_numpy_and_in_python_is_the_same():
    table = Table(gaussian_table(400, 0.9 ** torch.arange(9), seed=2))
    fitted = Trellis(TrellisConfig(row_bits=90, rank=9)).fit(table)
    reader = fitted._opened()
    ids = np.arange(400)
    together = reader.read(ids, reader.symbol)
    assert np.array_equal(np.concatenate([reader.read(ids[row : row + 1], reader.symbol) for row in ids]), together)
    torch.testing.assert_close(fitted.reconstruct(torch.tensor([399, 0, 7])), fitted.to_dense()[[399, 0, 7]])


def test_no_transform_where_a_basis_costs_too_much():
    flat = TableStats(300, 64, np.ones(64))
    steep = TableStats(30_000, 64, 0.8 ** np.arange(64))
    assert Trellis.configs_for(Budget.from_ratio(16, flat.shape), flat)[0].rank == 0
    assert 10 < Trellis.configs_for(Budget.from_ratio(32, steep.shape), steep)[0].rank < 64


def test_weights_are_felt():
    table = Table(gaussian_table(600, 0.9 ** torch.arange(8), seed=3))
    weights = torch.ones(600)
    weights[:60] = 30
    config = TrellisConfig(row_bits=24, rank=8)
    plain, weighted = (Trellis(config).fit(table, weights=given).to_dense() for given in (None, weights))
    heavy = [float((rows[:60] - table.vectors[:60]).square().mean()) for rows in (plain, weighted)]
    assert heavy[1] < 0.6 * heavy[0]
