"""DPQ, by hand: blocks of unequal width, the gradients of both variants, payload, and trainings that start from a file."""

import pytest
import torch

import quantizers
from quantizers import Budget, Table, TableStats
from quantizers.methods.dpq.method import DPQ, DPQConfig
from quantizers.methods.dpq.module import Blocks, DPQNetwork


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def table(rows=600, dim=10):
    centres = normal(20, dim, seed=1)
    return Table(centres[torch.arange(rows) % 20] + 0.3 * normal(rows, dim), [f"w{row}" for row in range(rows)])


def test_blocks_of_unequal_width():
    blocks = Blocks(5, 3)  # columns 0 1 | 2 3 | 4
    x = torch.arange(10.0).reshape(2, 5)
    assert blocks.cut(x).tolist() == [[[0, 1], [2, 3], [4, 0]], [[5, 6], [7, 8], [9, 0]]]
    assert torch.equal(blocks.join(blocks.cut(x)), x)


def test_rows_are_values_side_by_side():
    state = {
        "codes": torch.tensor([[0b01_00_10], [0b10_01_00]], dtype=torch.uint8),  # codes 2, 0, 1 and 0, 1, 2
        "codebooks": torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.4], [1.0, 1.1, 1.2, 1.3, 1.4], [2.0, 2.1, 2.2, 2.3, 2.4]]),
    }
    quantizer = DPQ.from_state(DPQConfig(num_codebooks=3, codebook_size=3), state, shape=(2, 5))
    expected = torch.tensor([[2.0, 2.1, 0.2, 0.3, 1.4], [0.0, 0.1, 1.2, 1.3, 2.4]])
    assert torch.equal(quantizer.to_dense(), expected)
    assert torch.equal(quantizer.encode(expected + 0.04), state["codes"])


def test_payload():
    cost = DPQ.storage(DPQConfig(num_codebooks=25, codebook_size=20), (1000, 300))
    assert cost == quantizers.StorageCost(1000 * 16, 20 * 300 * 4)  # 25 codes of 5 bits are 125 bits
    half = DPQ.storage(DPQConfig(num_codebooks=25, codebook_size=20, codebook_dtype="float16"), (1000, 300))
    assert half.codebook_bytes == 20 * 300 * 2


def network(variant, **config):
    """One block of one column, values 0 and 1."""
    return DPQNetwork(
        torch.tensor([[0.0], [1.0]]), 1, DPQConfig(num_codebooks=1, codebook_size=2, variant=variant, **config)
    )


def test_gradient_of_vq_by_hand():
    made = network("vq", commitment=0.25)
    x = torch.tensor([[0.7]], requires_grad=True)
    out = made(x)
    assert out.item() == pytest.approx(1.0)
    out.backward(torch.tensor([[3.0]]))
    assert x.grad.item() == 3.0  # handed on as it is
    assert made.values.grad is None
    x.grad = None
    term = made.distance(x)
    assert term.item() == pytest.approx(1.25 * 0.3**2)
    term.backward()
    assert made.values.grad[0, :, 0].tolist() == pytest.approx([0.0, 2 * 0.3])  # |v - sg(q)|^2
    assert x.grad.item() == pytest.approx(0.25 * 2 * -0.3)  # beta |sg(v) - q|^2


def test_gradient_of_sx_by_hand():
    made = network("sx", tau=0.5)
    x = torch.tensor([[0.7]], requires_grad=True)
    out = made(x)
    assert out.item() == pytest.approx(1.0)  # scores 0 and 0.7 - 0.5
    out.backward(torch.tensor([[1.0]]))
    # The softmax of (0, 0.2) / 0.5 gives the second value p; d p / d x = p (1 - p) (k_2 - k_1) / tau.
    p = 1 / (1 + torch.exp(torch.tensor(-0.4)).item())
    assert x.grad.item() == pytest.approx(p * (1 - p) / 0.5, rel=1e-5)
    assert made.values.grad[0, :, 0].tolist() == [0.0, 1.0]  # the hard code's value
    assert made.keys.grad[0, :, 0].tolist() == pytest.approx([-0.7 * p * (1 - p) / 0.5, 0.7 * p * (1 - p) / 0.5], rel=1e-5)


def test_vq_starts_from_k_means_and_gets_nearer_to_its_optimum():
    vectors = table().vectors

    def mse(**config):
        fitted = quantizers.create("dpq", num_codebooks=5, codebook_size=8, **config).fit(vectors)
        return float((fitted.to_dense() - vectors).square().mean())

    start, trained = mse(epochs=0), mse(epochs=150)
    assert trained < 0.99 * start
    assert mse(epochs=150, variant="sx") < 1.05 * start


def test_every_row_has_its_nearest_value():
    quantizer = quantizers.create("dpq", num_codebooks=3, codebook_size=8, variant="sx").fit(table())
    values = quantizer.codebooks
    codes = quantizer.codes()
    parts = zip(table().vectors.tensor_split(3, dim=1), values.tensor_split(3, dim=1), strict=True)
    for block, (x, book) in enumerate(parts):
        assert torch.equal(codes[:, block], torch.cdist(x, book).argmin(dim=1))


@pytest.mark.parametrize("ratio", [4, 8, 16])
def test_what_is_proposed_fits_and_uses_the_budget(ratio):
    stats = TableStats.of(table(rows=3000))
    budget = Budget.from_ratio(ratio, stats.shape)
    (config,) = DPQ.configs_for(budget, stats)
    assert 0.8 * budget.payload_bytes < DPQ.storage(config, stats.shape).payload_bytes <= budget.payload_bytes
    assert DPQ.check(config, stats.shape) is None


@pytest.mark.parametrize("variant", ["sx", "vq"])
def test_a_training_starts_where_the_file_ends_and_learns_the_task(variant, tmp_path):
    config = {"num_codebooks": 5, "codebook_size": 8, "variant": variant}
    quantizers.create("dpq", **config).fit(table()).save(tmp_path / "q.safetensors")
    loaded = quantizers.read(tmp_path / "q.safetensors").quantizer
    module = loaded.training_module(table())
    torch.testing.assert_close(module.eval().to_dense(), loaded.to_dense(), rtol=1e-5, atol=1e-5)
    ids, target = torch.arange(50), torch.full((50, 10), 0.2)
    before = float((module(ids) - target).square().mean())
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    module.train()
    for step in range(120):
        module.set_progress(step / 120)
        loss = (module(ids) - target).square().mean() + 0.1 * module.regularizer()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    module.eval()
    assert float((module(ids) - target).square().mean()) < 0.7 * before
    hard = module.harden()
    assert torch.equal(module(ids), hard.reconstruct(ids))
    assert hard.payload_bytes == loaded.payload_bytes == module.payload_bytes
    rest = torch.arange(300, 600)
    assert float((hard.codes(rest) == loaded.codes(rest)).float().mean()) > 0.2


def test_frozen_queries():
    quantizer = quantizers.create("dpq", num_codebooks=5, codebook_size=8, train_queries=False).fit(table())
    module = quantizer.training_module(table())
    assert not module.queries.requires_grad
    assert float(module.regularizer().detach()) > 0
