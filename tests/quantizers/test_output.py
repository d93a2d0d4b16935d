"""The output layer on compressed tables equals one on the expanded table, forwards and backwards."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from quantizers import CompressedOutput, Table, create
from quantizers.codes import CodeQuantizer
from quantizers.embedding import CompressedEmbedding
from quantizers.output import rebuilt, summed

pytestmark = pytest.mark.thorough  # fits many methods

ROWS, COLUMNS, POSITIONS = 90, 12, 25
SUMMED = {
    "pq": {"num_codebooks": 2, "codebook_size": 16},
    "opq": {"num_codebooks": 3, "codebook_size": 20},
    "rq": {"num_codebooks": 3, "codebook_size": 4, "codebook_dtype": "float16"},
    "lsq": {"num_codebooks": 5, "codebook_size": 4},
    "dccl": {"num_codebooks": 2, "codebook_size": 8, "epochs": 1},
    "dpq": {"num_codebooks": 2, "codebook_size": 8, "epochs": 1},
}
REBUILT = {"scalar": {"bits": 4}, "lowrank": {"rank": 3}, "identity": {}, "adacomp": {"code_lengths": (8, 4), "epochs": 1}}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(summed, "_TILE", 7)
    monkeypatch.setattr(rebuilt, "_ROWS", 32)


def a_table() -> Table:
    return Table(torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)))


def batch(seed: int = 1, positions: int = POSITIONS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    hidden = 2 * torch.randn(positions, COLUMNS, generator=random)
    return hidden, torch.randint(ROWS, (positions,), generator=random), torch.randn(ROWS, generator=random)


def gradients(losses: torch.Tensor, tensors: list[torch.Tensor]) -> tuple[torch.Tensor | None, ...]:
    weights = torch.linspace(-1, 2, losses.numel()).reshape(losses.shape)  # every position's gradient is another
    return torch.autograd.grad((losses * weights).sum(), tensors, allow_unused=True, retain_graph=True)


def assert_is_the_expanded_one(module: CompressedEmbedding) -> None:
    hidden, targets, bias = batch()
    hidden.requires_grad_(), bias.requires_grad_()
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    made = CompressedOutput(module, bias)
    draws = getattr(module, "draws", None)
    found = made.losses(hidden, targets)
    own = gradients(found, [hidden, bias, *trained])
    if draws is not None:
        module.draws = draws
    parts = [module(part) for part in torch.arange(ROWS).split(rebuilt._ROWS)]
    logits = hidden @ torch.cat(parts).T + bias
    expected = functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for one, other in zip(own, gradients(expected, [hidden, bias, *trained]), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    if draws is not None:
        module.draws = draws
    whole = made(hidden.reshape(5, 5, COLUMNS))
    assert whole.shape == (5, 5, ROWS)
    torch.testing.assert_close(whole.reshape(-1, ROWS), logits, rtol=1e-4, atol=1e-4)
    own = gradients(whole, [hidden, bias, *trained])
    for one, other in zip(own, gradients(logits.reshape(whole.shape), [hidden, bias, *trained]), strict=True):
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("method", [*SUMMED, *REBUILT])
def test_equals_the_expanded_table(method: str) -> None:
    quantizer = create(method, **{**SUMMED, **REBUILT}[method]).fit(a_table())
    assert_is_the_expanded_one(quantizer.module())


@pytest.mark.parametrize("method", [*SUMMED, *REBUILT])
@pytest.mark.parametrize("training", [True, False])
def test_trains_codebooks_and_whatever_else_the_method_trains(method: str, training: bool) -> None:
    quantizer = create(method, **{**SUMMED, **REBUILT}[method]).fit(a_table())
    module = quantizer.training_module(a_table())
    assert_is_the_expanded_one(module.train(training))


@pytest.mark.parametrize("method", list(SUMMED))
def test_a_table_of_codes_is_never_expanded(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    quantizer = create(method, **SUMMED[method]).fit(a_table())
    made = CompressedOutput(quantizer.module())
    for name in ("reconstruct", "decode", "to_dense"):
        monkeypatch.setattr(CodeQuantizer, name, None, raising=False)
        monkeypatch.setattr(type(quantizer), name, None)
    hidden, targets, _ = batch()
    made.losses(hidden, targets)
    made(hidden)


def test_others_are_rebuilt_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    quantizer = create("lowrank", rank=3).fit(a_table())
    module = quantizer.training_module(a_table())
    asked = []
    rebuild = type(quantizer).reconstruct
    monkeypatch.setattr(type(quantizer), "reconstruct", lambda self, ids: asked.append(len(ids)) or rebuild(self, ids))
    hidden, targets, _ = batch()
    CompressedOutput(module).losses(hidden.requires_grad_(), targets).sum().backward()
    assert asked == [32, 32, 26] * 2


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 7), size=st.integers(1, 5), together=st.integers(1, 4), seed=st.integers(0, 99))
def test_joined_codebooks_against_a_loop(count: int, size: int, together: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    codes = torch.randint(size, (11, count), generator=random)
    products = torch.randn(count, size, 3, generator=random)
    together = min(together, count)
    layout, table = summed.Layout.of(codes, size, together), summed.join(products, together)
    expected = sum(products[number, codes[:, number]] for number in range(count))
    torch.testing.assert_close(layout.sum_rows(table), expected)
    values = torch.randn(11, 3, generator=random)
    back = torch.zeros(len(table), 3)
    for word, row in itertools.product(range(11), range(layout.rows.shape[1])):
        back[layout.rows[word, row]] += values[word]
    torch.testing.assert_close(layout.sum_words(values), back)


def test_large_logits_do_not_overflow() -> None:
    quantizer = create("pq", num_codebooks=2, codebook_size=16).fit(a_table())
    hidden, targets, _ = batch()
    dense = quantizer.to_dense()
    found = CompressedOutput(quantizer.module()).losses(1e4 * hidden, targets)
    expected = functional.cross_entropy(1e4 * hidden @ dense.T, targets, reduction="none")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-1)


def test_codes_that_change_are_seen() -> None:
    quantizer = create("pq", num_codebooks=2, codebook_size=16).fit(a_table())
    module = quantizer.module()
    made, (hidden, targets, _) = CompressedOutput(module), batch()
    before = made.losses(hidden, targets)
    other = create("pq", num_codebooks=2, codebook_size=16).fit(Table(a_table().vectors.flip(0)))
    module.load_state_dict(other.module().state_dict())
    after = made.losses(hidden, targets)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, CompressedOutput(other.module()).losses(hidden, targets))


def test_precise_inside_autocast() -> None:
    quantizer = create("pq", num_codebooks=2, codebook_size=16).fit(a_table())
    made, (hidden, targets, _) = CompressedOutput(quantizer.module()), batch()
    expected = made.losses(hidden, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(made.losses(hidden, targets), expected)
