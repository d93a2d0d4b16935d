"""Bin, by hand: bits that rebuild two columns, the bytes of the AdaComp paper's rule, gradients, Hamming search."""

import math

import pytest
import torch

import quantizers
from quantizers import Budget, Skip, Table, TableStats
from quantizers.methods.binary import (
    Bin,
    BinConfig,
    _orthogonality_gradient,
    _Settings,
    _Training,
    fit_lengths,
    frames,
    hamming_neighbours,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def tiny():
    state = {
        "codes": torch.tensor([[0b101], [0b010], [0b000]], dtype=torch.uint8),
        "decoder": torch.tensor([[0.1, 0.2], [0.3, -0.1], [-0.2, 0.4]]),
        "bias": torch.tensor([0.05, -0.05]),
        "scale": torch.tensor([2.0]),
    }
    return Bin.from_state(BinConfig(num_bits=3), state, shape=(3, 2))


def test_rows_are_rebuilt_from_their_bits(tiny):
    by_hand = [[-0.05, 0.55], [0.35, -0.15], [0.05, -0.05]]  # W^T code + c; bit 0 is the lowest of the byte
    expected = [[2 * math.tanh(value) for value in row] for row in by_hand]
    torch.testing.assert_close(tiny.to_dense(), torch.tensor(expected))
    assert tiny.codes().tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_new_vectors_are_encoded_with_the_stored_decoder(tiny):
    # W x of (1, 1) is (0.3, 0.2, 0.2); of (1, 0) it is (0.1, 0.3, -0.2); of (0, 0) nothing is above 0.
    packed = tiny.encode(torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]))
    assert packed.tolist() == [[0b111], [0b011], [0b000]]


@pytest.mark.parametrize(("num_bits", "row"), [(1, 1), (8, 1), (9, 2), (64, 8), (128, 16)])
def test_payload(num_bits, row):
    cost = Bin.storage(BinConfig(num_bits=num_bits), (17_080, 300))
    assert cost.code_bytes == 17_080 * row
    assert cost.codebook_bytes == (num_bits + 1) * 300 * 4
    assert cost.side_bytes == 4
    half = Bin.storage(BinConfig(num_bits=num_bits, codebook_dtype="float16"), (17_080, 300))
    assert half.codebook_bytes == num_bits * 300 * 2 + 300 * 4


@pytest.mark.parametrize("shape", [(512, 16), (40, 300), (5000, 3)])
@pytest.mark.parametrize("payload_bytes", [300, 2_000, 20_000, 200_000])
def test_the_most_bits_that_fit_are_proposed(shape, payload_bytes):
    proposed = Bin.configs_for(Budget(payload_bytes), TableStats.of(Table(normal(*shape))))

    def fits(bits):
        configs = [BinConfig(num_bits=bits, codebook_dtype=dtype) for dtype in ("float16", "int8")]
        return min(Bin.storage(config, shape).payload_bytes for config in configs) <= payload_bytes

    most = max((bits for bits in range(1, 16 * shape[1] + 1) if fits(bits)), default=0)
    assert (0 if isinstance(proposed, Skip) else proposed[0].num_bits) == most


@pytest.mark.parametrize("num_bits", [3, 12])
def test_gradient_of_orthogonality(num_bits):
    weights = normal(num_bits, 5).requires_grad_()
    (0.5 * (weights @ weights.T - torch.eye(num_bits)).square().sum()).backward()
    torch.testing.assert_close(_orthogonality_gradient(weights.detach()), weights.grad, rtol=1e-4, atol=1e-4)


