"""Compressed files of any bytes are read or refused; also those whose digest fits what was put into them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import hypothesis.strategies as st
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings

from quantizers import ArtifactError, Table, artifact, create, read

pytestmark = pytest.mark.thorough  # searches long

FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
METHODS = {
    "cast": {"dtype": "float16"},
    "scalar": {"bits": 4},
    "pq": {"num_codebooks": 3, "codebook_size": 4},
    "lowrank": {"rank": 2},
    "pruned": {"sparsity": 0.5},
}
NUMBERS = st.sampled_from(
    [0, -1, 1, 2, 13, 2**31, 10**12, 2**63, 10**30, True, None, "3", 1.5, float("inf"), float("nan"), [], {}]
)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    folder, found = tmp_path_factory.mktemp("files"), {}
    table = Table(torch.randn(12, 6, generator=torch.Generator().manual_seed(0)), [f"w{row}" for row in range(12)])
    for method, parameters in METHODS.items():
        create(method, **parameters).fit(table).save(folder / method)
        found[method] = (folder / method).read_bytes()
    return found


def read_or_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        found = read(path)
    except ArtifactError as error:
        assert "\n" not in str(error)
    else:
        assert min(found.quantizer.shape) >= 1 and found.file_bytes == len(data)


def signed(data: bytes, change) -> bytes:
    """The file with ``change`` made to its header, and a digest that fits."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["embedding_frontier"])
    tensors = safetensors.torch.load(data)
    change(header, tensors)
    header["digest"] = artifact._digest(header, tensors)
    return safetensors.torch.save(tensors, {"embedding_frontier": json.dumps(header, sort_keys=True)})


def check(method: str, files: dict[str, bytes], data: st.DataObject, path: Path) -> None:
    def change(header, tensors):
        for _ in range(data.draw(st.integers(1, 2))):
            where = data.draw(st.sampled_from(["header", "config", "tensor", "shape"]))
            if where == "header":
                key = data.draw(st.sampled_from(["num_embeddings", "embedding_dim", "format_version", "method"]))
                header[key] = data.draw(NUMBERS)
            elif where == "config" and header["config"]:
                header["config"][data.draw(st.sampled_from(sorted(header["config"])))] = data.draw(NUMBERS)
            else:
                name = data.draw(st.sampled_from(sorted(tensors)))
                tensor = tensors[name]
                if where == "shape":
                    tensors[name] = tensor.reshape(-1)[: data.draw(st.integers(0, tensor.numel()))].clone()
                elif data.draw(st.booleans()):
                    tensors[name] = tensor.to(data.draw(st.sampled_from([torch.int64, torch.float64, torch.bool])))
                else:
                    raw = tensor.clone().reshape(-1).view(torch.uint8)
                    raw[data.draw(st.integers(0, len(raw) - 1)) if len(raw) else slice(0)] = data.draw(st.integers(0, 255))
                    tensors[name] = raw.view(tensor.dtype).reshape(tensor.shape)

    try:
        changed = signed(files[method], change)
    except Exception:  # what cannot be put into a file cannot be read from one
        return
    read_or_refused(path, changed)


