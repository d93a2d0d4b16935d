"""DCCL: the network by hand, both recipes, honest curves, training with a task, and the text formats."""

import math

import numpy as np
import pytest
import torch

import quantizers
from quantizers import Budget, InputError, Table, TableStats
from quantizers.exporting.codes import shared_codes, write_codebook, write_codes
from quantizers.fitting.gumbel import CodeNetwork, Schedule, gumbel_noise, half_squared_error, train
from quantizers.fitting.local_search import half_mse
from quantizers.methods.dccl.method import DCCL, DCCLConfig, hidden_units


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def table(rows=600, dim=8):
    centres = normal(20, dim, seed=1)
    return Table(centres[torch.arange(rows) % 20] + 0.3 * normal(rows, dim), [f"w{row}" for row in range(rows)])


def network(x, books=3, size=4, hidden=6, **options):
    return CodeNetwork(x.shape[1], books, size, hidden, generator=random(), vectors=x, **{"bound": None, **options})


def schedule(**options):
    usual = {"steps": 40, "batch_size": 32, "report_steps": 10, "optimizer": "adam", "learning_rate": 0.01}
    return Schedule(**{**usual, "constant_rate": True, "tau": 1.0, "tau_end": 1.0, "clip_norm": 0.0, **options})


def half_error(quantizer, vectors, weights=1.0):
    return 0.5 * float(((quantizer.to_dense() - vectors).square().sum(dim=1) * weights).mean())


# The network ----------------------------------------------------------------------------------------------------------


def by_hand():
    """One input, one hidden unit, two books of two words of one value."""
    made = network(torch.zeros(1, 1), books=2, size=2, hidden=1)
    with torch.no_grad():
        made.inner[:], made.inner_bias[:] = 2.0, 0.5
        made.outer[:], made.outer_bias[:] = torch.tensor([[1.0, -1.0, 0.5, 0.0]]), torch.tensor([[0.0, 0.1, 0.2, 0.3]])
        made.codebooks[:] = torch.tensor([[1.0], [-1.0], [0.25], [0.5]])
    return made


def test_network_by_hand():
    hidden = math.tanh(2.0 * 0.3 + 0.5)
    before = [hidden, -hidden + 0.1, 0.5 * hidden + 0.2, 0.3]
    expected = [math.log(math.log1p(math.exp(value)) + 1e-8) for value in before]
    made = by_hand()
    logits = made.logits(torch.tensor([[0.3]]))
    assert logits.shape == (1, 2, 2)
    assert logits.flatten().tolist() == pytest.approx(expected, rel=1e-5)
    assert made.codes(torch.tensor([[0.3]])).tolist() == [[0, 0]]  # 0.80 > -0.70 and 0.60 > 0.3
    assert made.codes(torch.tensor([[-2.0]])).tolist() == [[1, 1]]  # h = -0.998: 1.1 and 0.3 win
    # Without noise at tau 1 the softmax of log p is p / sum p.
    soft = torch.softmax(logits, dim=2)
    p = [math.log1p(math.exp(value)) for value in before]
    rebuilt = (p[0] - p[1]) / (p[0] + p[1]) + (0.25 * p[2] + 0.5 * p[3]) / (p[2] + p[3])
    assert made.rebuild(soft).item() == pytest.approx(rebuilt, rel=1e-5)
    assert half_squared_error(made.rebuild(soft), torch.tensor([[0.3]])).item() == pytest.approx((rebuilt - 0.3) ** 2 / 2)


def test_loss_is_half_the_squared_error_of_a_row():
    assert float(half_squared_error(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.zeros(2, 2))) == 6.5


def test_gumbel_noise():
    noise = gumbel_noise(torch.Size((200_000,)), random(), torch.device("cpu"))
    assert torch.isfinite(noise).all()
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.01)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.03)
    # Its point: the argmax of logits and noise is a draw from their softmax.
    drawn = (torch.log(torch.tensor([0.2, 0.8])) + noise.view(-1, 2)).argmax(dim=1)
    assert float(drawn.float().mean()) == pytest.approx(0.8, abs=0.01)


