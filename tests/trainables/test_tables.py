"""Table readers: every format, every kind of damage, with the line that the message must name."""

from __future__ import annotations

import errno
import gzip
import logging
import lzma
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from quantizers import InputError, Table
from quantizers.table import TableStats
from trainables.tables import writing
from trainables.tables.builtin import synthetic
from trainables.tables.formats import from_shared, read_table, to_shared
from trainables.tables.writing import write_table
from trainables.task import word_rows

GLOVE = "the 0.5 -1\ncat 1e-3 2\ndog .25 3.5\n"
VALUES = [[0.5, -1.0], [1e-3, 2.0], [0.25, 3.5]]


def read(folder: Path, data: str | bytes, name: str = "t.txt", rows: int | None = None) -> Table:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return read_table(str(path), rows=rows)


def holds(table: Table, words=("the", "cat", "dog"), values=VALUES) -> bool:
    return list(table.words or []) == list(words) and torch.equal(table.vectors, torch.tensor(values))


def refused(folder: Path, data: str | bytes, name: str = "t.txt") -> str:
    with pytest.raises(InputError) as caught:
        read(folder, data, name)
    message = str(caught.value)
    assert message.startswith(str(folder)) and "\n" not in message
    return message.removeprefix(f"{folder / name}")


@pytest.mark.parametrize(
    "text",
    [
        GLOVE,
        "3 2\n" + GLOVE,
        GLOVE.rstrip("\n"),
        GLOVE.replace("\n", "\r\n"),
        GLOVE.replace("\n", " \n"),
        GLOVE.replace(" ", "\t"),
        "\n" + GLOVE.replace("\n", "\n\n"),
        "\ufeff" + GLOVE,
    ],
    ids=["glove", "word2vec", "no last line end", "windows", "trailing space", "tabs", "empty lines", "byte order mark"],
)
def test_text(tmp_path, text):
    assert holds(read(tmp_path, text))


def test_compressed_text(tmp_path):
    assert holds(read(tmp_path, gzip.compress(GLOVE.encode()), "t.txt.gz"))
    assert holds(read(tmp_path, lzma.compress(b"3 2\n" + GLOVE.encode()), "t.vec.xz"))
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("in/a.txt", GLOVE)
    table = read_table(str(tmp_path / "t.zip"))
    assert holds(table) and table.name == "a"
    with zipfile.ZipFile(tmp_path / "t.zip", "a") as archive:
        archive.writestr("b.txt", "x 1 2")
    with pytest.raises(InputError, match=r"2 files in it: in/a.txt, b.txt; name one: .*t.zip#MEMBER"):
        read_table(str(tmp_path / "t.zip"))
    assert holds(read_table(f"{tmp_path}/t.zip#b.txt"), ["x"], [[1.0, 2.0]])
    with pytest.raises(InputError, match="Did you mean 'b.txt'"):
        read_table(f"{tmp_path}/t.zip#c.txt")


def test_damaged_compression(tmp_path):
    assert "damaged, or cut off" in refused(tmp_path, gzip.compress(GLOVE.encode())[:-9], "t.txt.gz")
    assert "damaged, or cut off" in refused(tmp_path, b"PK nothing", "t.zip")
    assert "damaged, or cut off" in refused(tmp_path, b"not xz at all", "t.txt.xz")


def test_rows(tmp_path):
    assert holds(read(tmp_path, GLOVE, rows=2), ["the", "cat"], VALUES[:2])
    assert holds(read(tmp_path, "400000 2\n" + GLOVE, rows=3))  # the header is not held against a part of the file
    assert holds(read(tmp_path, GLOVE + "bad line", rows=3))  # nor is what comes after
    assert holds(read(tmp_path, GLOVE, rows=99))
    with pytest.raises(InputError, match="rows must be at least 1, not 0"):
        read(tmp_path, GLOVE, rows=0)


def test_words_with_spaces(tmp_path):
    table = read(tmp_path, GLOVE + ". . . 1 2\nat x@y.z 3 4\n")
    assert holds(table, ["the", "cat", "dog", ". . .", "at x@y.z"], [*VALUES, [1.0, 2.0], [3.0, 4.0]])
    assert holds(read(tmp_path, ". . 1 2\nb 3 4\n", rows=1), [". ."], [[1.0, 2.0]])


