"""The committed files read back: every method, row by row, whole, by word; and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import embedding_frontier_reader
import numpy as np
import pytest
from embedding_frontier_reader import CompressedTable, ReadError, load

DATA = Path(__file__).with_name("data")
FILES = sorted(DATA.glob("*.safetensors"))
ROWS = np.load(DATA / "rows.npz")
GATHERS = ("cast", "dpq", "hashed", "identity", "pq", "pruned", "scalar")  # no sum and no product: equal bit for bit


def assert_rows(found: np.ndarray, expected: np.ndarray, method: str) -> None:
    assert found.dtype == np.float32 and found.shape == expected.shape
    if method in GATHERS:
        assert found.tobytes() == expected.tobytes()
    else:
        off = np.linalg.norm(found.astype(np.float64) - expected, axis=-1)
        assert (off <= 1e-6 * np.linalg.norm(expected, axis=-1)).all()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_rows_are_those_of_the_program_that_wrote_them(file: Path) -> None:
    table, expected = load(file), ROWS[file.stem]
    assert (table.shape, len(table)) == (expected.shape, len(expected))
    assert_rows(table.to_dense(), expected, table.method)
    assert_rows(np.stack([table[row] for row in range(len(table))]), expected, table.method)
    ids = np.array([[39, 0, 7], [7, 7, 1]])
    assert_rows(table[ids], expected[ids], table.method)
    assert table[np.zeros((0, 2), dtype=np.int64)].shape == (0, 2, expected.shape[1])


def test_words() -> None:
    table, expected = load(DATA / "pq-5.safetensors"), ROWS["pq-5"]
    assert table.words is not None and table.words[:4] == ["dog", "cat", "dog", "naïve"]
    assert_rows(table["naïve"], expected[3], "pq")
    assert_rows(table[["New York", "dog", "don't"]], expected[[5, 0, 4]], "pq")  # of two rows the first
    assert_rows(table[38:50], expected[38:50], "pq")
    assert_rows(np.array(list(table)), expected, "pq")
    assert "cat" in table and "cats" not in table and 3 not in table
    with pytest.raises(KeyError, match="'cats' is no word of the table"):
        table["cats"]
    with pytest.raises(KeyError, match="no words"):
        load(DATA / "identity-without-words.safetensors")["dog"]


@pytest.mark.parametrize("name", ["pq-5", "hashed-1", "tt-3", "transform_entropy-24"])
def test_rows_that_are_not_there(name: str) -> None:
    table = load(DATA / f"{name}.safetensors")
    for wrong in (-1, 40, [0, 40]):
        with pytest.raises(IndexError, match="40"):
            table[wrong]
    for odd in (1.0, [True, False], [1.5]):
        with pytest.raises(TypeError, match="whole numbers"):
            table[odd]


def refused(path: Path, message: str) -> None:
    with pytest.raises(ReadError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "cannot be read")
    good = (DATA / "rq-16.safetensors").read_bytes()
    file = tmp_path / "f.safetensors"
    for content, message in [
        (b"", "not a complete safetensors"),
        (good[:-1], "not a complete safetensors"),
        (good[:-1] + bytes([good[-1] ^ 1]), "digest"),
        (good.replace(b'\\"beam_size\\": 5', b'\\"beam_size\\": 6'), "digest"),
        (good.replace(b'format_version\\": 1', b'format_version\\": 2'), "newer"),
    ]:
        assert content != good
        file.write_bytes(content)
        refused(file, message)
    header = json.dumps({"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    refused(file, "not a compressed table")


def test_the_import_needs_neither_torch_nor_much_time() -> None:
    program = "import sys, time; t = time.process_time(); import embedding_frontier_reader; print(time.process_time() - t);"
    program += "print('torch' in sys.modules, len([m for m in sys.modules if m.startswith('scipy')]))"
    environment = {**os.environ, "PYTHONPATH": str(Path(embedding_frontier_reader.__file__).parents[1])}
    runs = [
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
        ).stdout.splitlines()
        for _ in range(3)
    ]
    assert all(modules == "False 0" for _, modules in runs)
    assert min(float(seconds) for seconds, _ in runs) < 0.2  # of the processor; the first run may read from the disk


def test_a_table_says_what_it_is() -> None:
    table = load(DATA / "rq-16.safetensors")
    assert isinstance(table, CompressedTable)
    assert repr(table) == f"CompressedTable(rq, 40 x 10, payload_bytes={table.payload_bytes})"
    assert table.config["num_codebooks"] == 4 and len(table.digest) == 32
    assert table.payload_bytes == 40 * 2 + 4 * 16 * 10 * 4


def signed(content: bytes, **changes: object) -> bytes:
    """The file with keys of its header changed, and a digest that fits."""
    length = int.from_bytes(content[:8], "little")
    whole = json.loads(content[8 : 8 + length])
    header = json.loads(whole["__metadata__"]["embedding_frontier"]) | changes
    tensors = {
        name: (np.frombuffer(content[8 + length :][slice(*one["data_offsets"])], np.uint8), one)
        for name, one in whole.items()
        if name != "__metadata__"
    }
    kinds = {"F32": "torch.float32", "F16": "torch.float16", "BF16": "torch.bfloat16", "I64": "torch.int64"}
    kinds |= {"U8": "torch.uint8", "I8": "torch.int8", "I16": "torch.int16", "I32": "torch.int32"}
    state = hashlib.blake2b(digest_size=16)
    state.update(json.dumps({key: value for key, value in header.items() if key != "digest"}, sort_keys=True).encode())
    for name in sorted(tensors):
        array, one = tensors[name]
        state.update(f"{name}:{kinds[one['dtype']]}:{tuple(one['shape'])};".encode() + array.tobytes())
    whole["__metadata__"]["embedding_frontier"] = json.dumps({**header, "digest": state.hexdigest()}, sort_keys=True)
    text = json.dumps(whole).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def test_files_that_mean_harm_are_refused(tmp_path: Path) -> None:
    good, file = (DATA / "pq-3.safetensors").read_bytes(), tmp_path / "f.safetensors"
    config = dict(load(DATA / "pq-3.safetensors").config)
    file.write_bytes(signed(good))
    assert load(file).shape == (40, 10)
    for changes, message in [
        ({"method": ["pq"]}, "the header is damaged"),
        ({"format_version": "1"}, "the header is damaged"),
        ({"config": {**config, "codebook_size": 5.0}}, "no pq table"),
        ({"config": {**config, "num_codebooks": 0}}, "no pq table"),
    ]:
        file.write_bytes(signed(good, **changes))
        refused(file, message)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("hashed-overlapping", {"embedding_dim": 1 << 31}, "rows of 2147483648 columns are not read from 404 bytes"),
        ("pruned-index", {"embedding_dim": 1 << 31}, "rows of 2147483648 columns are not read from 120 bytes"),
        ("pruned-index", {"embedding_dim": 300}, r"row_counts has the shape \(20,\), not \(45,\)"),
        ("pruned-mask", {"embedding_dim": 20}, r"mask has the shape \(40, 2\), not \(40, 3\)"),
        ("identity-without-words", {"num_embeddings": 1 << 63}, "fewer than 2\\^63 rows"),
    ],
)
def test_shapes_that_the_file_has_no_right_to_are_refused(
    name: str, changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    """Rows of such tables would take gigabytes, or hold what was never stored."""
    file = tmp_path / "f.safetensors"
    file.write_bytes(signed((DATA / f"{name}.safetensors").read_bytes(), **changes))
    refused(file, message)


def retyped(content: bytes, name: str, dtype: str) -> bytes:
    """The file with the bytes of one tensor said to be of another type of the same width."""
    length = int.from_bytes(content[:8], "little")
    whole = json.loads(content[8 : 8 + length])
    whole[name]["dtype"] = dtype
    text = json.dumps(whole).encode()
    return signed(len(text).to_bytes(8, "little") + text + content[8 + length :])


@pytest.mark.parametrize(
    ("stored", "name", "dtype", "message"),
    [
        ("cast-e4m3", "vectors", "I8", "vectors is int8, not uint8"),
        ("cast-float16", "vectors", "BF16", "vectors is uint16, not float16"),
        ("pq-3", "codebooks", "BF16", "holds a tensor of type BF16, which no pq table has"),
        ("trellis-100", "tails", "F32", "tails is float32, not int32"),
        ("tt-4", "words", "I8", "its words are int8, not uint8"),
    ],
)
def test_types_that_would_read_as_other_values_are_refused(
    stored: str, name: str, dtype: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "f.safetensors"
    file.write_bytes(retyped((DATA / f"{stored}.safetensors").read_bytes(), name, dtype))
    refused(file, message)


def test_codes_that_point_to_nothing_are_refused_with_their_row(tmp_path: Path) -> None:
    good, file = (DATA / "dccl-5.safetensors").read_bytes(), tmp_path / "f.safetensors"
    whole = json.loads(good[8 : 8 + int.from_bytes(good[:8], "little")])
    start = 8 + int.from_bytes(good[:8], "little") + whole["codes"]["data_offsets"][0]
    row_bytes = whole["codes"]["shape"][1]
    bad = good[: start + 7 * row_bytes] + b"\xff" * row_bytes + good[start + 8 * row_bytes :]
    file.write_bytes(signed(bad))
    table = load(file)
    assert table[6].shape == (10,)
    with pytest.raises(ReadError, match="point to nothing"):
        table[7]
