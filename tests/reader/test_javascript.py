"""What the JavaScript reader refuses, and the page of docs that it was written from."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import quantizers
from quantizers import Table, artifact, create, read
from quantizers.methods.hashed import Hashed, HashedConfig
from quantizers.methods.transform import gaussian_levels

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/format.md").read_text()
WORDS = ["the", "naïve", "日本", "", "a\u2028b", "c\rd", "\ufeffmark", "\U0001f600", "white space"]


@pytest.fixture
def path(tmp_path):
    vectors = torch.arange(27.0).reshape(9, 3) / 8
    create("cast", dtype="float16").fit(Table(vectors, WORDS)).save(tmp_path / "table.safetensors")
    return tmp_path / "table.safetensors"


def store(path, changes):
    """The file again with some of its header changed, and a digest that fits."""
    header, tensors = dict(read(path).header), safetensors.torch.load_file(path)
    header |= changes
    header["digest"] = artifact._digest(header, tensors)
    path.write_bytes(safetensors.torch.save(tensors, {"embedding_frontier": json.dumps(header, sort_keys=True)}))


def test_words_are_kept_as_they_are(path, javascript):
    answer = javascript(path, word="\ufeffmark")
    assert answer["words"] == WORDS
    assert answer["found"]["id"] == 6
    assert javascript(path, word="nobody")["found"] == {"id": -1, "neighbours": None}


def test_the_first_of_two_rows_of_a_word(tmp_path, javascript):
    create("identity").fit(Table(torch.eye(3), ["a", "b", "a"])).save(tmp_path / "table.safetensors")
    assert javascript(tmp_path / "table.safetensors", word="a")["found"]["id"] == 0


def test_rows_that_are_not_there(path, javascript):
    answer = javascript(path, ids=[9])
    assert answer == {"error": "Rows are numbered 0 to 8; there is no row 9.", "kind": "RangeError"}


def test_every_truncation_is_refused(path, javascript):
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        assert javascript(path)["kind"] == "format", length


def test_one_altered_byte_of_the_content_is_noticed(path, javascript):
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    for position in range(begin, len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        assert "digest" in javascript(path)["error"]


@pytest.mark.parametrize("size", [1, 127, 128, 129, 300, 4096])
def test_digests_of_any_length(size, tmp_path, javascript):
    """The digest's input is cut into blocks of 128 bytes: none, one, several, full or not."""
    path = tmp_path / "table.safetensors"
    create("identity").fit(Table(torch.arange(1.0, 2.0).reshape(1, 1), ["x" * size])).save(path)
    assert javascript(path)["words"] == ["x" * size]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format_version": 2}, r"^Format 2 is newer than this reader \(1\)\.$"),
        ({"method": "mine"}, r'^Made by the method "mine", which this reader does not know\. It reads: identity, cast, '),
        ({"method": "constructor"}, r'^Made by the method "constructor", which this reader does not know'),
        ({"method": "pq"}, r"^The file has no tensor codes, which pq needs\.$"),
        ({"embedding_dim": 2}, r"^Tensor vectors has the shape \(9, 3\), not \(9, 2\)\.$"),
        ({"num_embeddings": 8}, r"^The file has 9 words for 8 rows\.$"),
    ],
)
def test_refusals_say_why(path, changes, reason, javascript):
    store(path, changes)
    answer = javascript(path)
    assert answer["kind"] == "format"
    assert re.search(reason, answer["error"])


@pytest.mark.parametrize(
    ("stored", "changes", "reason"),
    [
        ("hashed-overlapping", {"embedding_dim": 1 << 31}, "Rows of 2147483648 columns are not read from 404 bytes."),
        ("identity-without-words", {"num_embeddings": 0}, "The table's shape is 0 x 10."),
        ("adacomp-one", {"num_embeddings": 1 << 31}, "The file has 40 words for 2147483648 rows."),
        ("pruned-index", {"embedding_dim": 300}, "Tensor row_counts has the shape (20), not (45)."),
        ("tt-2", {"embedding_dim": 13}, "The cores have 40 rows of 10 columns."),
        ("tt-2", {"config": {"num_cores": 10**30}}, "There are no trains of 1e+30 cores."),
    ],
)
def test_shapes_that_a_file_has_no_right_to(stored, changes, reason, tmp_path, javascript):
    path = tmp_path / "table.safetensors"
    path.write_bytes((ROOT / f"reader/python/tests/data/{stored}.safetensors").read_bytes())
    store(path, changes)
    assert javascript(path) == {"error": reason, "kind": "format"}


