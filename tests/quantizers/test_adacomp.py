"""AdaComp, by hand: equations 1 to 6 on small numbers, ragged code lengths in the file, and code-books within a size."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import quantizers
from quantizers import Budget, InputError, Skip, Table, TableStats
from quantizers.base import generator
from quantizers.methods.adacomp.method import AdaComp
from quantizers.methods.adacomp.network import AdaCompNetwork, Threshold, annealed
from quantizers.methods.adacomp.selection import SelectionTerms, allocate
from quantizers.methods.adacomp.storage import AdaCompConfig


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def table(rows=400, dim=8):
    return Table(0.5 * normal(rows, dim) * 0.8 ** torch.arange(dim) + 0.2, [f"w{row}" for row in range(rows)])


@pytest.fixture(scope="module")
def free():
    return quantizers.create("adacomp", code_lengths=(24, 9, 5), epochs=30).fit(table())


@pytest.fixture(scope="module")
def bounded():
    # 400 rows: 100 bytes of selector, (24 + 9 + 5) * 8 * 4 + 3 * 8 * 4 = 1312 of decoders, so 12 bits a row are left.
    return quantizers.create("adacomp", code_lengths=(24, 9, 5), epochs=30, max_payload_bytes=2012).fit(table())


def test_threshold_and_the_rule_of_equation_4():
    x = torch.tensor([-0.2, 0.0, 3.0, -5.0, 0.1], requires_grad=True)
    code = Threshold.apply(x, 0.0)
    assert code.tolist() == [0, 1, 1, 0, 1]
    code.backward(torch.tensor([0.5, -1.0, 1.01, -3.0, 1.0]))
    assert x.grad.tolist() == [0.5, -1.0, 0.0, 0.0, 1.0]  # passed where it is at most 1, whatever x is
    assert Threshold.apply(x.detach(), -1.0).tolist() == [-1, 1, 1, -1, 1]


@pytest.fixture
def network():
    made = AdaCompNetwork((2, 1), 2, signs=False)
    with torch.no_grad():
        made.hidden.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        made.hidden_bias.copy_(torch.tensor([0.1, 0.0]))
        made.choice.copy_(torch.tensor([[1.0, -1.0], [0.5, 0.0]]))
        made.choice_bias.copy_(torch.tensor([0.0, 0.2]))
        made.weights.copy_(torch.tensor([[1.0, 0.0], [0.5, -1.0], [0.6, 0.8]]))
        made.encoder_bias.copy_(torch.tensor([-0.5, 0.0, 0.1]))
        made.decoder_bias.copy_(torch.tensor([[0.1, 0.2], [-0.1, 0.3]]))
    return made


def test_equations_1_to_6_by_hand(network):
    e = torch.tensor([[0.3, 0.1], [0.8, 0.6]])
    for row in range(2):
        hidden = [math.tanh(float(e[row, 0]) + 0.1), math.tanh(2 * float(e[row, 1]))]
        logits = [hidden[0] + 0.5 * hidden[1], -hidden[0] + 0.2]
        expected = [math.log(math.log1p(math.exp(logit))) for logit in logits]
        torch.testing.assert_close(network.log_alpha(e)[row], torch.tensor(expected), rtol=1e-5, atol=1e-6)
    # First row: W^T e + b = (-0.2, 0.05, 0.36); second: (0.3, -0.2, 1.06).
    assert network.code(e).tolist() == [[0, 1, 1], [1, 0, 1]]
    # e'_1 = W_2 + b'_1 = (0.6, -0.8) and W_1 + b'_1 = (1.1, 0.2); e'_2 = W_3 + b'_2 = (0.5, 1.1) for both.
    selection = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    torch.testing.assert_close(network(e, selection), torch.tensor([[0.525, 0.625], [1.1, 0.2]]))
    torch.testing.assert_close(network.one_book(e, torch.tensor([1, 0])), torch.tensor([[0.5, 1.1], [1.1, 0.2]]))
    errors = torch.tensor([[0.3**2 + 0.9**2, 0.2**2 + 1.0**2], [0.3**2 + 0.4**2, 0.3**2 + 0.5**2]])
    network.unit = 2.0
    torch.testing.assert_close(network.errors(2 * e), errors)
    torch.testing.assert_close(network.costs(2 * e), -network.log_alpha(e))
    # P of (1, 0), (.5, -1): off-diagonal .5 twice, diagonal 0 and .25; of (.6, .8): 0.
    torch.testing.assert_close(network.penalty().detach(), torch.tensor(0.5**2 * 2 + 0.25**2))


def test_penalty_of_more_bits_than_columns():
    network = AdaCompNetwork((7, 2), 3, signs=False)
    with torch.no_grad():
        network.weights.copy_(normal(9, 3))
    expected = sum(((part @ part.T - torch.eye(len(part))) ** 2).sum() for part in network.weights.split([7, 2]))
    torch.testing.assert_close(network.penalty(), expected)


def test_gumbel_softmax_is_drawn_from_alpha(network):
    e = torch.tensor([[0.3, 0.1]]).expand(20_000, 2)
    random = torch.Generator().manual_seed(0)
    log_alpha = network.log_alpha(e)
    chosen = network.select(log_alpha, 1.0, random).argmax(dim=1).float().mean()
    alpha = log_alpha[0].detach().exp()
    assert float(chosen) == pytest.approx(float((alpha / alpha.sum())[1]), abs=0.02)
    sharp = network.select(log_alpha, 0.01, random).detach()
    torch.testing.assert_close(sharp.sum(dim=1), torch.ones(len(e)))
    assert float(sharp.max(dim=1).values.mean()) > 0.98


def test_a_file_by_hand():
    """Rows of 3, 1, 5 and 3 bits, one after the other; code-books in 2 bits each."""
    state = {
        "books": torch.tensor([0b01_10_00_01], dtype=torch.uint8),  # rows 1, 0, 2, 1 from the lowest bits up
        "codes": torch.tensor([0b0001_1_101, 0b0000_110_1], dtype=torch.uint8),
        "decoder": torch.arange(1.0, 10.0)[:, None] * torch.tensor([[1.0, -1.0]]),
        "bias": torch.tensor([[0.5, 0.0], [0.0, 0.5], [10.0, 20.0]]),
    }
    config = AdaCompConfig(code_lengths=(1, 3, 5))
    quantizer = AdaComp.from_state(config, state, shape=(4, 2))
    assert quantizer.books().tolist() == [1, 0, 2, 1]
    assert quantizer.books(torch.tensor([2, 0])).tolist() == [2, 1]
    # Row 0: bits 1, 0, 1 of decoders 2, 3, 4; row 1: bit 1 of decoder 1; row 2: bits 1, 0, 0, 0, 1 of decoders 5 to 9;
    # row 3: bits 0, 1, 1 of decoders 2, 3, 4.
    expected = torch.tensor([[6.0, -5.5], [1.5, -1.0], [24.0, 6.0], [7.0, -6.5]])
    assert torch.equal(quantizer.to_dense(), expected)
    assert quantizer.measured_storage() == quantizers.StorageCost(2, 9 * 2 * 4 + 3 * 2 * 4, 1)


def test_payload_is_the_papers_plus_the_biases(free):
    books = free.books()
    bits = torch.tensor([24, 9, 5])[books].sum()
    selector = math.ceil(400 * 2 / 8)
    assert free.payload_bytes == math.ceil(int(bits) / 8) + selector + (24 + 9 + 5) * 8 * 4 + 3 * 8 * 4
    assert not AdaComp.storage(free.config, free.shape).exact
    one = quantizers.create("adacomp", code_lengths=(12,), epochs=0).fit(table())
    assert one.payload_bytes == 600 + 12 * 8 * 4 + 8 * 4  # no selector where there is nothing to select
    assert set(one.books().tolist()) == {0}


def test_single_rows_are_those_of_the_whole_table(bounded):
    dense = bounded.to_dense()
    assert len(set(bounded.books().tolist())) == 3
    ids = torch.randint(400, (1000,), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(bounded.reconstruct(ids), dense[ids], rtol=1e-5, atol=1e-6)
    for row in (0, 199, 399):
        torch.testing.assert_close(bounded.reconstruct(torch.tensor([row])), dense[row : row + 1], rtol=1e-5, atol=1e-6)


def test_the_size_is_kept_and_used(free, bounded):
    assert 0.97 * 2012 < bounded.payload_bytes <= 2012
    assert free.payload_bytes > 2012, "the selector alone takes the longest code-book"
    by_budget = quantizers.create("adacomp", code_lengths=(24, 9, 5), epochs=30).fit(table(), budget=Budget(2012))
    assert torch.equal(by_budget.state()["codes"], bounded.state()["codes"])
    few = quantizers.create("adacomp", code_lengths=(24, 9, 5), epochs=1)
    with pytest.raises(InputError, match="shortest"):
        few.fit(table(), budget=Budget(1500))
    small = AdaCompConfig(code_lengths=(24, 9, 5), max_payload_bytes=1500)
    assert isinstance(AdaComp.check(small, (400, 8)), Skip)


def test_adapted_lengths_beat_one_length_of_the_same_size():
    # Some rows are an eighth of the size of the others: those need fewer bits.
    vectors = normal(1500, 12) * torch.where(torch.arange(1500) % 2 == 0, 1.0, 0.125)[:, None]
    size = {"max_payload_bytes": 1500 * 24 // 8 + 375 + 84 * 12 * 4 + 3 * 12 * 4}
    adapted = quantizers.create("adacomp", code_lengths=(48, 24, 12), **size).fit(vectors)
    same = quantizers.create("adacomp", code_lengths=(24,)).fit(vectors)
    errors = [float((quantizer.to_dense() - vectors).square().mean()) for quantizer in (adapted, same)]
    assert errors[0] < 0.9 * errors[1]
    bits = torch.tensor([48.0, 24.0, 12.0])[adapted.books()]
    assert float(bits.mean()) <= 24.0
    assert float(bits[::2].mean()) > 1.5 * float(bits[1::2].mean())


@settings(max_examples=60)
@given(st.data())
def test_allocation_against_brute_force(data):
    rows, lengths = data.draw(st.integers(1, 5)), data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    cost = st.floats(0, 8, width=32)
    costs = torch.tensor([[data.draw(cost) for _ in lengths] for _ in range(rows)])
    max_bits = data.draw(st.integers(rows * min(lengths), rows * max(lengths)))
    books = allocate(costs, lengths, max_bits)
    bits = sum(lengths[book] for book in books)
    assert bits <= max_bits
    # No assignment that takes as few bits costs less: what a Lagrangian gives is the best for its own size.
    chosen = float(costs.gather(1, books[:, None]).double().sum())
    for other in itertools.product(range(len(lengths)), repeat=rows):
        if sum(lengths[book] for book in other) <= bits:
            assert sum(float(costs[row, book]) for row, book in enumerate(other)) >= chosen - 1e-4


def test_signs_are_stored_as_zeros_and_ones():
    vectors = table().vectors
    signs = quantizers.create("adacomp", code_lengths=(16, 8), code_values="pm1", epochs=20).fit(vectors)
    zeros = quantizers.create("adacomp", code_lengths=(16, 8), epochs=20).fit(vectors)
    assert signs.payload_bytes <= AdaComp.storage(zeros.config, zeros.shape).payload_bytes
    errors = [float((quantizer.to_dense() - vectors).square().mean()) for quantizer in (signs, zeros)]
    assert errors[0] == pytest.approx(errors[1], rel=0.3)


def test_what_is_proposed_for_a_budget():
    stats = TableStats.of(table(rows=4000))
    for payload_bytes in (2_000, 8_000, 60_000):
        (config,) = AdaComp.configs_for(Budget(payload_bytes), stats)
        longest = config.code_lengths[0]
        assert config.code_lengths == tuple(longest >> book for book in range(len(config.code_lengths)))
        assert config.max_payload_bytes == payload_bytes
        assert AdaComp.storage(config, stats.shape).payload_bytes <= payload_bytes
    assert isinstance(AdaComp.configs_for(Budget(400), stats), Skip)


def test_reports_have_the_shares_of_figure_2():
    steps = list(quantizers.create("adacomp", code_lengths=(8, 4), epochs=40).fit_steps(table()))
    assert len(steps) > 10
    for step in steps:
        assert step.phase == "pretrain"
        assert step.metrics["share_book_0"] + step.metrics["share_book_1"] == pytest.approx(1)
    assert steps[-1].value < steps[0].value


@pytest.mark.parametrize("values", ["01", "pm1"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_training_starts_where_the_file_ends(values, dtype, tmp_path):
    config = {"code_lengths": (24, 9, 5), "code_values": values, "codebook_dtype": dtype, "max_payload_bytes": 1800}
    quantizer = quantizers.create("adacomp", epochs=20, **config).fit(table())
    quantizer.save(tmp_path / "q.safetensors")
    loaded = quantizers.read(tmp_path / "q.safetensors").quantizer
    again = loaded.training_module(table()).eval().harden()
    assert torch.equal(again.books(), loaded.books())
    # Selector and encoder are not in the file: they are found again, and give the same codes.
    torch.testing.assert_close(again.to_dense(), loaded.to_dense(), rtol=2e-3, atol=2e-3)
    assert again.payload_bytes <= 1800


def test_training_with_a_task(free):
    module = copy.deepcopy(free).training_module(table(), seed=3)
    wanted = torch.arange(40)
    target = torch.full((40, 8), 0.3)
    before = float((module.eval()(wanted) - target).square().mean())
    module.terms.balance = 0.0
    torch.testing.assert_close(module.regularizer(), 0.01 * module.network.penalty())
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    module.train()
    first = module(wanted[:5])
    assert not torch.equal(first, module(wanted[:5])), "the selection is noisy while training"
    for step in range(200):
        module.set_progress(step / 200)
        loss = (module(wanted) - target).square().mean()
        optimizer.zero_grad()
        (loss + module.regularizer()).backward()
        optimizer.step()
    module.eval()
    assert float((module(wanted) - target).square().mean()) < 0.5 * before
    hard = module.harden()
    torch.testing.assert_close(module(wanted), hard.reconstruct(wanted))
    assert module.payload_bytes == hard.payload_bytes
    assert hard.words == table().words


def test_a_training_goes_on_from_the_fits_network(free):
    module = free.training_module(table(), seed=3)
    assert torch.equal(module.eval().quantizer.books(), free.books())
    torch.testing.assert_close(module.to_dense(), free.to_dense())
    assert torch.equal(module.network.hidden, free._trained[0].hidden)
    with torch.no_grad():
        module.network.hidden.zero_()
    assert bool(free._trained[0].hidden.any()), "the fit's own network stays as it is"
    assert torch.equal(free.to("cpu").training_module(table()).network.hidden, free._trained[0].hidden)
    alone = pickle.loads(pickle.dumps(free))
    assert len(pickle.dumps(free)) < free.payload_bytes + 20_000
    assert torch.equal(alone.training_module(table()).eval().quantizer.books(), free.books())


def test_what_is_trained(free):
    module = free.training_module(table())
    assert "vectors" in dict(module.named_parameters())
    scales = module.rate_scales()
    assert module.vectors not in scales and set(scales) == set(module.network.parameters())
    assert module.annealing
    module.set_progress(0.29)
    assert module.annealing
    module.set_progress(0.31)
    assert not module.annealing
    fixed = (
        quantizers.create("adacomp", code_lengths=(8, 4), epochs=0, train_input=False).fit(table()).training_module(table())
    )
    assert set(fixed.parameters()) == set(fixed.network.parameters())


def test_load_and_rate_terms_by_hand():
    log_alpha = torch.log(torch.tensor([[3.0, 1.0], [2.0, 2.0]]))  # shares 3/4, 1/4 and 1/2, 1/2; on average 5/8 and 3/8
    assert float(SelectionTerms((8, 4), 0.7, None)(log_alpha)) == pytest.approx(0.7 * 2 * 5 / 8)  # both take the first
    even = torch.log(torch.tensor([[3.0, 1.0], [1.0, 3.0]]))
    assert float(SelectionTerms((8, 4), 0.7, None)(even)) == pytest.approx(0.7)
    terms = SelectionTerms((8, 4), 0.0, 5.0).eval()
    # Hard selection gives both rows 8 bits (of equal ones the first), 3/5 more than the 5 that are allowed.
    expected = 1e-3 * math.sinh(5 * 0.6) * (8 * 5 / 8 + 4 * 3 / 8) / 5
    assert float(terms(log_alpha)) == pytest.approx(expected, rel=1e-4)
    assert float(terms.steering) == 0
    terms.train()
    terms(log_alpha)
    assert float(terms.steering) == pytest.approx(0.1 * 0.6, abs=1e-5)
    assert terms.rate() == pytest.approx(1e-3 * math.sinh(0.1 * 0.6), rel=1e-4)
    terms(torch.tensor([[0.0, 1.0]]))  # 4 bits, 1/5 less: bits that may be used are made cheap
    assert float(terms.steering) == pytest.approx(0.1 * (0.6 - 0.2), abs=1e-5)
    assert terms.rate(-0.2) < 0


@pytest.mark.thorough
def test_the_selector_keeps_a_size():
    config = {"code_lengths": (24, 9, 5), "max_payload_bytes": 2012, "limit": "selector", "epochs": 400}
    quantizer = quantizers.create("adacomp", **config).fit(table())
    assert 0.9 * 2012 < quantizer.payload_bytes <= 2012
    own = quantizer._trained[0].costs(table().vectors).argmin(dim=1)
    assert float((own == quantizer.books()).float().mean()) > 0.9, "little is left to do for the guard"
    module = quantizer.training_module(table(), seed=1)
    scales = module.rate_scales()
    groups = [{"params": [parameter], "lr": 1e-3 * scales.get(parameter, 1.0)} for parameter in module.parameters()]
    optimizer = torch.optim.Adam(groups)
    for step in range(250):
        module.set_progress(step / 250)
        loss = module.train()(torch.arange(400)).sub(table().vectors).square().mean() + module.regularizer()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    bits = torch.tensor([24.0, 9.0, 5.0])
    with torch.no_grad():
        wanted = bits[module._log_alpha(torch.arange(400))[1].argmax(dim=1)].mean()
    assert float(wanted) == pytest.approx(12, rel=0.2)
    assert module.eval().harden().payload_bytes <= 2012
    assert "rate" in module.curves()


def test_temperature():
    assert annealed(1.0, 0.01, 0.0) == 1.0
    assert annealed(1.0, 0.01, 0.5) == pytest.approx(0.1)
    assert annealed(1.0, 0.01, 2.0) == pytest.approx(0.01)


@pytest.mark.parametrize("lengths", [(), (0,), (4,) * 17, (9000,)])
def test_wrong_code_lengths(lengths):
    with pytest.raises(InputError, match="code_lengths"):
        quantizers.create("adacomp", code_lengths=lengths)


@pytest.mark.parametrize("limit", [None, 5_000])
def test_bits_that_are_searched_for_rebuild_rows_better(limit: int | None) -> None:
    vectors = torch.randn(600, 20, generator=generator(4)) * torch.logspace(0, -1, 20)
    weights = torch.rand(600, generator=generator(5)) + 0.1
    config = {"code_lengths": (48, 24, 12), "epochs": 3, "max_payload_bytes": limit, "codebook_dtype": "float16"}
    errors = {}
    for finished in (False, True):
        quantizer = quantizers.create("adacomp", finish=finished, **config).fit(vectors, seed=2, weights=weights)
        assert limit is None or quantizer.payload_bytes <= limit
        errors[finished] = float((weights * (quantizer.to_dense() - vectors).square().sum(dim=1)).sum())
    assert errors[True] < 0.8 * errors[False]
    module = quantizer.training_module(Table(vectors))
    assert torch.equal(module.codes, quantizer.state()["codes"]) and module.decoder.requires_grad