def test_words_that_csv_would_stumble_over(tmp_path):
    words = ['"', "'", ",", ";", "#", "NULL", "nan", "2000", "1e5", "\u2028", "\xa0", "\x85", "a\rb"]
    table = read(tmp_path, "".join(f"{word} {row} 0.5\n" for row, word in enumerate(words)))
    assert holds(table, words, [[float(row), 0.5] for row in range(len(words))])


def test_one_column_whose_first_word_is_a_number(tmp_path):
    assert holds(read(tmp_path, "2000 5\nthe 7\n"), ["2000", "the"], [[5.0], [7.0]])
    assert holds(read(tmp_path, "2 1\nthe 7\nof 8\n"), ["the", "of"], [[7.0], [8.0]])


def test_ragged_rows(tmp_path):
    assert refused(tmp_path, "a 1 2 3\nb 1 2\nc 1 2 3\n") == ":2: 2 values for 'b', expected 3."
    assert refused(tmp_path, "a 1 2 3\n\nb 1 2 3 4\nc 1 2 3\n") == ":3: 4 values for 'b', expected 3."
    assert refused(tmp_path, "a 1 2\nb 1 2 3\nc 1 2 3\n") == ":1: 2 values for 'a', expected 3."
    assert refused(tmp_path, "a 1 2\nb\nc 1 2\n") == ":2: 0 values for 'b', expected 2."
    assert refused(tmp_path, "3 2\na 1 2\nb 1\nc 1 2\n") == ":3: 1 value for 'b', expected 2."


def test_values_that_are_no_numbers(tmp_path):
    assert refused(tmp_path, GLOVE + "fox 1 x2\n") == ":4: value 2 of 'fox' is not a number: 'x2'."
    assert refused(tmp_path, GLOVE + "fox 1,5 2\n") == ":4: value 1 of 'fox' is not a number: '1,5'."
    assert refused(tmp_path, GLOVE + "fox  1\n") == ":4: value 1 of 'fox' is not a number: ''."
    assert refused(tmp_path, GLOVE + "fox nan 1\n") == ":4: NaN or infinity in the vector of 'fox'."
    assert refused(tmp_path, GLOVE + "fox 1 -inf\n") == ":4: NaN or infinity in the vector of 'fox'."
    assert refused(tmp_path, GLOVE + "fox 1e39 1\n") == ":4: NaN or infinity in the vector of 'fox'."


def test_line_numbers_in_later_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("trainables.tables.text._BLOCK_BYTES", 16)
    lines = [f"w{row} {row} 1" for row in range(50)]
    assert read(tmp_path, "\n".join(lines)).shape == (50, 2)
    lines[30] = "w30 1"
    assert refused(tmp_path, "\n".join(lines)) == ":31: 1 value for 'w30', expected 2."
    lines[30] = "w30 1 ?"
    assert refused(tmp_path, "\n".join(lines)) == ":31: value 2 of 'w30' is not a number: '?'."


def test_header_that_disagrees(tmp_path):
    assert refused(tmp_path, "4 2\n" + GLOVE).startswith(":1: the header says 4 rows, the file holds 3")
    assert refused(tmp_path, "2 2\n" + GLOVE).startswith(":1: the header says 2 rows, the file holds 3")
    assert refused(tmp_path, "3 3\n" + GLOVE) == ":2: 2 values, the header in line 1 says 3 columns."
    assert refused(tmp_path, "3 3\n") == ":1: the header says 3 rows, the file holds none."


def test_files_that_are_no_tables(tmp_path, monkeypatch):
    assert refused(tmp_path, "") == ": no table in it: the file is empty."
    assert refused(tmp_path, "\n \n") == ": no table in it: no rows."
    assert refused(tmp_path, "to be or not\n").startswith(":1: no numbers: 'to be or not'.")
    assert "expected a word and its vector" in refused(tmp_path, "0.1 0.2\n0.3 0.4\n")
    assert "binary data" in refused(tmp_path, b"\x00\x01\n\x02")
    monkeypatch.setattr("trainables.tables.text._BLOCK_BYTES", 1 << 18)
    monkeypatch.setattr("trainables.tables.text._MAX_LINE_BYTES", 1 << 20)
    assert "a line of more than 1 MiB" in refused(tmp_path, "x" * (1 << 21))