def test_files_of_other_programs(tmp_path, javascript):
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(2)}, path)
    assert javascript(path)["error"] == "A safetensors file, but not a compressed table of embedding-frontier."
    path.write_bytes(b"\x80\x02}q\x00." * 100)
    assert "not a safetensors file" in javascript(path)["error"] or "no safetensors file" in javascript(path)["error"]


def test_methods_of_others_are_refused(tmp_path, javascript):
    """Every method of this program is read, so that only those of other packages can be missing."""
    path = tmp_path / "table.safetensors"
    for name, method in quantizers.list_methods().items():
        if method.__module__.startswith("quantizers."):
            create("cast").fit(Table(torch.ones(2, 2))).save(path)
            store(path, {"method": name})
            assert "does not know" not in javascript(path).get("error", ""), name


@pytest.mark.parametrize("signs", [False, True])
@pytest.mark.parametrize("overlapping", [False, True])
def test_hashed_addresses_beyond_32_bits(overlapping, signs, tmp_path, javascript):
    """More blocks than a 32-bit key tells apart, and a pool for which a hash is multiplied beyond 53 bits."""
    kind = {"overlapping": overlapping, "signs": signs, "hash_seed": 0xFFFFFFFF, "pool_dtype": "float16"}
    config = HashedConfig(pool_size=(1 << 22) + 5, block_size=1 + overlapping, **kind)
    pool = (torch.arange(config.stored_values) % 2047).to(torch.float16)
    table = Hashed.from_state(config, {"pool": pool}, shape=(1 << 31, 8))
    table.save(tmp_path / "table.safetensors")
    ids = [0, 1, (1 << 30) - 1, 1 << 30, (1 << 31) - 1]
    rows = javascript(tmp_path / "table.safetensors", ids=ids)["rows"]
    assert np.array_equal(rows, table.reconstruct(torch.tensor(ids)).numpy())


@pytest.mark.parametrize("dtype", ["float8_e4m3", "float8_e5m2", "bfloat16", "float16"])
def test_every_small_float(dtype, tmp_path, javascript):
    small = quantizers.coding.dtypes.DTYPES[dtype]
    if small.itemsize == 1:
        stored = torch.arange(256, dtype=torch.uint8)
        values = stored.view(small).to(torch.float32)
    else:
        stored = torch.arange(1 << 16).to(torch.int16).view(small)
        values = stored.to(torch.float32)
    table = create("cast", dtype=dtype)
    table = type(table).from_state(table.config, {"vectors": stored[:, None]}, shape=(len(stored), 1))
    table.save(tmp_path / "table.safetensors")
    assert np.array_equal(javascript(tmp_path / "table.safetensors")["rows"][:, 0], values.numpy(), equal_nan=True)


def test_the_example_of_the_page(tmp_path, javascript):
    (tmp_path / "example.safetensors").write_bytes(base64.b64decode(re.search(r"```\n(WAEA[^`]*)```", PAGE)[1]))
    answer = javascript(tmp_path / "example.safetensors")
    assert answer["rows"].tolist() == [[1.0, -0.5], [3.25, 1024.0]]
    assert (answer["words"], answer["fileBytes"]) == (["the", "é"], 366)


def test_the_levels_of_the_page_are_those_of_the_method():
    block = re.search(r"## Gaussian levels.*?```\n(.*?)```", PAGE, re.DOTALL)[1]
    rows = re.split(r"\s*\d: ", block.strip())[1:]
    assert len(rows) == 8
    for bits, row in enumerate(rows, 1):
        positive = np.array(row.split(), dtype=np.float32)
        assert np.array_equal(np.concatenate([-positive[::-1], positive]), gaussian_levels(bits).numpy())


def test_the_page_names_every_tensor_of_every_method():
    for name, method in quantizers.list_methods().items():
        if method.__module__.startswith("quantizers."):
            section = next(part for part in re.split(r"\n### ", PAGE)[1:] if re.search(rf"\b{name}\b", part.split("\n")[0]))
            named = set(re.findall(r"`([a-z_0-9]+)`", section))
            if "As `pq`" in section:
                named |= {"codes", "codebooks", "codebooks_scale"}
            missing = set(method.state_roles) - named - {"core_2", "core_3"}
            assert not missing - {"core_1"}, name
