import base64
import errno
import json
import os
import resource

import pytest
import safetensors.torch
import torch

from quantizers import ArtifactError, InputError, Table, artifact, create, load, read

WORDS = ["the", "naïve", "日本", "", "a\u2028b", "c\rd", "\udcff\udc80", "\U0001f600", "white space"]


@pytest.fixture
def quantizer():
    vectors = torch.arange(27.0).reshape(9, 3) / 8
    return create("cast", dtype="float16").fit(Table(vectors, WORDS))


@pytest.fixture
def path(quantizer, tmp_path):
    quantizer.save(tmp_path / "table.safetensors")
    return tmp_path / "table.safetensors"


def rewrite(path, change_header=None, tensors=None, digest=True):
    """The file again with another header or other tensors, and (unless told) a digest that fits them."""
    header = dict(read(path).header)
    tensors = safetensors.torch.load_file(path) if tensors is None else tensors
    if change_header:
        change_header(header)
    if digest:
        header["digest"] = artifact._digest(header, tensors)
    path.write_bytes(safetensors.torch.save(tensors, {"embedding_frontier": json.dumps(header, sort_keys=True)}))


def test_what_a_file_holds(path):
    """Read without this program: the tensors, the words, the metadata."""
    tensors = safetensors.torch.load_file(path)
    assert set(tensors) == {"vectors", "words"}
    assert tensors["vectors"].dtype == torch.float16
    assert tensors["words"].numpy().tobytes() == "\n".join(WORDS).encode("utf-8", "surrogateescape")
    length = int.from_bytes(path.read_bytes()[:8], "little")
    metadata = json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]
    header = json.loads(metadata["embedding_frontier"])
    digest = header.pop("digest")
    assert len(digest) == 32
    assert header == {
        "format_version": 1,
        "method": "cast",
        "config": {"dtype": "float16"},
        "num_embeddings": 9,
        "embedding_dim": 3,
    }


# What the first version of the program wrote for two rows of float16 with the words "the" and "é".
FIRST_VERSION = (
    "WAEAAAAAAAB7Il9fbWV0YWRhdGFfXyI6eyJlbWJlZGRpbmdfZnJvbnRpZXIiOiJ7XCJjb25maWdcIjoge1wiZHR5cGVcIjogXCJm"
    "bG9hdDE2XCJ9LCBcImRpZ2VzdFwiOiBcIjJkY2NmMjJmZWQ3NzRkMTQ0MWU0ZjUzNjljNDYzNmM5XCIsIFwiZW1iZWRkaW5nX2Rp"
    "bVwiOiAyLCBcImZvcm1hdF92ZXJzaW9uXCI6IDEsIFwibWV0aG9kXCI6IFwiY2FzdFwiLCBcIm51bV9lbWJlZGRpbmdzXCI6IDJ9"
    "In0sInZlY3RvcnMiOnsiZHR5cGUiOiJGMTYiLCJzaGFwZSI6WzIsMl0sImRhdGFfb2Zmc2V0cyI6WzAsOF19LCJ3b3JkcyI6eyJk"
    "dHlwZSI6IlU4Iiwic2hhcGUiOls2XSwiZGF0YV9vZmZzZXRzIjpbOCwxNF19fSAgICAgIAA8ALiAQgBkdGhlCsOp"
)


def test_files_that_people_have_stay_readable(tmp_path):
    (tmp_path / "old.safetensors").write_bytes(base64.b64decode(FIRST_VERSION))
    module = load(tmp_path / "old.safetensors")
    assert module.to_dense().tolist() == [[1.0, -0.5], [3.25, 1024.0]]
    assert module.words == ["the", "é"]
    assert (module.method, module.config.dtype, module.payload_bytes) == ("cast", "float16", 8)


def test_what_is_read_back(path, quantizer):
    found = read(path)
    assert found.quantizer.words == WORDS
    assert torch.equal(found.quantizer.to_dense(), torch.arange(27.0).reshape(9, 3) / 8)
    assert found.storage.payload_bytes == 54
    assert found.vocab_bytes == len("\n".join(WORDS).encode("utf-8", "surrogateescape"))
    assert found.file_bytes == path.stat().st_size
    module = load(path)
    assert (module.method, module.config, module.words) == ("cast", quantizer.config, WORDS)
    assert module.payload_bytes == 54


@pytest.mark.parametrize("words", [None, [""], ["one"]])
def test_one_row(words, tmp_path):
    quantizer = create("cast").fit(Table(torch.tensor([[2.0]]), words))
    quantizer.save(tmp_path / "one.safetensors")
    assert read(tmp_path / "one.safetensors").quantizer.words == words


def test_a_file_that_changes_later_does_not_change_the_table(path):
    module = load(path)
    before = module.to_dense().clone()
    with path.open("r+b") as file:
        file.truncate(100)
    assert torch.equal(module.to_dense(), before)


def test_every_truncation_is_refused(path):
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ArtifactError):
            read(path)


@pytest.mark.parametrize("mask", [0x01, 0xFF])
def test_one_altered_byte_is_noticed_wherever_it_is(path, mask):
    data = path.read_bytes()
    read(path)
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :])
        with pytest.raises(ArtifactError):
            read(path)
            pytest.fail(f"byte {position} of {len(data)} was altered, and nothing noticed")


def test_bytes_behind_the_end_are_refused(path):
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ArtifactError):
        read(path)