@pytest.mark.parametrize("method", METHODS)
@settings(FUZZ, max_examples=25)
@given(data=st.data())
def test_headers_and_tensors_with_a_digest_that_fits(method, files, data, tmp_path):
    check(method, files, data, tmp_path / "t.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@settings(FUZZ, max_examples=1000)
@given(data=st.data())
def test_many_headers_and_tensors_with_a_digest_that_fits(method, files, data, tmp_path):
    check(method, files, data, tmp_path / "t.safetensors")


@settings(FUZZ, max_examples=50)
@given(data=st.binary(max_size=200), length=st.integers(0, 300))
def test_any_bytes(data, length, tmp_path):
    read_or_refused(tmp_path / "t.safetensors", data)
    read_or_refused(tmp_path / "t.safetensors", struct.pack("<Q", length) + data)


@pytest.mark.parametrize(
    "header",
    [
        '{"format_version": Infinity}',
        '{"format_version": 1, "method": "cast", "digest": 1, "num_embeddings": Infinity}',
        "[" * 3000 + "]" * 3000,
        '{"format_version": ' + "1" * 5000 + "}",
    ],
    ids=["infinity", "infinite rows", "nested", "digits"],
)
def test_headers_that_json_allows(header, tmp_path):
    data = safetensors.torch.save({"t": torch.zeros(1)}, {"embedding_frontier": header})
    (tmp_path / "t.safetensors").write_bytes(data)
    with pytest.raises(ArtifactError, match="the header is damaged"):
        read(tmp_path / "t.safetensors")


def test_numbers_of_half_a_byte(tmp_path):
    header = {"format_version": 1, "method": "cast", "config": {}, "num_embeddings": 2, "embedding_dim": 2, "digest": "0"}
    text = json.dumps(
        {
            "__metadata__": {"embedding_frontier": json.dumps(header)},
            "vectors": {"dtype": "F4", "shape": [2, 2], "data_offsets": [0, 2]},
        }
    ).encode()
    (tmp_path / "t.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0\0")
    with pytest.raises(ArtifactError):
        read(tmp_path / "t.safetensors")


@pytest.mark.parametrize(
    ("method", "parameters"),
    [("pq", {"num_codebooks": 2}), ("rq", {"num_codebooks": 2}), ("dpq", {"num_codebooks": 2, "epochs": 1})],
)
def test_codes_that_point_past_the_last_value(method, parameters, tmp_path):
    table = Table(torch.randn(12, 6, generator=torch.Generator().manual_seed(0)))
    path = tmp_path / "t.safetensors"
    create(method, codebook_size=5, **parameters).fit(table).save(path)
    assert read(path).quantizer.shape == (12, 6)

    def change(header, tensors):
        tensors["codes"] = tensors["codes"].clone()
        tensors["codes"][7] = 0b101  # one more than the last of five

    path.write_bytes(signed(path.read_bytes(), change))
    with pytest.raises(ArtifactError, match="a code is 5, and there are 5 values"):
        read(path)


def test_bits_of_an_axis_that_no_file_has(tmp_path):
    path = tmp_path / "t.safetensors"
    create("transform", row_bits=16, rank=4).fit(torch.randn(12, 6)).save(path)

    def change(header, tensors):
        tensors["bits"] = torch.tensor([9, 7, 0, 0], dtype=torch.uint8)  # as many bits in all; 20 would take minutes

    path.write_bytes(signed(path.read_bytes(), change))
    with pytest.raises(ArtifactError):
        read(path)


def test_kept_values_in_columns_that_are_not_there(tmp_path):
    path = tmp_path / "t.safetensors"
    vectors = torch.randn(12, 6)
    vectors[5] *= 100  # the only row that keeps values
    create("pruned", sparsity=1 - 6 / 72).fit(vectors).save(path)

    def change(header, tensors):
        tensors["columns"] = torch.full_like(tensors["columns"], 255)

    path.write_bytes(signed(path.read_bytes(), change))
    with pytest.raises(ArtifactError):
        read(path)


def test_rows_wider_than_a_file_has_a_right_to(tmp_path):
    """A pool of values makes rows of any width; those of this file would take gigabytes."""
    path = tmp_path / "t.safetensors"
    create("hashed", pool_size=5).fit(torch.randn(12, 6)).save(path)

    def change(header, tensors):
        header["embedding_dim"] = 1 << 31

    path.write_bytes(signed(path.read_bytes(), change))
    with pytest.raises(ArtifactError, match="rows of more than 1,048,576 columns are not read from 20 bytes"):
        read(path)


@pytest.mark.parametrize("rows", [1 << 62, 10**30])
def test_more_rows_than_cores_have(rows, tmp_path):
    """Factors of such numbers, which the cores' sizes follow from, would take hours."""
    path = tmp_path / "t.safetensors"
    create("tt", num_cores=2, tt_rank=2).fit(torch.randn(12, 6)).save(path)

    def change(header, tensors):
        header["num_embeddings"] = rows

    path.write_bytes(signed(path.read_bytes(), change))
    with pytest.raises(ArtifactError, match="its cores have 12 rows of 6 columns|fewer than 2\\^63"):
        read(path)


@pytest.mark.parametrize(
    ("method", "parameters", "name", "dtype"),
    [
        ("cast", {"dtype": "float8_e4m3"}, "vectors", torch.int8),
        ("transform_entropy", {"row_bits": 60, "rank": 4}, "length_bytes", torch.bfloat16),
        ("cast", {"dtype": "float16"}, "words", torch.int32),
    ],
)
def test_tensors_of_another_type(method, parameters, name, dtype, tmp_path):
    """As many values, which would be read as others, or past the last of them."""
    path = tmp_path / "t.safetensors"
    create(method, **parameters).fit(Table(torch.randn(12, 6), [str(row) for row in range(12)])).save(path)

    def change(header, tensors):
        tensors[name] = tensors[name].to(dtype)

    path.write_bytes(signed(path.read_bytes(), change))
    with pytest.raises(ArtifactError, match=f"(its )?{name} (is|are) {dtype}, not"):
        read(path)


def test_rows_that_take_more_bytes_than_there_are(tmp_path):
    """The two ends, which are read at once, have theirs."""
    path = tmp_path / "t.safetensors"
    create("transform_entropy", row_bits=60, rank=4).fit(torch.randn(12, 6)).save(path)

    def change(header, tensors):
        tensors["shortest"] += 1000

    path.write_bytes(signed(path.read_bytes(), change))
    with pytest.raises(ArtifactError, match="its rows take .* bytes, and .* are stored"):
        read(path)