# Training -------------------------------------------------------------------------------------------------------------


def test_rows_held_out_are_not_trained_on():
    x = normal(100, 4)
    other = x.clone()
    held_out = torch.arange(90, 100)
    other[held_out] = 5.0 * normal(10, 4, seed=9)
    trained = []
    for vectors in (x, other):
        made = network(x)
        reports = list(train(made, vectors, held_out, schedule(report_steps=40), generator=random()))
        trained.append((made.state_dict(), reports[-1]))
    for name, tensor in trained[0][0].items():
        assert torch.equal(tensor, trained[1][0][name]), name
    assert trained[0][1].train_loss == trained[1][1].train_loss
    assert trained[0][1].hard_loss != trained[1][1].hard_loss


def test_the_weights_of_the_lowest_validation_loss_are_kept():
    x = normal(300, 4)
    made = network(x)
    held_out = torch.arange(50)
    # A rate that is far too high, so that the last report is not the best.
    reports = list(train(made, x, held_out, schedule(steps=200, report_steps=5, learning_rate=0.5), generator=random()))
    losses = [report.hard_loss for report in reports]
    assert min(losses) < losses[-1]
    assert half_mse(x[held_out], made.codes(x[held_out]), made.books()) == pytest.approx(min(losses))


def test_reports_are_on_hard_codes_without_noise():
    x = normal(200, 4)
    made = network(x)
    still = schedule(steps=1, learning_rate=1e-12)
    reports = [next(train(made, x, torch.arange(200), still, generator=random(seed))) for seed in (1, 2)]
    assert reports[0].hard_loss == pytest.approx(half_mse(x, made.codes(x), made.books()), rel=1e-5)
    soft = torch.softmax(made.logits(x), dim=2).detach()
    assert reports[0].valid_loss == pytest.approx(half_squared_error(made.rebuild(soft), x).item(), rel=1e-5)
    assert reports[0].valid_maxp == pytest.approx(float(soft.amax(dim=2).mean()), rel=1e-5)
    assert reports[0].valid_loss == pytest.approx(reports[1].valid_loss, rel=1e-6)
    assert reports[0].train_loss != reports[1].train_loss  # noise, and other batches


def test_gradients_are_clipped_to_a_global_norm():
    x = normal(64, 4)
    made = network(x)
    before = [parameter.detach().clone() for parameter in made.parameters()]
    once = schedule(steps=1, optimizer="sgd", learning_rate=1.0, clip_norm=0.001)
    list(train(made, x, torch.arange(64), once, generator=random()))
    moved = torch.cat([(now.detach() - then).flatten() for now, then in zip(made.parameters(), before, strict=True)])
    assert float(moved.norm()) == pytest.approx(0.001, rel=1e-3)


def test_rate_and_temperature():
    fast = schedule(steps=1000, learning_rate=0.01, constant_rate=False, tau=1.0, tau_end=0.25)
    assert fast.rate(0) == pytest.approx(0.01 / 20)
    assert fast.rate(500) == pytest.approx(0.01 * 0.51)
    assert fast.rate(999) == pytest.approx(0.01 * 0.02, rel=1e-3)
    assert fast.temperature(500) == pytest.approx(0.5)
    assert schedule(learning_rate=0.01).rate(39) == 0.01


def test_the_reference_settings():
    quantizer = DCCL(DCCLConfig(num_codebooks=32, codebook_size=16, recipe="authors"))
    found = quantizer._schedule(49_360, 100)
    assert found == Schedule(
        steps=200 * 772,
        batch_size=64,
        report_steps=772,
        optimizer="adam",
        learning_rate=1e-4,
        constant_rate=True,
        tau=1.0,
        tau_end=1.0,
        clip_norm=0.001,
    )
    assert hidden_units(quantizer.config) == 256  # M * K / 2
    assert hidden_units(DCCLConfig(num_codebooks=8, codebook_size=8, recipe="authors")) == 32
    made = network(normal(50, 8), bound=0.01)
    for name, parameter in made.named_parameters():
        assert 0.003 < float(parameter.detach().abs().max()) <= 0.01, name