def test_a_step_follows_the_loss_through_the_decoder_only():
    x = 0.3 * normal(6, 4)
    decoder, bias = 0.4 * normal(7, 4, seed=1), 0.1 * normal(4, seed=2)
    by_autograd = [decoder.clone().requires_grad_(), bias.clone().requires_grad_()]
    code = (x @ decoder.T > 0).float()  # a constant: no gradient reaches the encoder
    gram = by_autograd[0] @ by_autograd[0].T - torch.eye(7)
    rebuilt = torch.tanh(code @ by_autograd[0] + by_autograd[1])
    loss = (rebuilt - x).square().sum(dim=1).mean() + 0.01 * 0.5 * gram.square().sum()
    loss.backward()
    settings = _Settings(batch_size=6, learning_rate=1e-3, orthogonality=0.01)
    training = _Training(decoder, bias, settings, 10, 1, paper=False)
    training.step(x)
    torch.testing.assert_close(decoder.grad, by_autograd[0].grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(bias.grad, by_autograd[1].grad, rtol=1e-4, atol=1e-6)


def test_the_papers_step_is_plain_descent_on_the_sum():
    # One row x = (0.5, -0.5), W = [[0.5, 0]], c = 0: W x = 0.25, so the bit is 1, and x_hat = (tanh 0.5, 0).
    decoder, bias = torch.tensor([[0.5, 0.0]]), torch.zeros(2)
    settings = _Settings(batch_size=1, learning_rate=0.1, orthogonality=0.0)
    _Training(decoder, bias, settings, 1, 1, paper=True).step(torch.tensor([[0.5, -0.5]]))
    value = math.tanh(0.5)
    slope = (value - 0.5) * (1 - value * value)
    torch.testing.assert_close(decoder, torch.tensor([[0.5 - 0.1 * slope, -0.1 * 0.5]]))
    torch.testing.assert_close(bias, torch.tensor([-0.1 * slope, -0.1 * 0.5]))


def test_lengths_by_least_squares():
    directions = torch.eye(3)[:2]
    code = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    x = code @ (torch.tensor([[2.0], [0.5]]) * directions) + torch.tensor([0.1, 0.2, 0.3])
    lengths, bias = fit_lengths(directions, code, x)
    torch.testing.assert_close(lengths, torch.tensor([2.0, 0.5]), rtol=1e-3, atol=0)
    torch.testing.assert_close(bias, torch.tensor([0.1, 0.2, 0.3]), rtol=1e-2, atol=1e-3)


def test_frames_are_orthonormal_piecewise():
    stacked = frames(11, 4, torch.Generator().manual_seed(0))
    assert stacked.shape == (11, 4)
    for part in stacked.split(4):
        torch.testing.assert_close(part @ part.T, torch.eye(len(part)), rtol=0, atol=1e-5)


def test_hamming_neighbours_against_brute_force():
    quantizer = quantizers.create("bin", num_bits=19, epochs=0).fit(normal(300, 6))
    codes = quantizer.codes()
    queries = torch.tensor([7, 0, 299])
    distance = (codes[queries][:, None] != codes[None]).sum(dim=2)
    expected = [sorted(range(300), key=lambda row: (int(line[row]), row))[:12] for line in distance]
    found, distances = hamming_neighbours(quantizer, queries, 12)
    assert found.tolist() == expected
    assert torch.equal(distances, distance.gather(1, found))
    again, _ = hamming_neighbours(quantizer, quantizer.encode(quantizer.to_dense()[:1]), 1000)
    assert again.shape == (1, 300)


def test_the_fast_recipe_is_better_than_the_papers_and_than_fewer_columns():
    vectors = normal(2000, 24) * 0.9 ** torch.arange(24) + 0.3

    def half_mse(rebuilt):
        return 0.5 * float((rebuilt - vectors).square().sum(dim=1).mean())

    fast = half_mse(quantizers.create("bin", num_bits=64).fit(vectors).to_dense())
    assert fast < half_mse(quantizers.create("bin", num_bits=64, recipe="paper", epochs=60).fit(vectors).to_dense())
    mean = vectors.mean(dim=0)
    left, values, right = torch.linalg.svd(vectors - mean, full_matrices=False)
    columns = 2  # 64 bits a row are two float32 columns
    principal = (left[:, :columns] * values[:columns]) @ right[:columns] + mean
    assert fast < 0.5 * half_mse(principal)