def test_a_word_that_comes_twice(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        table = read(tmp_path, GLOVE + "cat 9 9\nfox 1 1\nthe 8 8\n")
    assert holds(table, ["the", "cat", "dog", "cat", "fox", "the"], [*VALUES, [9.0, 9.0], [1.0, 1.0], [8.0, 8.0]])
    assert "2 words occur more than once, the first of them 'cat' in lines 2 and 4; every row is kept" in caplog.text
    assert len(caplog.records) == 1 and word_rows(table.words)("cat") == 1


def test_words_that_are_not_utf8(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        table = read(tmp_path, "na\u00efve 1 2\n".encode() + b"na\xefve 3 4\n")
    assert table.words is not None and table.words[1].encode(errors="surrogateescape") == b"na\xefve"
    assert "words that are not UTF-8: 1" in caplog.text
    write_table(table, tmp_path / "again.txt")
    assert (tmp_path / "again.txt").read_bytes() == "na\u00efve 1 2\n".encode() + b"na\xefve 3 4\n"


@pytest.mark.parametrize("end", [b"\n", b""], ids=["word2vec", "no line ends"])
def test_word2vec_bin(tmp_path, end):
    rows = b"".join(
        word.encode() + b" " + struct.pack("<2f", *row) + end
        for word, row in zip(("the", "cat", "dog"), VALUES, strict=True)
    )
    assert holds(read(tmp_path, b"3 2\n" + rows, "t.bin"))
    assert holds(read(tmp_path, gzip.compress(b"3 2\n" + rows), "t.bin.gz"))
    assert holds(read(tmp_path, b"3 2\n" + rows, "t.bin", rows=2), ["the", "cat"], VALUES[:2])
    assert "the header says 4 rows, the file ends in row 3" in refused(tmp_path, b"4 2\n" + rows, "t.bin")
    assert "the header says 3 rows, the file ends in row 2" in refused(tmp_path, b"3 2\n" + rows[:-3], "t.bin")
    assert "more data than the 2 rows" in refused(tmp_path, b"2 2\n" + rows, "t.bin")
    assert "not a word2vec binary file" in refused(tmp_path, rows, "t.bin")
    bad = b"1 2\nthe " + struct.pack("<2f", 1, float("nan"))
    assert "row 0: NaN or infinity in the vector of 'the'" in refused(tmp_path, bad, "t.bin")


@pytest.mark.parametrize("suffix", [".word", ".words", ".words.txt"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_npy_with_words(tmp_path, suffix, dtype):
    values = np.array([[0.5, -1.0], [0.125, 2.0], [0.25, 3.5]], dtype=dtype)
    np.save(tmp_path / "t.6B.npy", np.asfortranarray(values))
    (tmp_path / f"t.6B{suffix}").write_text("the\ncat\ndog\n")
    np.save(tmp_path / "t.6B.counts.npy", np.array([3, 2, 1]))
    table = read_table("t.6B.npy", data_dir=tmp_path)
    assert holds(table, values=values.tolist()) and table.name == "t.6B"
    assert table.counts is not None and table.counts.tolist() == [3, 2, 1]
    part = read_table("t.6B.npy", data_dir=tmp_path, rows=2)
    assert holds(part, ["the", "cat"], values[:2].tolist()) and part.counts is not None and part.counts.tolist() == [3, 2]


def test_npy_errors(tmp_path):
    path = tmp_path / "t.npy"
    np.save(path, np.zeros((2, 2), dtype=np.int64))
    with pytest.raises(InputError, match="two-dimensional array of floats, not int64"):
        read_table(str(path))
    np.save(path, np.zeros(3))
    with pytest.raises(InputError, match=r"of shape \(3,\)"):
        read_table(str(path))
    np.save(path, np.array([{"pickled": 1}]), allow_pickle=True)
    with pytest.raises(InputError, match="not a complete .npy array of numbers"):
        read_table(str(path))
    np.save(path, np.zeros((3, 2)))
    (tmp_path / "t.word").write_text("a\nb\n")
    with pytest.raises(InputError, match=r"t.word: 2 words for 3 rows"):
        read_table(str(path))
    (tmp_path / "t.words").write_text("a\nb\nc\n")
    with pytest.raises(InputError, match="words in t.word and in t.words: keep one"):
        read_table(str(path))
    (tmp_path / "t.word").unlink()
    np.save(tmp_path / "t.counts.npy", np.array([1.0, -1.0, 0.0]))
    with pytest.raises(InputError, match="counts must be finite and not negative"):
        read_table(str(path))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="not a complete .npy array"):
        read_table(str(path))


def test_safetensors(tmp_path):
    path = str(tmp_path / "m.safetensors")
    save_file(
        {"emb": torch.tensor(VALUES, dtype=torch.bfloat16), "bias": torch.zeros(2), "ids": torch.zeros(2, 2).long()}, path
    )
    assert torch.equal(read_table(path).vectors, torch.tensor(VALUES).bfloat16().float())
    save_file({"wte": torch.tensor(VALUES), "head": torch.zeros(2, 2)}, path)
    assert read_table(path).name == "m#wte"  # what models call the table of their tokens
    save_file({"h.wte.weight": torch.tensor(VALUES), "h.wpe.weight": torch.zeros(9, 2)}, path)
    assert read_table(path).name == "m#h.wte.weight"
    save_file({f"layer.{n}": torch.zeros(n, 2) for n in range(1, 13)}, path)
    with pytest.raises(
        InputError, match=r"12 two-dim.* tensors: layer.12 12 x 2, .*layer.3 3 x 2, and 2 more; name one: .*#NAME"
    ):
        read_table(path)
    save_file({"wte": torch.tensor(VALUES), "left": torch.zeros(2, 2), "right": torch.zeros(2, 2)}, path)
    table = read_table(f"{path}#wte")
    assert torch.equal(table.vectors, torch.tensor(VALUES)) and table.words is None and table.name == "m#wte"
    with pytest.raises(InputError, match="Did you mean 'wte'"):
        read_table(f"{path}#wtee")
    Path(path).write_bytes(Path(path).read_bytes()[:-4])
    with pytest.raises(InputError, match="not a complete safetensors file"):
        read_table(f"{path}#wte")


def test_the_tensor_that_was_chosen_is_said_once(tmp_path, caplog):
    tensors = {"wte": torch.tensor(VALUES), "head": torch.zeros(2, 2), **{f"layer{n}": torch.ones(1, n) for n in (1, 2, 3)}}
    folder = tmp_path / "model"
    folder.mkdir()
    for place in (tmp_path / "m.safetensors", folder / "model.safetensors"):
        save_file(tensors, place)
    torch.save(tensors, tmp_path / "m.pt")
    np.savez(tmp_path / "m.npz", **{name: tensor.numpy() for name, tensor in tensors.items()})
    for name in ("m.safetensors", "model", "m.pt", "m.npz"):
        caplog.clear()
        for _ in range(2):
            assert read_table(name, data_dir=tmp_path).name == f"{Path(name).stem}#wte"
        path = tmp_path / name
        assert caplog.messages == [
            f"{path}: of 5 two-dimensional float tensors this one is read: wte {len(VALUES)} x {len(VALUES[0])}. "
            f"To read another: {path}#NAME (head 2 x 2, layer3 1 x 3, layer2 1 x 2, ...)."
        ]
        caplog.clear()
        assert read_table(f"{name}#wte", data_dir=tmp_path).name == f"{Path(name).stem}#wte" and not caplog.messages
    save_file({"wte": torch.tensor(VALUES)}, folder / "model.safetensors")
    assert read_table(str(folder)).name == "model" and not caplog.messages


def test_where_tables_are_looked_for(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "glove.txt").write_text(GLOVE)
    assert holds(read_table("glove.txt", data_dir=tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    assert holds(read_table("data/glove.txt"))
    with pytest.raises(
        InputError, match=r"No table 'glov.txt'. Did you mean 'glove.txt'\? Looked for glov.txt and .*data/glov"
    ):
        read_table("glov.txt", data_dir=tmp_path / "data")


def test_builtin_glove():
    table = read_table("builtin:glove-10k-50d")
    assert table.shape == (10_000, 50)
    assert table.words is not None and list(table.words[:5]) == ["the", ",", ".", "of", "to"]
    assert table.digest == "29c5e63428d986191e6209e7bb28abc4"
    # The publisher's own digits: the first line of glove.6B.50d.txt.
    assert table.vectors[0, :4].tolist() == torch.tensor([0.418, 0.24968, -0.41242, 0.1217]).tolist()
    assert torch.equal(read_table("builtin:glove-10k-50d", rows=7).vectors, table.vectors[:7])
    with pytest.raises(InputError, match="Did you mean 'glove-10k-50d'"):
        read_table("builtin:glove-10k")


def test_builtin_synthetic():
    table = read_table("builtin:synthetic-20000x32")
    assert table.shape == (20_000, 32) and table.digest == read_table("builtin:synthetic-20000x32").digest
    torch.testing.assert_close(synthetic(100, 32).vectors, table.vectors[:100])
    eigenvalues = TableStats.of(table).eigenvalues
    expected = np.arange(1, 33) ** -0.4
    np.testing.assert_allclose(eigenvalues / eigenvalues.sum(), expected / expected.sum(), rtol=0.1)
    with pytest.raises(InputError, match="synthetic-NxD"):
        read_table("builtin:synthetic-0x3")


def test_written_text_has_the_publishers_digits(tmp_path):
    path = tmp_path / "t.txt"
    write_table(Table(torch.tensor([[0.1, -2.0], [1e-10, 123456.78]]), ["a", "b"]), path)
    assert path.read_text() == "a 0.1 -2\nb 1e-10 123456.78\n"


def test_a_written_row_that_looks_like_a_header(tmp_path):
    path = tmp_path / "t.txt"
    write_table(Table(torch.tensor([[1.0], [2.0]]), ["2", "b"]), path)
    assert path.read_text() == "2 1\n2 1\nb 2\n"
    assert holds(read_table(str(path)), ["2", "b"], [[1.0], [2.0]])


def test_writing_refuses_what_would_not_be_read_back(tmp_path):
    one = torch.tensor([[1.0]])
    with pytest.raises(InputError, match="Unknown ending of a table's file '.csv'"):
        write_table(Table(one, ["a"]), tmp_path / "t.csv")
    with pytest.raises(InputError, match="needs words, and table has none"):
        write_table(Table(one), tmp_path / "t.txt")
    for word in ("a 1.5", "a\tb", "\ufeffa"):
        with pytest.raises(InputError, match="would not be read back"):
            write_table(Table(one, [word]), tmp_path / "t.txt")
    with pytest.raises(InputError, match="ends at the first space"):
        write_table(Table(one, ["a b"]), tmp_path / "t.bin")
    with pytest.raises(InputError, match="cannot write the table: No such file"):
        write_table(Table(one, ["a"]), tmp_path / "none" / "t.txt")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "t.word").write_text("of another table")
    with pytest.raises(InputError, match="t.word is in the same folder and would be read as a part of it"):
        write_table(Table(one, ["a"]), tmp_path / "t.npy")


def test_sharing(recwarn):
    table = Table(torch.tensor(VALUES), ["a", "b", "c"], torch.tensor([3.0, 2.0, 1.0]), "t")
    shared = to_shared(table)
    shared["vectors"].setflags(write=False)
    shared["digest"] = "carried along"
    back = from_shared(shared)
    assert back.vectors.data_ptr() == table.vectors.data_ptr()
    assert (back.words, back.name, back.digest) == (["a", "b", "c"], "t", "carried along")
    assert not recwarn.list


def test_a_table_that_does_not_fit_leaves_no_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(stream: object, table: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setitem(writing._WRITERS, ".npy", full)
    with pytest.raises(InputError, match=r"t\.npy: cannot write the table: No space left"):
        writing.write_table(Table(torch.ones(2, 3), ["a", "b"], torch.ones(2)), tmp_path / "t.npy")
    assert list(tmp_path.iterdir()) == []