def test_swapped_files(tmp_path):
    (tmp_path / "text").write_text("the 0.1 0.2\n")
    with pytest.raises(ArtifactError, match="not a complete safetensors file"):
        read(tmp_path / "text")
    safetensors.torch.save_file({"weight": torch.zeros(2, 2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ArtifactError, match="not a compressed embedding table"):
        read(tmp_path / "foreign.safetensors")
    with pytest.raises(ArtifactError, match="no such file"):
        read(tmp_path / "missing.safetensors")
    with pytest.raises(ArtifactError, match="is a folder; expected a compressed file"):
        read(tmp_path)


def test_newer_format_says_so_before_anything_else(path):
    rewrite(path, lambda header: header.update(format_version=2, surprise=True), digest=False)
    with pytest.raises(ArtifactError, match="format 2 is newer than this program reads"):
        read(path)


@pytest.mark.parametrize("key", ["format_version", "method", "config", "num_embeddings", "embedding_dim", "digest"])
@pytest.mark.parametrize("damage", ["absent", "null", "list"])
def test_damaged_header(path, key, damage):
    def change(header):
        if damage == "absent":
            header.pop(key)
        else:
            header[key] = {"null": None, "list": [[1]]}[damage]

    rewrite(path, change, digest=False)
    with pytest.raises(ArtifactError):
        read(path)


def test_header_that_is_no_json_object(path):
    for text in ("[]", "7", "{", '"text"', ""):
        path.write_bytes(safetensors.torch.save({"vectors": torch.zeros(1)}, {"embedding_frontier": text}))
        with pytest.raises(ArtifactError, match="header is damaged"):
            read(path)


# From here on the digest fits: such a file was made on purpose, or by another version of a method.
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "castle"}, "made by quantizer 'castle', which is not installed"),
        ({"config": {"dtype": "float7"}}, "dtype"),
        ({"config": {"kind": "float16"}}, "Unknown parameter"),
        ({"config": {"dtype": "float8_e4m3"}}, "should take"),
        ({"num_embeddings": 8}, "9 words for 8 rows"),
        ({"num_embeddings": 3, "embedding_dim": 9}, "no cast table"),
        ({"num_embeddings": 0}, "at least one row"),
        ({"num_embeddings": -9, "embedding_dim": -3}, "at least one row"),
    ],
)
def test_header_that_does_not_fit_the_tensors(path, change, message):
    rewrite(path, lambda header: header.update(change))
    with pytest.raises(ArtifactError, match=message):
        read(path)


@pytest.mark.parametrize(
    "vectors",
    [
        pytest.param(None, id="none"),
        pytest.param(torch.zeros(3, 9, dtype=torch.float16), id="turned"),
        pytest.param(torch.zeros(27, dtype=torch.float16), id="flat"),
        pytest.param(torch.zeros(9, 3), id="float32"),
        pytest.param(torch.zeros(10, 3, dtype=torch.float16), id="a row more"),
        pytest.param(torch.zeros(8, 3, dtype=torch.float16), id="a row less"),
    ],
)
def test_wrong_state_tensors(path, vectors):
    tensors = safetensors.torch.load_file(path)
    del tensors["vectors"]
    if vectors is not None:
        tensors["vectors"] = vectors
    rewrite(path, tensors=tensors)
    with pytest.raises(ArtifactError, match="no cast table of shape"):
        read(path)


def test_tensors_that_the_method_does_not_have(path):
    rewrite(path, tensors={**safetensors.torch.load_file(path), "bias": torch.zeros(3)})
    with pytest.raises(ArtifactError, match="no tensors called bias"):
        read(path)


def test_too_few_words(path):
    rewrite(path, tensors={**safetensors.torch.load_file(path), "words": torch.tensor(list(b"a\nb"), dtype=torch.uint8)})
    with pytest.raises(ArtifactError, match="2 words for 9 rows"):
        read(path)


def test_words_of_another_table_are_not_saved(quantizer, tmp_path):
    quantizer.words = ["a", "b"]
    with pytest.raises(InputError, match="2 words for 9 rows"):
        quantizer.save(tmp_path / "table.safetensors")


def test_words_that_a_file_cannot_hold_are_refused_before_the_fit():
    with pytest.raises(InputError, match=r"row 1, 'a\\nb', holds a line break"):
        Table(torch.zeros(2, 1), ["x", "a\nb"])
    with pytest.raises(InputError, match=r"row 1, '\\ud800', cannot be written"):
        Table(torch.zeros(2, 1), ["x", "\ud800"])


def test_saving_replaces_the_file_and_leaves_nothing_else(path, quantizer):
    before = path.read_bytes()
    path.write_bytes(b"older")
    assert quantizer.save(path) == len(before)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.fixture
def no_space():
    """Files of this process may not grow beyond 64 bytes: a write fails half way, as on a full disk."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, usual[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def test_full_disk_leaves_the_old_file_and_no_part(path, quantizer, request):
    before = path.read_bytes()
    request.getfixturevalue("no_space")
    with pytest.raises(InputError, match="cannot write the compressed file: File too large"):
        quantizer.save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_failure_at_the_end_leaves_the_old_file_and_no_part(path, quantizer, monkeypatch, name):
    def fails(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os if name == "fsync" else type(path), name, fails)
    before = path.read_bytes()
    with pytest.raises(InputError, match="cannot write the compressed file: No space left"):
        quantizer.save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_interrupted_saving_leaves_no_part(path, quantizer, monkeypatch):
    def interrupted(_descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quantizer.save(path)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("where", ["missing/table.safetensors", "file/table.safetensors", "folder", "n" * 300])
def test_paths_that_cannot_be_written(tmp_path, quantizer, where):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot write the compressed file"):
        quantizer.save(tmp_path / where)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(tmp_path, quantizer):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied"):
        quantizer.save(tmp_path / "table.safetensors")
