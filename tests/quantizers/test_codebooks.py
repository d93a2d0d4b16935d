"""Codewords as they are stored: by hand, their bytes, what a training makes of them, and files that hold something else."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizers import ArtifactError, Table, create, get, read
from quantizers.coding.bits import pack
from quantizers.coding.codebooks import CodebookDtype, KeptCodewords, codewords, rounded, stored, stored_bytes
from quantizers.coding.int8 import from_int8, to_int8, to_int8_like
from quantizers.embedding import CompressedEmbedding
from quantizers.registry import make_config

IDS = torch.arange(64)
STORED = Path(__file__).parents[2] / "reader/python/tests/data"
INT8 = {
    "rq": {"num_codebooks": 2, "codebook_size": 8},
    "lsq": {"num_codebooks": 2, "codebook_size": 8, "rounds": 2},
    "dccl": {"num_codebooks": 2, "codebook_size": 8, "iterations": 20},
    "pq": {"num_codebooks": 3, "codebook_size": 8},
    "opq": {"num_codebooks": 3, "codebook_size": 8, "rounds": 2},
    "dpq": {"num_codebooks": 3, "codebook_size": 8, "epochs": 20},
    "bin": {"num_bits": 12, "epochs": 50},
    "adacomp": {"code_lengths": (12, 6), "epochs": 20},
}


def table() -> Table:
    random = torch.Generator().manual_seed(0)
    return Table(torch.randn(64, 8, generator=random) * 0.8 ** torch.arange(8) + 0.1)


def made(name: str, dtype: CodebookDtype = "int8"):
    return create(name, codebook_dtype=dtype, **INT8[name]).fit(table())


def test_by_hand():
    vectors = torch.tensor([[63.5, -1.0, 0.2], [0.0, 0.0, 0.0], [-254.0, 3.1, 0.9]])
    state = stored("codebooks", vectors, "int8")
    assert {name: tensor.dtype for name, tensor in state.items()} == {
        "codebooks": torch.int8,
        "codebooks_scale": torch.float16,
    }
    assert state["codebooks"].tolist() == [[127, -2, 0], [0, 0, 0], [-127, 2, 0]]
    assert state["codebooks_scale"].tolist() == [0.5, 0.0, 2.0]
    assert codewords(state, "codebooks").tolist() == [[63.5, -1.0, 0.0], [0.0, 0.0, 0.0], [-254.0, 4.0, 0.0]]


def test_side_by_side_by_hand():
    """Of five columns and two blocks the first has three."""
    state = stored("codebooks", torch.tensor([[127.0, 4.4, -1.0, 63.5, -0.5]]), "int8", side_by_side=2)
    assert state["codebooks"].tolist() == [[127, 4, -1, 127, -1]]
    assert state["codebooks_scale"].tolist() == [[1.0, 0.5]]
    assert codewords(state, "codebooks").tolist() == [[127.0, 4.0, -1.0, 63.5, -0.5]]


def test_a_row_by_hand():
    """Codes (1, 0) and (0, 1) of two books of two words."""
    codes = pack(torch.tensor([[1, 0], [0, 1]]), 1)
    books = torch.tensor([[[127, 1], [-4, 127]], [[10, -127], [127, 127]]], dtype=torch.int8)
    scale = torch.tensor([[1.0, 0.5], [0.25, 2.0]], dtype=torch.float16)
    state = {"codes": codes, "codebooks": books, "codebooks_scale": scale}
    config = make_config("rq", {"num_codebooks": 2, "codebook_size": 2, "codebook_dtype": "int8"})
    quantizer = get("rq").from_state(config, state, shape=(2, 2))
    assert quantizer.reconstruct(torch.tensor([0, 1])).tolist() == [[0.5, 31.75], [381.0, 255.0]]
    assert quantizer.payload_bytes == get("rq").storage(config, (2, 2)).payload_bytes == 2 + 2 * 2 * (2 + 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9), st.data())
def test_whatever_is_stored(seed, dim, data):
    """Bytes are those predicted, no value is off by more than half a factor, products are exact, and nothing drifts."""
    blocks = data.draw(st.none() | st.integers(1, dim))
    size = 10.0 ** data.draw(st.floats(-3, 5))
    vectors = size * torch.randn(7, dim, generator=torch.Generator().manual_seed(seed))
    for dtype in ("float32", "float16", "int8"):
        state = stored("x", vectors, dtype, side_by_side=blocks)
        assert sum(tensor.numel() * tensor.element_size() for tensor in state.values()) == stored_bytes(
            7, dim, dtype, side_by_side=blocks or 1
        )
    values, scale = codewords(state, "x"), state["x_scale"]
    each = (
        scale
        if blocks is None
        else scale.repeat_interleave(torch.tensor([len(part) for part in torch.arange(dim).tensor_split(blocks)]), dim=1)
    )
    each = each[:, None].double() if blocks is None else each.double()
    assert bool(((values.double() - vectors.double()).abs() <= 0.5001 * each).all())
    assert torch.equal(values.double(), state["x"].double() * each)
    if bool((scale >= 2.0**-14).all()):  # float16 has fewer digits below
        again = to_int8_like(values, scale)
        assert torch.equal(again[0], state["x"]) and torch.equal(again[1], scale)


def test_a_factor_is_rounded_up_and_ends_at_the_largest():
    peaks = torch.logspace(-7, 6, 200)[:, None]
    whole, factors = to_int8(peaks, factor_dtype=torch.float16)
    assert bool((factors.double()[:, None] * 127 >= peaks.double()).all()) and bool((whole > 0).all())
    _, factors = to_int8(torch.tensor([[1e30], [1e-30], [0.0]]), factor_dtype=torch.float16)
    assert factors.tolist() == [65504.0, 2.0**-24, 0.0]
    assert rounded(torch.tensor([[1e30, -1.0], [1e-30, 0.0]]), "int8").tolist() == [[127 * 65504.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.thorough] if name != "pq" else []) for name in INT8])
def test_methods_lose_next_to_nothing(name, tmp_path):
    """The error, the bytes, the file; and a training, which begins where the fit ended and ends in int8."""
    whole, small = made(name, "float32"), made(name)
    predicted = type(small).storage(small.config, (64, 8))
    assert small.payload_bytes <= predicted.payload_bytes < whole.payload_bytes
    assert not predicted.exact or small.measured_storage() == predicted
    errors = [float((one.to_dense() - table().vectors).square().mean()) for one in (whole, small)]
    assert abs(errors[1] - errors[0]) < 0.1 * errors[0]  # few rows: k-means may take another way
    small.save(tmp_path / "t.safetensors")
    assert torch.equal(read(tmp_path / "t.safetensors").quantizer.to_dense(), small.to_dense())
    module = CompressedEmbedding(small, trainable=True)
    hard, state = module.harden(), small.state()
    assert all(torch.equal(hard.state()[part], tensor) for part, tensor in state.items())
    torch.testing.assert_close(module(IDS), small.reconstruct(IDS))
    assert module.payload_bytes == small.payload_bytes
    wanted = 1.3 * table().vectors  # by a task
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(20):
        (module(IDS) - wanted).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    for one in (module, pickle.loads(pickle.dumps(module)), copy.deepcopy(module).double()):
        hard = one.harden()
        assert {part: tensor.dtype for part, tensor in hard.state().items()} == {
            part: tensor.dtype for part, tensor in state.items()
        }
        torch.testing.assert_close(hard.reconstruct(IDS), module(IDS), rtol=0.02, atol=0.05)
    before, after = (float((one.to_dense() - wanted).square().mean()) for one in (small, hard))
    assert after < before


def test_a_state_can_be_loaded_into_another_training():
    first, second = (CompressedEmbedding(made("pq"), trainable=True) for _ in range(2))
    with torch.no_grad():
        first.codebooks.mul_(3)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(IDS), second(IDS))
    assert all(torch.equal(second.harden().state()[name], tensor) for name, tensor in first.harden().state().items())


def test_axes_in_int8_are_trained_too():
    ids = torch.arange(40)
    module = CompressedEmbedding(read(STORED / "trellis-24.safetensors").quantizer, trainable=True)
    before = module.harden()
    module(ids).square().sum().backward()
    with torch.no_grad():
        module.basis.sub_(0.01 * module.basis.grad)
    after = module.harden()
    assert not torch.equal(before.state()["basis"], after.state()["basis"])
    assert after.state()["basis_scale"].dtype == torch.float32
    torch.testing.assert_close(after.reconstruct(ids), module(ids), rtol=0.02, atol=0.02)


def test_kept_codewords_follow_their_tensors():
    kept, state = KeptCodewords(), stored("x", torch.tensor([[1.0, 2.0]]), "float16")
    with torch.inference_mode():
        first = kept.of(state, "x")
    assert kept.of(state, "x") is first and first.tolist() == [[1.0, 2.0]]
    weight = torch.ones(1, 2, requires_grad=True)
    (first * weight).sum().backward()  # what was made in inference mode may take part in a training
    state["x"].mul_(2)
    assert kept.of(state, "x").tolist() == [[2.0, 4.0]]
    state["x"] = torch.tensor([[5.0, 6.0]], dtype=torch.float16)
    assert kept.of(state, "x").tolist() == [[5.0, 6.0]]
    assert copy.deepcopy(kept).__dict__ == {"_kept": {}}
    whole = stored("x", torch.tensor([[127.0, 2.0]]), "int8")
    assert kept.of(whole, "x").tolist() == [[127.0, 2.0]]
    whole["x_scale"].mul_(2)
    assert kept.of(whole, "x").tolist() == [[254.0, 4.0]]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda state: {"codebooks_scale": state["codebooks_scale"].T.contiguous()}, "codebooks_scale has the shape"),
        (lambda state: {"codebooks_scale": state["codebooks_scale"].view(torch.int16)}, "its factors torch.int16"),
        (lambda state: {"codebooks": state["codebooks"].view(torch.uint8)}, "codebooks is torch.uint8"),
    ],
)
def test_files_that_hold_something_else(changed, message, tmp_path):
    quantizer = made("pq")
    state = quantizer.state()
    wrong = type(quantizer).from_state(quantizer.config, {**state, **changed(state)}, shape=quantizer.shape)
    wrong.save(tmp_path / "t.safetensors")
    with pytest.raises(ArtifactError, match=message):
        read(tmp_path / "t.safetensors")


def test_factors_of_a_table_in_float16(tmp_path):
    quantizer = made("rq", "float16")
    books = quantizer.state()["codebooks"]
    state = {**quantizer.state(), "codebooks": books[..., :-1].contiguous(), "codebooks_scale": books[..., -1].contiguous()}
    type(quantizer).from_state(quantizer.config, state, shape=quantizer.shape).save(tmp_path / "t.safetensors")
    with pytest.raises(ArtifactError, match="with factors, codebook_dtype float16"):
        read(tmp_path / "t.safetensors")


def test_an_unpacked_product_is_exact():
    every = torch.arange(-127, 128, dtype=torch.int8)[None]
    factors = torch.arange(1, 1 << 15, 257).to(torch.int16).view(torch.float16)
    factors = factors[factors.isfinite()]
    found = from_int8(every.expand(len(factors), -1), factors)
    assert torch.equal(found.double(), every.double() * factors.double()[:, None])