def test_what_is_given_overrules_the_recipe():
    given = {"batch_size": 7, "learning_rate": 0.5, "tau": 0.3, "tau_end": 0.2, "clip_norm": 2.0, "optimizer": "sgd"}
    found = DCCL(DCCLConfig(recipe="authors", epochs=3, **given))._schedule(70, 8)
    assert {name: getattr(found, name) for name in given} == given
    assert found.steps == 30
    assert DCCL(DCCLConfig(iterations=12, epochs=3))._schedule(700, 8).steps == 12


# The method -----------------------------------------------------------------------------------------------------------


def test_curves_of_the_reference_recipe():
    usual = table()
    quantizer = DCCL(DCCLConfig(num_codebooks=4, codebook_size=8, recipe="authors", epochs=3))
    steps = list(quantizer.fit_steps(usual))
    assert [step.phase for step in steps] == ["train"] * 3 + ["codes"]
    for step in steps[:3]:
        assert set(step.metrics) == {"train_loss", "valid_loss", "train_maxp", "valid_maxp"}
        assert 1 / 8 <= step.metrics["valid_maxp"] <= 1
    # The codes are the argmax of the logits, the codewords the network's.
    assert torch.equal(quantizer.codes().to(torch.uint8), quantizer._network.codes(usual.vectors))
    torch.testing.assert_close(quantizer.codebooks, quantizer._network.books())


@pytest.mark.parametrize("config", DCCL.examples(), ids=["fast", "float16", "authors"])
def test_the_last_report_is_the_error_of_what_is_stored(config):
    usual = table()
    weights = torch.linspace(0.1, 1.9, 600)
    for given in (None, weights):
        quantizer = DCCL(config)
        *_, last = quantizer.fit_steps(usual, weights=given)
        expected = half_error(quantizer, usual.vectors, 1.0 if given is None else weights / weights.mean())
        assert last.value == pytest.approx(expected, rel=1e-4)


def test_finishing_makes_training_better():
    usual = table()
    steps = list(DCCL(DCCLConfig(num_codebooks=6, codebook_size=8)).fit_steps(usual))
    trained = [step.value for step in steps if step.phase == "train"]
    finished = [step.value for step in steps if step.phase == "refine"]
    assert trained[-1] < 0.5 * half_error_of_mean(usual.vectors)
    assert finished == sorted(finished, reverse=True)
    assert finished[-1] < 0.7 * trained[-1]
    assert "train_maxp" in steps[0].metrics


def half_error_of_mean(vectors):
    return 0.5 * float((vectors - vectors.mean(dim=0)).square().sum(dim=1).mean())


def test_proposals_use_the_budget():
    stats = TableStats(50_000, 100, np.ones(100))
    for ratio, expected in ((8, (72, 32)), (32, (11, 111)), (128, (2, 256))):
        budget = Budget.from_ratio(ratio, stats.shape)
        (config,) = DCCL.configs_for(budget, stats)
        assert (config.num_codebooks, config.codebook_size) == expected
        assert 0.97 * budget.payload_bytes < DCCL.storage(config, stats.shape).payload_bytes <= budget.payload_bytes


