"""The same table from every format: the same vectors bit for bit, and the same words; and what each reader refuses."""

from __future__ import annotations

import importlib.util
import json
import logging
import pickle
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import save_file

from quantizers import InputError, Table
from trainables.tables.formats import read_table

pytestmark = pytest.mark.thorough  # writes a table in 25 formats

_spec = importlib.util.spec_from_file_location("table_files", Path(__file__).with_name("table_files.py"))
assert _spec is not None and _spec.loader is not None
files: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(files)


@pytest.mark.parametrize("make", files.ALL_WORDS, ids=lambda make: make.__name__)
def test_one_table_in_every_format(make, tmp_path, caplog):
    words = files.ALL_WORDS[make]
    name = make(tmp_path)
    with caplog.at_level(logging.WARNING):
        table = read_table(name, data_dir=tmp_path)
    assert table.vectors.numpy().tobytes() == files.VECTORS.tobytes()
    assert (table.words and list(table.words)) == words
    said = [line for line in caplog.messages if "two-dimensional float tensors this one is read" not in line]
    assert len(said) == (words == files.WORDS), caplog.text  # that a word comes twice is said once
    first = read_table(name, data_dir=tmp_path, rows=3)
    assert torch.equal(first.vectors, table.vectors[:3])
    assert (first.words and list(first.words)) == (words and words[:3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(dtype, tmp_path):
    vectors = torch.tensor([[0.5, -1.25], [3.0, 0.1]]).to(dtype)
    torch.save(vectors, tmp_path / "t.pt")
    save_file({"t": vectors}, tmp_path / "t.safetensors")
    names = ["t.pt", "t.safetensors"]
    if dtype != torch.bfloat16:
        np.savez(tmp_path / "t.npz", t=vectors.numpy())
        pyarrow.parquet.write_table(
            pa.table({"x": vectors[:, 0].numpy(), "y": vectors[:, 1].numpy()}), tmp_path / "t.parquet"
        )
        names += ["t.npz", "t.parquet"]
    for name in names:
        assert torch.equal(read_table(name, data_dir=tmp_path).vectors, vectors.float())


def refused(path: Path, message: str, part: str = "") -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_table(f"{path}{part}")
    assert "\n" not in str(caught.value) and str(path.parent) in str(caught.value)


def gensims_vector(word: str, row: int, matrix: np.ndarray) -> np.ndarray:
    """fastText's vector of a word, n-gram by n-gram: minn 2, maxn 3, 7 buckets behind 5 words."""
    found, marked = [row], f"<{word}>"
    for start in range(len(marked)):
        for length in (2, 3):
            gram = marked[start : start + length]
            if len(gram) == length:
                value = 2166136261
                for byte in gram.encode():
                    value = ((value ^ (byte - 256 if byte > 127 else byte)) & 0xFFFFFFFF) * 16777619 & 0xFFFFFFFF
                found.append(5 + value % 7)
    return matrix[found].astype(np.float64).mean(axis=0)


def test_fasttext_adds_subwords(tmp_path):
    files.fasttext(tmp_path, subwords=True)
    data = bytearray((tmp_path / "t.bin").read_bytes())
    table = read_table("t.bin", data_dir=tmp_path)
    matrix = np.concatenate([files.VECTORS, np.arange(14, dtype=np.float32).reshape(7, 2)])
    expected = [gensims_vector(word, row, matrix) for row, word in enumerate(files.WORDS)]
    np.testing.assert_allclose(table.vectors.numpy(), expected, rtol=1e-6)
    place = data.index(b"cat\0")
    data[place : place + 3] = b"</s"  # not the mark of a sentence's end
    data = data.replace(b"</s\0", b"</s>\0")
    (tmp_path / "t.bin").write_bytes(data)
    assert torch.equal(read_table("t.bin", data_dir=tmp_path).vectors[2], torch.from_numpy(files.VECTORS[2]))


def test_fasttext_that_is_refused(tmp_path):
    path = tmp_path / files.fasttext(tmp_path)
    data = path.read_bytes()
    matrix = data.index(struct.pack("<qq", 5, 2))
    path.write_bytes(data[: matrix - 1] + b"\1" + data[matrix:])
    refused(path, "quantized fastText model.*print-word-vectors")
    path.write_bytes(data[:matrix] + struct.pack("<qq", 10**12, 2) + data[matrix + 16 :])
    refused(path, "not a complete fastText model")
    path.write_bytes(data[:8] + struct.pack("<i", 10**9) + data[12:])
    refused(path, "not a complete fastText model")
    path.write_bytes(data[:130])
    refused(path, "its dictionary ends in entry|it was cut off")


def test_checkpoints_run_no_code(tmp_path):
    path = tmp_path / "t.pt"
    torch.save(torch.nn.Linear(2, 3), path)
    refused(path, r"object of the class torch.nn.modules.linear.Linear, and reading one can run code.*state_dict\(\)")

    class Run:
        def __reduce__(self) -> Any:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    torch.save({"weight": Run()}, path)
    refused(path, "can run code")
    path.write_bytes(pickle.dumps(Run()))
    refused(path, "t.pt: ")
    for name in ("t.kv", "t.pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(Run()))
        refused(tmp_path / name, "can run code|KeyedVectors.load")
    assert not (tmp_path / "ran").exists()


def test_checkpoints_of_several_tables(tmp_path):
    path = tmp_path / "t.pt"
    tensors = {f"layer{n}.weight": torch.ones(n + 1, 2) for n in range(12)}
    torch.save(tensors, path)
    refused(path, r"12 two-dim.* tensors: layer11.weight 12 x 2, .* and 2 more; name one: .*t.pt#NAME")
    refused(path, "Unknown two-dimensional float tensor .*'layer11.weigh'. Did you mean 'layer11.weight'", "#layer11.weigh")
    assert read_table(f"{path}#layer3.weight").shape == (4, 2)
    torch.save({**tensors, "decoder.embed_tokens.weight": torch.ones(7, 2)}, path)
    assert read_table(str(path)).name == "t#decoder.embed_tokens.weight"
    torch.save({"stoi": {"a": 1, "b": 0}, "e": torch.ones(2, 2), "counts": torch.tensor([3, 4])}, path)
    table = read_table(str(path))
    assert table.words == ["b", "a"] and table.counts is not None and table.counts.tolist() == [3, 4]
    torch.save({"e": torch.ones(1, 1).expand(10**6, 10**6)}, path)  # 4 TB that take 4 bytes
    refused(path, "no two-dimensional float tensor in it")


def test_a_missing_companion_is_named(tmp_path):
    path = tmp_path / files.kv_beside(tmp_path)
    (tmp_path / "t.kv.vectors.npy").unlink()
    refused(path, "its vectors are in t.kv.vectors.npy, which is not beside it")
    index = tmp_path / files.shards(tmp_path)
    (tmp_path / "m-2.safetensors").unlink()
    assert read_table(str(index)).shape == (5, 2)
    refused(index, "m-2.safetensors: no such file; the index says that lm_head.weight is in it", "#lm_head.weight")
    (tmp_path / "m-1.safetensors").unlink()
    refused(index, "m-1.safetensors: no such file; the index says that model.embed_tokens.weight")
    index.write_text(json.dumps({"weight_map": {"a": "../m-1.safetensors"}}))
    refused(index, "outside its own folder")


def test_gensims_models_are_refused_with_what_converts_them(tmp_path):
    before = {name for name in sys.modules if name.startswith("gensim")}
    for module, name in (("gensim.models.fasttext", "FastTextKeyedVectors"), ("os", "system")):
        (tmp_path / "t.kv").write_bytes(b"\x80\x04c" + f"{module}\n{name}\n".encode() + b")\x81.")
        refused(tmp_path / "t.kv", rf"it names {module}.{name}\). With gensim: KeyedVectors.load\('t.kv'\).save_word2vec")
    (tmp_path / "t.model").write_bytes(b"x")
    refused(tmp_path / "t.model", r"model.wv.save\('X.kv'\)")
    assert {name for name in sys.modules if name.startswith("gensim")} == before  # nothing was imported to read it


def test_columns_that_are_refused(tmp_path):
    path = tmp_path / "t.parquet"

    def write(**columns: Any) -> None:
        pyarrow.parquet.write_table(pa.table(columns), path)

    write(word=["a", "b"], n=[1, 2])
    refused(path, r"no column of lists of floats, and none of floats: word \(string\), n \(int64\)")
    write(v=[[1.0, 2.0], [1.0]])
    refused(path, "row 1: 1 value, expected 2")
    write(v=[[1.0, 2.0], [1.0, None]])
    with pytest.raises(InputError, match="1 of 2 rows hold NaN or infinity, the first is row 1"):
        read_table(str(path))
    write(v=[[1.0], None])
    refused(path, "row 1: there is no vector")
    write(v=[[1.0], [2.0]], w=[[1.0], [2.0]])
    refused(path, "2 columns of lists: v, w; name one: .*t.parquet#NAME")
    assert read_table(f"{path}#w").shape == (2, 1)
    write(v=[[1.0], [2.0]], one=["a", "b"], two=["c", "d"])
    refused(path, "2 columns of text: one, two; name the one with the words 'word'")
    write(v=[[1.0], [2.0]], word=["a", None])
    refused(path, "row 1: there is no word")
    write(v=pa.FixedSizeListArray.from_arrays(pa.array(np.ones(20_000_000, np.float32)), 100))
    refused(path, "unpacks to more than")
    assert read_table(str(path), max_unpacked=10**9).shape == (200_000, 100)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("word,x,y\nthe,0.5,1\ncat,2,3\n", ["the", "cat"]),
        (",0,1\nthe,0.5,1\n2,2,3\n", ["the", "2"]),
        ("x,y\n0.5,1\n2,3\n", None),
        ("0,1\n0.5,1\n2,3\n", None),
        ('x,y,token\n0.5,1,"a, ""b"""\n2,3,\n', ['a, "b"', ""]),
        ("the,0.5,1\r\nnan,2,3\r\n", ["the", "nan"]),
        ("\ufeffword,x,y\nNULL,0.5,1\nNA,2,3", ["NULL", "NA"]),
        ("word,x,y\n1,0.5,1\n2,2,3\n", ["1", "2"]),
        (",word,0,1\n0,a,0.5,1\n1,b,2,3\n", ["a", "b"]),
        ("id,x,y\n7,0.5,1\n8,2,3\n", None),
    ],
)
def test_separated_by_commas(tmp_path, text, words):
    (tmp_path / "t.csv").write_bytes(text.encode())
    table = read_table("t.csv", data_dir=tmp_path)
    assert table.vectors.tolist() == [[0.5, 1.0], [2.0, 3.0]] and (table.words and list(table.words)) == words


def test_separated_that_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    for text, message in [
        ("", "the file is empty"),
        ("a,b\nc,d\n", "no column of lists of floats, and none of floats|columns of text"),
        ("x,x\n1,2\n3,4\n", "the column 'x' occurs twice"),
        ("w,x,y\na,1,2\nb,3\n", "not a table in columns"),
        ("w,x\n" + "a,1\n" * 60 + "a,one\n", "not a table in columns"),
    ]:
        path.write_text(text)
        refused(path, message)


def test_tabs_without_a_header_are_a_text_table(tmp_path):
    (tmp_path / "t.tsv").write_text('the\t0.5\t1\n"\t2\t3\n')
    assert read_table("t.tsv", data_dir=tmp_path).words == ["the", '"']


def test_npz(tmp_path, caplog):
    path = tmp_path / "t.npz"
    np.savez(path, vectors=files.VECTORS, words=np.array(files.WORDS, dtype=object), counts=np.arange(5))
    with caplog.at_level(logging.WARNING):
        table = read_table(str(path))
    assert table.words is None and "the words in words are pickled" in caplog.text
    assert table.counts is not None and table.counts.tolist() == [0, 1, 2, 3, 4]
    np.savez(path, a=files.VECTORS, b=np.zeros((2, 9)))
    refused(path, r"2 two-dim.* tensors: b 2 x 9, a 5 x 2; name one: .*t.npz#NAME")
    assert read_table(f"{path}#b").shape == (2, 9)
    np.savez(path, a=np.zeros((2, 9), dtype=int))
    refused(path, "no two-dimensional float")
    words = np.array([65, 0x110000, 67, 68, 69], dtype=np.uint32).view("<U1")
    np.savez(path, vectors=files.VECTORS, words=words)
    refused(path, "damaged, or cut off .1114112 is no character")
    np.savez_compressed(path, a=np.zeros((1 << 12, 1 << 13)))
    refused(path, "unpacks to more than")
    path.write_bytes(files.archive_of({"a.npy": b"\x93NUMPY\x01\x00\x05\x00'''(\n", "note.txt": b"hello"}))
    refused(path, "not a complete .npy array")


def test_model2vec_as_it_looks_tokens_up(tmp_path):
    folder = tmp_path / files.model2vec(tmp_path)
    tensors = {"embeddings": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "mapping": torch.tensor([0, 1, 1, 0, 1])}
    save_file({**tensors, "weights": torch.tensor([1.0, 1.0, 2.0, 0.5, 0.0])}, folder / "model.safetensors")
    table: Table = read_table(str(folder))
    assert table.vectors.tolist() == [[1, 2], [3, 4], [6, 8], [0.5, 1], [0, 0]] and list(table.words or ()) == files.ONCE
    save_file({**tensors, "mapping": torch.tensor([0, 2])}, folder / "model.safetensors")
    refused(folder / "", "mapping or weights do not fit")


def test_folders(tmp_path, caplog):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "a folder without a model; expected model.safetensors, ")
    (tmp_path / "empty" / "x.safetensors").write_bytes(b"")
    refused(tmp_path / "empty", "To read one file in it: .*empty/x.safetensors")
    folder = tmp_path / files.hugging_face(tmp_path)
    (folder / "vocab.txt").write_text("a\nb\n")
    with caplog.at_level(logging.WARNING):
        assert list(read_table(str(folder)).words or ()) == ["a", "b", "[row 2]", "[row 3]", "[row 4]"]
    assert "2 tokens for 5 rows; the others are called [row 2]" in caplog.text
    assert read_table(f"{folder}#embeddings.position_embeddings.weight").shape == (3, 2)
    endless = '{"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": "b", "id": Infinity}]}'
    wrong = ['{"model": {"vocab": {"a": -1}}}', '{"model": {"vocab": {"a": 9999999999}}}', endless]
    for text in ("[]", *wrong, "[" * 3000, "{"):
        (folder / "tokenizer.json").write_text(text)
        refused(folder, "tokenizer.json: not ")
    (tmp_path / "empty" / "pytorch_model.bin.index.json").write_text("{}")
    refused(tmp_path / "empty", r"in shards of torch.save. .*save_pretrained\('model'\)")
    (tmp_path / "st").mkdir()
    (tmp_path / "st" / "modules.json").write_text('[{"path": "../bert"}]')
    refused(tmp_path / "st", "names a folder outside its own")


def test_a_file_that_cannot_be_read_or_held(tmp_path, monkeypatch):
    (tmp_path / "t.txt").write_text("a 1\n")
    for error, message in [
        (PermissionError(13, "Permission denied"), "cannot be read: Perm"),
        (MemoryError(), "more memory"),
    ]:

        def fail(*_: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("trainables.tables.formats.opened", fail)
        refused(tmp_path / "t.txt", f"t.txt: .*{message}")
