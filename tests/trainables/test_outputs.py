"""Compressed tables in every format that they can be exported to: the same rows, or a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime
import pytest
import torch

import quantizers
from quantizers import InputError, Quantizer, Table
from quantizers.exporting.onnx import write_onnx
from quantizers.methods.hashed import Hashed, HashedConfig
from sweeps.commands.choose import FORMAT_HELP, Format
from trainables.tables.formats import read_table
from trainables.tables.outputs import COMPRESSED, OUTPUTS, carried, export
from trainables.tables.writing import write_table

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "reader/python/tests/data").glob("*.safetensors"))
METHODS = sorted(quantizers.list_methods())
GATHERS = ("cast", "dpq", "hashed", "identity", "pq", "pruned", "scalar")  # no sum and no product: equal bit for bit
NAMES = {"gensim": "x.kv", "dense": "x.npy"}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:onnx.*")


def stored(name: str) -> Quantizer:
    return quantizers.read(next(file for file in FILES if file.stem == name)).quantizer


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return onnxruntime.InferenceSession(path, options)


def from_onnx(path: Path, dense: np.ndarray) -> np.ndarray:
    model = session(path)
    ids = np.array([[0, 7], [7, 39], [3, 1]])
    (rows,) = model.run(None, {"ids": np.arange(len(dense))})
    for some in (ids, ids[:, None], np.array(3), np.zeros((0, 2), dtype=np.int64)):
        (found,) = model.run(None, {"ids": some})
        assert found.shape == (*some.shape, dense.shape[1])
        np.testing.assert_allclose(found, dense[some], rtol=1e-5, atol=1e-6)
    assert json.loads(model.get_modelmeta().custom_metadata_map["config"]) is not None
    return rows


def from_codes(path: Path, dense: np.ndarray) -> np.ndarray:
    lines = [line.rpartition("\t")[2].split() for line in path.read_text().splitlines()]
    codes, book = np.array(lines, dtype=np.int64), np.load(f"{path}.codebook.npy")
    return book[codes + len(book) // codes.shape[1] * np.arange(codes.shape[1])].sum(axis=1, dtype=np.float32)


def from_staticvectors(path: Path, dense: np.ndarray) -> np.ndarray:
    from safetensors.numpy import load_file

    tensors = load_file(path / "model.safetensors")
    about = json.loads((path / "config.json").read_text())
    assert (about["total"], about["dim"]) == dense.shape
    assert json.loads((path / "vocab.json").read_text())["tokens"]["dog"] == 0
    vectors = tensors["vectors"]
    if "pq" not in tensors:
        return vectors
    (width, count), books = tensors["pq"], tensors["codewords"]
    assert width * count == dense.shape[1]
    return np.concatenate([book[code] for book, code in zip(books, vectors.T, strict=True)], axis=1).astype(np.float32)


def from_table(path: Path, dense: np.ndarray) -> np.ndarray:
    table = read_table(str(path))
    assert table.words is None or table.words[3] == "naïve"
    return table.vectors.numpy()[: len(dense)]


READERS = {"onnx": from_onnx, "codes": from_codes, "staticvectors": from_staticvectors}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_format_has_the_same_rows_or_says_why_not(file: Path, tmp_path: Path) -> None:
    quantizer = quantizers.read(file).quantizer
    dense = quantizer.to_dense().numpy()
    for name, output in OUTPUTS.items():
        (tmp_path / name).mkdir()
        path = tmp_path / name / NAMES.get(name, "x")
        how, reason = carried(name, quantizer.name)
        if how is None or (output.needs_words and quantizer.words is None):
            with pytest.raises(InputError) as caught:
                export(quantizer, path, name)
            assert (reason or "words") in str(caught.value)
            assert list(path.parent.iterdir()) == []
            continue
        export(quantizer, path, name)
        if name == "safetensors":
            found = quantizers.load(path).to_dense().numpy()
        else:
            found = READERS.get(name, from_table)(path, dense)
        if quantizer.name in GATHERS or how != COMPRESSED:
            assert found.tobytes() == dense.tobytes(), name
        else:
            off = np.linalg.norm(found.astype(np.float64) - dense, axis=1)
            assert (off <= 1e-6 * np.linalg.norm(dense, axis=1)).all(), name
        assert path.is_dir() == output.is_folder


@pytest.mark.parametrize("name", ["model2vec", "sentence-transformers", "staticvectors"])
@pytest.mark.parametrize("file", ["scalar-row", "rq-16"])
def test_a_folder_that_was_written_is_a_table_again(tmp_path: Path, name: str, file: str) -> None:
    quantizer = stored(file)
    export(quantizer, tmp_path / "model", name)
    table = read_table("model", data_dir=tmp_path)
    rows, dim = quantizer.shape
    assert table.vectors.numpy()[:rows].tobytes() == quantizer.to_dense().numpy().tobytes()
    given = list(quantizer.words or ())
    # A word's later rows are there and have no name: a tokenizer finds one row for a word.
    found = [word if word not in given[:row] else f"[row {row}]" for row, word in enumerate(given)]
    assert list(table.words or ())[:rows] == found and table.name == "model"
    if name != "staticvectors":  # which needs no row for unknown words
        assert list(table.words or ())[rows:] == ["[UNK]"] and table.vectors[rows:].tolist() == [[0.0] * dim]


def test_there_is_a_stored_table_of_every_method() -> None:
    assert {file.stem.rpartition("-")[0] for file in FILES} - {"identity-without"} == set(METHODS)


def test_the_table_in_the_docs_is_true() -> None:
    page = (ROOT / "docs/outputs.md").read_text()
    lines = [f"| method | {' | '.join(OUTPUTS)} |", f"|---|{'---|' * len(OUTPUTS)}"]
    reasons = {}
    for method in METHODS:
        cells = [carried(name, method) for name in OUTPUTS]
        reasons |= {(name, method): why for name, (_, why) in zip(OUTPUTS, cells, strict=True) if why}
        lines.append(f"| {method} | {' | '.join(how or 'no' for how, _ in cells)} |")
    assert "\n".join(lines) in page, "\n".join(lines)
    for (name, method), reason in reasons.items():
        said = [line for line in page.splitlines() if f"`{name}`" in line and method in line and reason in line]
        assert said, f"{name} of {method}: {reason}"
    # Nothing is missing but entropy-coded methods in ONNX, and sums where a row is none.
    missing = {name: {method for other, method in reasons if other == name} for name, _ in reasons}
    assert missing == {
        "onnx": {"transform_entropy", "trellis"},
        "codes": {name for name, cls in quantizers.list_methods().items() if "codebooks" not in cls.state_roles},
    }
    assert all(f"`{name}`" in page and output.about for name, output in OUTPUTS.items())


def test_the_command_knows_every_format() -> None:
    assert get_args(Format) == tuple(OUTPUTS)
    assert all(name in FORMAT_HELP for name in OUTPUTS)


def test_an_onnx_model_refuses_rows_that_are_not_there(tmp_path: Path) -> None:
    for name in ("hashed-1", "tt-3", "pq-5"):
        write_onnx(stored(name), tmp_path / "m.onnx")
        model = session(tmp_path / "m.onnx")
        for wrong in (-1, 40):
            with pytest.raises(Exception, match="out of data bounds"):
                model.run(None, {"ids": np.array([0, wrong])})


def test_onnx_hashes_tables_of_billions_of_rows(tmp_path: Path) -> None:
    config = HashedConfig(pool_size=100_003, block_size=2, signs=True, hash_seed=2**32 - 1)
    huge = Hashed.untrained(config, (2**31, 6), seed=0)
    ids = torch.tensor([0, 1, 2**30, 2**31 - 1, 1_431_655_766])
    write_onnx(huge, tmp_path / "m.onnx")
    (found,) = session(tmp_path / "m.onnx").run(None, {"ids": ids.numpy()})
    assert found.tobytes() == huge.reconstruct(ids).numpy().tobytes()


def test_an_onnx_model_is_no_larger_than_its_file(tmp_path: Path) -> None:
    table = Table(torch.randn(5000, 16, generator=torch.Generator().manual_seed(0)))
    for method, parameters in (("pq", {"num_codebooks": 4, "codebook_size": 16}), ("pruned", {"sparsity": 0.9})):
        quantizer = quantizers.create(method, **parameters).fit(table)
        write_onnx(quantizer, tmp_path / "m.onnx")
        assert (tmp_path / "m.onnx").stat().st_size < quantizer.payload_bytes + 6000
    assert not (tmp_path / "m.onnx.words").exists()


@pytest.mark.thorough
def test_nothing_is_overwritten_without_force(tmp_path: Path, frontier: Any) -> None:
    file = next(file for file in FILES if file.stem == "pq-5")
    for name in OUTPUTS:
        path = tmp_path / NAMES.get(name, f"{name}.out")
        words = ["export", file, "--format", name, "-o", path]
        done = frontier(*words)
        assert done.exit_code == 0 and ("Folder: " if OUTPUTS[name].is_folder else "File: ") in done.stdout, done.output
        again = frontier(*words)
        assert again.exit_code == 2 and "--force replaces it" in again.stderr, again.output
        assert frontier(*words, "--force").exit_code == 0
        for beside in OUTPUTS[name].beside(path):
            path.unlink()
            assert beside.exists() and frontier(*words).exit_code == 2
    (tmp_path / "model2vec.out" / "thesis.doc").write_text("mine")
    kept = frontier("export", file, "--format", "model2vec", "-o", tmp_path / "model2vec.out", "--force")
    assert kept.exit_code == 2 and "holds thesis.doc" in kept.stderr
    assert (tmp_path / "model2vec.out" / "thesis.doc").read_text() == "mine"
    assert not [path for path in tmp_path.rglob("*.part")]


@pytest.mark.parametrize(
    ("file", "name", "path", "message"),
    [
        (
            "transform_entropy-24",
            "onnx",
            "x",
            "transform_entropy cannot be written in this format: its rows are entropy-coded",
        ),
        ("bin-13", "codes", "x", "bin cannot be written in this format: its rows are not sums of codewords"),
        ("identity-without-words", "gensim", "x.kv", "finds rows by words, and this table has none"),
        ("pq-5", "gensim", "x.bin", "ends in .kv"),
        ("pq-5", "onnx", "no/where", "in an existing folder"),
        ("pq-5", "onnx", ".", "expected the path of a file"),
    ],
)
def test_what_cannot_be_exported(
    frontier: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, name: str, path: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    source = next(one for one in FILES if one.stem == file)
    done = frontier("export", source, "--format", name, "-o", path)
    assert done.exit_code == 2 and message in " ".join(done.stderr.split()), done.output
    assert list(tmp_path.iterdir()) == []


def test_convert_writes_models_too(frontier: Any, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("the 1 2 3\nOf 4 5 6\n")
    for name in ("model2vec", "sentence-transformers"):
        done = frontier("convert", tmp_path / "t.txt", "--format", name, "-o", tmp_path / name)
        assert done.exit_code == 0, done.output
        back = read_table(str(tmp_path / name))
        assert back.words == ["the", "Of", "[UNK]"] and back.vectors.tolist() == [[1, 2, 3], [4, 5, 6], [0, 0, 0]]
    assert frontier("convert", tmp_path / "t.txt", "-o", tmp_path / "x.kv").exit_code == 0
    assert read_table(str(tmp_path / "x.kv")).words == ["the", "Of"]


@pytest.mark.parametrize("name", ["model2vec", "staticvectors"])
def test_words_that_are_no_text_are_refused(name: str, tmp_path: Path) -> None:
    table = Table(torch.zeros(2, 3), ["good", b"b\xe4d".decode("utf-8", "surrogateescape")])
    with pytest.raises(InputError, match="not valid UTF-8"):
        write_table(table, tmp_path / "x", name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_gensim_reads_its_file(tmp_path: Path) -> None:
    from gensim.models import KeyedVectors

    quantizer = stored("pq-5")
    export(quantizer, tmp_path / "x.kv", "gensim")
    found = KeyedVectors.load(str(tmp_path / "x.kv"))
    dense = quantizer.to_dense().numpy()
    assert found.vectors.tobytes() == dense.tobytes() and found.index_to_key == list(quantizer.words or ())
    assert found["dog"].tobytes() == dense[0].tobytes()  # of two rows the first
    assert len(found.most_similar("cat", topn=3)) == 3
    counted = Table(torch.eye(3), ["a", "b", "c"], counts=torch.tensor([5.0, 2.0, 1.0]))
    write_table(counted, tmp_path / "c.kv")
    assert KeyedVectors.load(str(tmp_path / "c.kv")).get_vecattr("b", "count") == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_model2vec_and_sentence_transformers_load_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model2vec = pytest.importorskip("model2vec", reason="needs model2vec: pip install -e '.[peers]'")
    sentence = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers: pip install -e '.[peers]'")
    quantizer = stored("rq-16")
    dense = quantizer.to_dense().numpy()
    export(quantizer, tmp_path / "model2vec", "model2vec")
    export(quantizer, tmp_path / "sentence-transformers", "sentence-transformers")
    model = model2vec.StaticModel.from_pretrained(tmp_path / "model2vec", force_download=False)
    assert model.encode(["cat", "w7", "naïve"]).tobytes() == dense[[1, 7, 3]].tobytes()
    np.testing.assert_allclose(model.encode("cat, zzz naïve"), (dense[1] + dense[3]) / 2, atol=1e-6)  # unknown: left out
    for name in ("model2vec", "sentence-transformers"):
        model = sentence.SentenceTransformer(str(tmp_path / name), device="cpu")
        assert model.encode(["cat", "w7", "naïve"]).tobytes() == dense[[1, 7, 3]].tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pq-5", "pq-3", "dpq-5", "rq-16"])
def test_staticvectors_loads_its_folder(name: str, tmp_path: Path) -> None:
    staticvectors = pytest.importorskip("staticvectors", reason="needs staticvectors: pip install -e '.[peers]'")
    quantizer = stored(name)
    export(quantizer, tmp_path / "x", "staticvectors")
    model = staticvectors.StaticVectors(str(tmp_path / "x"))
    found = model.embeddings(["dog", "cat", "naïve"], normalize=False)
    assert found.astype(np.float32).tobytes() == quantizer.to_dense().numpy()[[0, 1, 3]].tobytes()
    assert (model.quantization is not None) == (name in ("pq-5", "dpq-5"))
