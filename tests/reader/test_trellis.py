"""Rows of ``trellis`` in the readers for NumPy and JavaScript, and what these and the program refuse."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from embedding_frontier_reader import ReadError, load

import quantizers
from quantizers import ArtifactError
from quantizers.coding.range_coder import encode_list
from quantizers.coding.slots import slot_words
from quantizers.methods.trellis.method import Trellis, TrellisConfig

pytestmark = pytest.mark.process

PAGE = (Path(__file__).parents[2] / "docs/format.md").read_text()
ROWS, COLUMNS = 300, 7


def made(seed, precision, slot_bytes, states=8, rank=5, tables=3, most=6):
    """A table of chance: whatever stands in a slot is some row, and its symbols are all that the tables allow."""
    random = np.random.default_rng(seed)
    columns, total = rank or COLUMNS, 1 << precision
    largest = random.integers(0, min(most, (total - 1) // 2) + 1, 2 * tables)
    largest[::2] = largest[::2].clip(1)
    frequency = []
    for count in largest:
        # Of the numbers below half of all, some that differ: the distances between them.
        marks = np.sort(random.choice(np.arange(1, (total + 1) // 2), count, replace=False))
        frequency += np.diff(marks, prepend=0).tolist()
    classes, slots = torch.from_numpy(random.integers(0, len(slot_bytes), ROWS)), np.array(slot_bytes)
    words = slot_words(slots)
    num_heads, num_words = (int(size[classes.numpy()].sum()) for size in (slots - 4 * words, words))
    state = {
        "heads": torch.from_numpy(random.integers(0, 256, num_heads, dtype=np.uint8)),
        "tails": torch.from_numpy(random.integers(-(2**31), 2**31, num_words, dtype=np.int32)),
        "step": torch.tensor(0.37),
        "precision": torch.tensor(precision, dtype=torch.uint8),
        "slot_bytes": torch.tensor(slot_bytes, dtype=torch.int16),
        "table_row": torch.from_numpy(random.integers(0, 2, len(slot_bytes)).astype(np.uint8)),
        "table_of": torch.from_numpy(random.integers(0, tables, (2, columns)).astype(np.uint8)),
        "largest": torch.from_numpy(largest.astype(np.int16)),
        "frequency": torch.tensor(frequency, dtype=torch.int16),
        "shrink": torch.from_numpy(random.random((2 * tables, 3)).astype(np.float16)),
        "mean": torch.linspace(-1, 2, COLUMNS),
    }
    if len(slot_bytes) > 1:
        stream, sizes, share = encode_list(classes, len(slot_bytes))
        state |= {"classes": stream, "class_bytes": sizes.to(torch.int16), "class_frequency": share.to(torch.int16)}
    if rank:
        state["basis"] = torch.from_numpy(random.integers(-127, 128, (rank, COLUMNS)).astype(np.int8))
        state["basis_scale"] = torch.linspace(0.5, 0.1, rank)
    return TrellisConfig(rank=rank, states=states), state


def save(made, path):
    config, state = made
    table = Trellis.from_state(config, state, shape=(ROWS, COLUMNS))
    table.save(path)
    return table


@pytest.mark.parametrize(
    ("states", "precision", "slot_bytes", "shape"),
    [
        (4, 4, [3], {"rank": 0}),
        (8, 12, [0, 2, 7, 8, 11, 30], {"tables": 4}),
        (16, 15, [12, 21, 40], {"most": 300}),
        (32, 2, [1, 5], {"tables": 2}),
        (64, 12, [17], {}),
    ],
)
def test_any_slot_reads_as_the_program_reads_it(states, precision, slot_bytes, shape, tmp_path, javascript):
    path = tmp_path / "table.safetensors"
    table = save(made(0, precision, slot_bytes, states, **shape), path)
    expected, numpy = table.to_dense().numpy(), load(path)
    assert len(np.unique(expected, axis=0)) > 2
    ids = [299, 0, 255, 256, 7, 7]
    for rows, of in [
        (numpy.to_dense(), slice(None)),
        (numpy[ids], ids),
        (numpy[299][None], [299]),
        (javascript(path)["rows"], slice(None)),
        (javascript(path, ids=ids)["rows"], ids),
    ]:
        off = np.linalg.norm(rows.astype(np.float64) - expected[of], axis=1)
        assert (off <= 1e-6 * np.linalg.norm(expected[of], axis=1)).all()


def test_the_row_of_the_page(tmp_path, javascript):
    """One context's numbers and one row are worked out there by hand."""
    assert "those of the symbols 0 0 1 -1 0 0 1 -1 0 0 1 -1 0 0 1 -1." in PAGE
    assert "a head of the one byte 18, r = 3." in PAGE
    assert "With step = 2 and shrink[0][0] = 0.25, y = (3.5, 0, 3.5)." in PAGE
    state = {
        "heads": torch.tensor([18], dtype=torch.uint8),
        "tails": torch.tensor([], dtype=torch.int32),
        "step": torch.tensor(2.0),
        "precision": torch.tensor(4, dtype=torch.uint8),
        "slot_bytes": torch.tensor([1], dtype=torch.int16),
        "table_row": torch.tensor([0], dtype=torch.uint8),
        "table_of": torch.tensor([[0, 0, 0]], dtype=torch.uint8),
        "largest": torch.tensor([1, 1], dtype=torch.int16),
        "frequency": torch.tensor([4, 4], dtype=torch.int16),
        "shrink": torch.tensor([[0.25, 0, 0], [0.5, 0, 0]], dtype=torch.float16),
        "mean": torch.zeros(3),
    }
    path = tmp_path / "table.safetensors"
    Trellis.from_state(TrellisConfig(rank=0, states=4), state, shape=(1, 3)).save(path)
    assert load(path).to_dense().tolist() == javascript(path)["rows"].tolist() == [[3.5, 0, 3.5]]