# Training with a task ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reread", [False, True], ids=["fitted", "read back"])
def test_training_starts_from_the_fit(tmp_path, reread):
    usual = table()
    quantizer = DCCL(DCCLConfig(num_codebooks=4, codebook_size=8)).fit(usual)
    if reread:
        quantizer.save(tmp_path / "table.safetensors")
        quantizer = quantizers.read(tmp_path / "table.safetensors").quantizer
    module = quantizer.training_module(usual)
    module.eval()
    torch.testing.assert_close(module.to_dense(), quantizer.to_dense(), rtol=1e-4, atol=1e-5)
    assert torch.equal(module.harden().codes(), quantizer.codes())
    module.train()
    ids = torch.arange(64)
    noisy = (module(ids) - module(ids)).abs().sum()
    module.set_progress(1.0)
    assert noisy > 0
    torch.testing.assert_close(module(ids), quantizer.reconstruct(ids), rtol=1e-4, atol=1e-5)


def test_training_moves_codes_and_codebooks():
    usual = table()
    quantizer = DCCL(DCCLConfig(num_codebooks=4, codebook_size=8, refine_rounds=1)).fit(usual)
    module = quantizer.training_module(usual)
    goal = usual.vectors.flip(0)  # other vectors than the codes were made for
    before = half_error(module, goal)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for step in range(150):
        module.train()
        module.set_progress(step / 150)
        ids = torch.randint(600, (128,), generator=random(step))
        loss = half_squared_error(module(ids), goal[ids])
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            assert all(float(parameter.grad.abs().max()) > 0 for parameter in module.parameters())
        optimizer.step()
    module.eval()
    after = half_error(module, goal)
    assert after < 0.7 * before
    hard = module.harden()
    assert isinstance(hard, DCCL)
    assert half_error(hard, goal) == pytest.approx(after)
    assert not torch.equal(hard.codes(), quantizer.codes())
    assert hard.payload_bytes == quantizer.payload_bytes


# Text ------------------------------------------------------------------------------------------------------------------


def small(words=("dog", "dogs", "cat")):
    codes = torch.tensor([[2, 3, 0], [2, 3, 1], [0, 1, 1]])
    state = {"codes": quantizers.coding.bits.pack(codes, 2), "codebooks": normal(3, 4, 5)}
    quantizer = DCCL.from_state(DCCLConfig(num_codebooks=3, codebook_size=4), state, shape=(3, 5))
    quantizer.words = None if words is None else list(words)
    return quantizer


def test_codes_as_text(tmp_path):
    write_codes(small(), tmp_path / "codes")
    assert (tmp_path / "codes").read_bytes() == b"dog\t2 3 0\ndogs\t2 3 1\ncat\t0 1 1\n"
    write_codes(small(words=None), tmp_path / "codes")
    assert (tmp_path / "codes").read_bytes() == b"0\t2 3 0\n1\t2 3 1\n2\t0 1 1\n"
    with pytest.raises(InputError, match="tab"):
        write_codes(small(words=("a", "b\tc", "d")), tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["codes"]


@pytest.mark.parametrize("method", ["dccl", "rq", "lsq", "pq", "opq", "dpq"])
def test_codebook_rows_add_up_to_the_table(tmp_path, method):
    usual = table(rows=200, dim=10)
    quantizer = quantizers.create(method, num_codebooks=3, codebook_size=8).fit(usual)
    write_codebook(quantizer, tmp_path / "book.codebook.npy")
    codewords = np.load(tmp_path / "book.codebook.npy")
    assert codewords.shape == (24, 10)
    assert codewords.dtype == np.float32
    rebuilt = codewords[quantizer.codes().numpy() + 8 * np.arange(3)].sum(axis=1)
    np.testing.assert_allclose(rebuilt, quantizer.to_dense().numpy(), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        write_codes(small(), tmp_path / "nowhere" / "codes")
    bits = quantizers.create("bin", num_bits=8, epochs=1).fit(normal(20, 4))
    with pytest.raises(InputError, match="bin has no codebook to write: its rows are not sums"):
        write_codebook(bits, tmp_path / "book.npy")


def test_shared_codes():
    assert shared_codes(small(), 0, [0, 1, 2]).tolist() == [3, 2, 0]