def _with(name, change):
    return lambda state: {**state, name: change(state[name].clone())}


def _set(place, value):
    def change(tensor):
        tensor[place] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("damage", "numpy_reason", "javascript_reason"),
    [
        (_with("heads", lambda t: t[1:]), "of heads, and", "Tensor heads has the shape"),
        (_with("tails", lambda t: t[:-1]), "of tails, and", "Tensor tails has the shape"),
        (_with("precision", lambda t: t + 4), "precision of 16", "16 bits"),
        (_with("precision", lambda t: t - 11), "frequencies of context", "context|Tensor frequency"),
        (_with("slot_bytes", _set(0, -3)), "slots", "slot_bytes has negative"),
        (_with("slot_bytes", lambda t: t[:2]), "slots|no row of tables", "class_frequency"),
        (_with("table_row", _set(1, 2)), "no row of tables", "table that is not there"),
        (_with("table_of", _set((0, 0), 3)), "6 contexts, and table 3", "table that is not there"),
        (_with("table_of", lambda t: t[:, 1:]), "for 5 columns", "Tensor table_of"),
        (_with("largest", _set(0, 600)), "missing, or too many", "Tensor frequency"),
        (_with("frequency", _set(0, 0)), "context 0", "Tensor frequency"),
        (_with("frequency", _set(0, 2048)), "context 0", "context 0"),
        (_with("step", lambda t: t * torch.nan), "not finite", "not finite"),
        (
            _with("tails", lambda t: t.to(torch.float16)),
            "tails is float16, not int32",
            "Tensor tails is of type F16, not I32",
        ),
        (_with("shrink", lambda t: t[:, :2]), "shrink", "Tensor shrink"),
        (_with("class_frequency", _set(0, 0)), "add up to", "add up to"),
        (_with("class_bytes", _set(0, 1)), "blocks have", "classes take"),
        (_with("mean", lambda t: t[:1]), "mean", "Tensor mean"),
        (_with("basis", lambda t: t[:4]), "basis_scale", "Tensor basis_scale"),
        (lambda state: {name: one for name, one in state.items() if name != "basis"}, "basis", "no tensor basis"),
        (lambda state: {name: one for name, one in state.items() if name != "classes"}, "class", "classes"),
    ],
)
def test_what_does_not_belong_together_is_refused(damage, numpy_reason, javascript_reason, tmp_path, javascript):
    """The digest fits: somebody's program wrote it so."""
    config, state = made(0, 12, [0, 9, 20])
    save((config, damage(state)), tmp_path / "table.safetensors")
    with pytest.raises(ReadError, match=numpy_reason):
        load(tmp_path / "table.safetensors")
    with pytest.raises(ArtifactError, match="is no trellis table of shape"):
        quantizers.read(tmp_path / "table.safetensors")
    answer = javascript(tmp_path / "table.safetensors")
    assert answer["kind"] == "format" and re.search(javascript_reason, answer["error"]), answer
