"""Tables that are damaged, hostile or of kinds that are not read: a line each, at once, without the memory they ask for."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import io
import json
import logging
import lzma
import re
import resource
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings

from quantizers import InputError, Table
from trainables.tables.formats import read_table
from trainables.tables.writing import write_table

pytestmark = pytest.mark.thorough  # searches long

TABLE = Table(torch.tensor([[0.5, -1.25], [3.0, 0.1], [1e-9, 7.0]]), ["the", "cat", "dog"], torch.tensor([3.0, 2.0, 1.0]))


@pytest.fixture(autouse=True)
def one_gigabyte() -> Iterator[None]:
    """At most 1 GB of address space more than the process has."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 10**9, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def refused(folder: Path, name: str, data: bytes, **options: int) -> str:
    (folder / name).write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_table(str(folder / name), **options)
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message and len(message) < 800
    return message


def npy(header: str, body: bytes = bytes(64), version: tuple[int, int] = (1, 0)) -> bytes:
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header.encode("latin1") + body


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3, '''\n"), "not a complete .npy array"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2\n"), "not a complete .npy array"),
        (npy("(" * 5000), "not a complete .npy array"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 2)}"), r"its shape is \(True, 2\)"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 2)}"), r"its shape is \(-3, 2\)"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2.0)}"), "not a complete .npy array"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3000000000, 3000000000)}"), r"takes 36,000,000,000,0"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1" + "0" * 40 + ", 2)}"), "64 are there"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 1" + "0" * 40 + ")}"), "two-dimensional"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1" + "0" * 5000 + ", 2)}"), "not a complete .npy array"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (3, 2)}"), "it holds object"),
        (npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3, 2)}"), "it holds"),
        (npy("", version=(2, 0))[:8] + b"\xff\xff\xff\xff", "not a complete .npy array"),
        (npy("", version=(9, 0)), "not a complete .npy array"),
        (b"", "not a complete .npy array"),
    ],
)
def test_npy_headers(tmp_path, data, message):
    assert re.search(message, refused(tmp_path, "t.npy", data))


def test_headers_that_ask_for_more_than_there_is(tmp_path):
    row = b"the " + struct.pack("<2f", 1, 2)
    assert "1000000000 columns, but at most 16,777,216 are read" in refused(tmp_path, "t.bin", b"3 1000000000\n" + row)
    assert "says 1,000,000,000,000 rows, the file ends in row 1" in refused(tmp_path, "t.bin", b"1000000000000 2\n" + row)
    assert "says 3 rows, the file ends in row 0" in refused(tmp_path, "t.bin", b"3 9000000\n" + row)
    assert "2 values, the header in line 1 says 1,000,000,000 columns" in refused(
        tmp_path, "t.vec", b"3 1000000000\na 1 2\n"
    )
    assert "says 1,000,000,000,000 rows, the file holds 1" in refused(tmp_path, "t.vec", b"1000000000000 2\na 1 2\n")
    assert ":1: 1 value" in refused(tmp_path, "t.vec", b"1" * 5000 + b" 2\na 1 2\nb 1 2\n")


def test_a_bin_file_without_a_space_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("trainables.tables.arrays._BLOCK_BYTES", 1 << 18)
    assert "row 1: a word of more than 1 MiB" in refused(tmp_path, "t.bin", b"9 1\na 1234" + b"x" * (3 << 20))


def test_archives_that_are_not_unpacked(tmp_path):
    store = io.BytesIO()
    with zipfile.ZipFile(store, "w") as archive:
        archive.writestr("t.txt", "a 1 2\n")
    plain = bytearray(store.getvalue())
    directory = plain.rindex(b"PK\x01\x02")
    encrypted = plain[:6] + b"\x01" + plain[7 : directory + 8] + b"\x01" + plain[directory + 9 :]
    assert "t.txt is encrypted: unpack it with its password first" in refused(tmp_path, "t.zip", bytes(encrypted))
    exotic = plain[:8] + b"\x61" + plain[9 : directory + 10] + b"\x61" + plain[directory + 11 :]
    assert "cannot be unpacked here (That compression method is not supported): unpack it with" in refused(
        tmp_path, "t.zip", bytes(exotic)
    )
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(30):
            archive.writestr(f"{number}.txt", "a 1 2\n")
    with pytest.raises(InputError, match=r"30 files in it: 0.txt, .* 9.txt, \.\.\.; name one"):
        read_table(str(tmp_path / "many.zip"))


@pytest.mark.parametrize("ending", [".gz", ".xz", ".zip"])
def test_what_unpacks_to_too_much(tmp_path, ending, monkeypatch):
    monkeypatch.setattr("trainables.tables.opening._FLOOR", 1 << 18)
    monkeypatch.setattr("trainables.tables.text._BLOCK_BYTES", 1 << 14)
    text = b"a 1\n" + b"\n" * (1 << 20) + b"b 2\n"
    if ending == ".zip":
        with zipfile.ZipFile(tmp_path / "t.txt.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("t.txt", text)
        data = (tmp_path / "t.txt.zip").read_bytes()
    else:
        data = gzip.compress(text) if ending == ".gz" else lzma.compress(text, preset=0)
    message = refused(tmp_path, f"t.txt{ending}", data)
    assert "unpacks to more than 262,144 bytes" in message and "--max-unpacked SIZE" in message
    assert read_table(str(tmp_path / f"t.txt{ending}"), max_unpacked=2 << 20).shape == (2, 1)
    assert "unpacks to more than 1,000 bytes" in refused(tmp_path, f"t.txt{ending}", data, max_unpacked=1000)


def safetensors(dtype: str, shape: list[int], size: int) -> bytes:
    header = json.dumps({"t": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(size)


def test_kinds_of_numbers_that_are_not_read(tmp_path):
    assert "are F4; expected F16, BF16, F32 or F64" in refused(tmp_path, "t.safetensors", safetensors("F4", [2, 2], 2))
    assert "are I64" in refused(tmp_path, "t.safetensors", safetensors("I64", [2, 2], 32))
    assert "not a complete safetensors" in refused(tmp_path, "t.safetensors", safetensors("F99", [2, 2], 2))
    assert "not a complete safetensors" in refused(tmp_path, "t.safetensors", safetensors("F32", [1 << 40, 1 << 40], 4))
    assert "two-dim" in refused(tmp_path, "t.safetensors", safetensors("F32", [0, 3], 0))


def test_a_text_cut_within_its_last_number(tmp_path, caplog):
    (tmp_path / "t.txt").write_text("the 0.25 0.5\ncat 0.125 0.75")
    with caplog.at_level(logging.WARNING):
        assert read_table(str(tmp_path / "t.txt"), rows=2).shape == read_table(str(tmp_path / "t.txt")).shape == (2, 2)
        (tmp_path / "t.txt").write_text("the 0.25 0.5\ncat 0.125 0.75\n")
        read_table(str(tmp_path / "t.txt"))
    (message,) = caplog.messages
    assert "t.txt:2: the last line has no line break. If the file was cut off there, the last value of 'cat'" in message


def written(ending: str, folder: Path) -> bytes:
    path = folder / f"t{ending}"
    write_table(TABLE, path)
    return path.read_bytes()


def damage(draw: st.DrawFn, data: bytes) -> bytes:
    """``data`` cut off, with bytes changed, taken out, doubled or put in."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(found)))
        length = draw(st.sampled_from([1, 1, 2, 4, 8, 40]))
        kind = draw(st.sampled_from(["change", "set", "cut", "remove", "double", "insert"]))
        if kind == "change" and place < len(found):
            found[place] ^= draw(st.integers(1, 255))
        elif kind == "set":
            found[place : place + length] = draw(st.sampled_from([b"\xff", b"\0", b"9", b"(", b" ", b"\n"])) * length
        elif kind == "cut":
            del found[place:]
        elif kind == "remove":
            del found[place : place + length]
        elif kind == "double":
            found[place:place] = found[place : place + length]
        else:
            found[place:place] = draw(st.binary(max_size=8))
    return bytes(found)


_spec = importlib.util.spec_from_file_location("table_files", Path(__file__).with_name("table_files.py"))
assert _spec is not None and _spec.loader is not None
files: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(files)
# What is damaged of each: the file itself, or what lies beside it or in the folder.
OTHERS = [
    *[(make, "") for make in (files.npz, files.state_dict, files.tensor, files.embedding, files.parquet_columns)],
    *[
        (make, "")
        for make in (files.parquet_lists, files.feather, files.arrow, files.comma, files.tabs, files.kv, files.fasttext)
    ],
    *[(make, "") for make in (files.shards,)],
    (files.kv_beside, "t.kv.vectors.npy"),
    (files.hugging_face_shards, "llama/model.safetensors.index.json"),
    (files.hugging_face_shards, "llama/tokenizer.json"),
    (files.hugging_face_checkpoint, "gpt2/vocab.json"),
    (files.hugging_face_checkpoint, "gpt2/pytorch_model.bin"),
    (files.static_embedding, "static/modules.json"),
    (files.model2vec, "potion/model.safetensors"),
]
IDS = [f"{make.__name__}-{part}".rstrip("-") for make, part in OTHERS]


ENDINGS = [".txt", ".vec", ".bin", ".npy", ".safetensors", ".txt.gz", ".vec.xz", ".zip"]


def packed(ending: str, folder: Path) -> bytes:
    if ending == ".zip":
        store = io.BytesIO()
        with zipfile.ZipFile(store, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("t.vec", written(".vec", folder))
        return store.getvalue()
    pack = {".gz": gzip.compress, ".xz": lzma.compress}.get(Path(ending).suffix, bytes)
    return pack(written(ending.removesuffix(".gz").removesuffix(".xz"), folder))


def a_table_or_a_refusal(path: Path, data: bytes, read: Path | None = None) -> None:
    path.write_bytes(data)
    try:
        table = read_table(str(read or path))
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 800
    else:
        assert min(table.shape) >= 1 and bool(torch.isfinite(table.vectors).all())


FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.mark.parametrize("ending", ENDINGS)
@settings(FUZZ, max_examples=25)
@given(data=st.data())
def test_any_damage_is_a_table_or_a_refusal(ending, data, tmp_path):
    folder = tmp_path / "read"
    folder.mkdir(exist_ok=True)
    a_table_or_a_refusal(folder / f"t{ending}", damage(data.draw, packed(ending, tmp_path)))


def check_other(make, part: str, data: st.DataObject, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    name = make(folder)
    place = folder / (part or name)
    a_table_or_a_refusal(place, damage(data.draw, place.read_bytes()), folder / name)


@pytest.mark.parametrize(("make", "part"), OTHERS, ids=IDS)
@settings(FUZZ, max_examples=12)
@given(data=st.data())
def test_any_damage_of_other_formats(make, part, data, tmp_path):
    check_other(make, part, data, tmp_path / "made")


@pytest.mark.slow
@pytest.mark.parametrize(("make", "part"), OTHERS, ids=IDS)
@settings(FUZZ, max_examples=1000)
@given(data=st.data())
def test_much_damage_of_other_formats(make, part, data, tmp_path):
    check_other(make, part, data, tmp_path / "made")


@pytest.mark.parametrize("ending", [*ENDINGS, ".npz", ".pt", ".parquet", ".arrow", ".feather", ".csv", ".tsv", ".kv"])
@settings(FUZZ, max_examples=10)
@given(data=st.binary(max_size=300))
@example(data=b"")
def test_any_bytes_are_a_table_or_a_refusal(ending, data, tmp_path):
    a_table_or_a_refusal(tmp_path / f"t{ending}", data)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
@settings(FUZZ, max_examples=1000)
@given(data=st.data())
def test_much_damage_is_a_table_or_a_refusal(ending, data, tmp_path):
    folder = tmp_path / "read"
    folder.mkdir(exist_ok=True)
    a_table_or_a_refusal(folder / f"t{ending}", damage(data.draw, packed(ending, tmp_path)))


def test_big_endian_and_long_floats(tmp_path):
    np.save(tmp_path / "t.npy", TABLE.vectors.numpy().astype(">f8"))
    assert torch.equal(read_table(str(tmp_path / "t.npy")).vectors, TABLE.vectors)
    np.save(tmp_path / "t.npy", np.full((2, 2), 1e300))
    with pytest.raises(InputError, match="2 of 2 rows hold NaN or infinity"):
        read_table(str(tmp_path / "t.npy"))


@pytest.mark.parametrize("ending", [".zip", ".npz"])
def test_an_archive_with_a_file_without_a_name(tmp_path, ending):
    store = io.BytesIO()
    with zipfile.ZipFile(store, "w") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = ""
        archive.writestr(info, "a 1 2\n")
    assert "a file without a name" in refused(tmp_path, f"t{ending}", store.getvalue())


def test_an_index_of_shards_that_names_no_file(tmp_path):
    index = json.dumps({"weight_map": {"wte.weight": {"a": 1}}}).encode()
    assert "not the index of safetensors files" in refused(tmp_path, "model.safetensors.index.json", index)


# An Arrow file with words in a dictionary that says it has millions, found by atheris: Arrow read beyond its memory.
BEYOND = zlib.decompress(
    base64.b85decode(
        "c-pm6y-LGS6h67RNuxx}5F~?xgF{EfSxmvD;43&38>mn%mY}OI;qK_>;@-hUd;k$#`V786{La1SmgZKWizl3%oZs(!r)`?1$pWH`"
        "ST-r8m?BE>1qn21m>1NrRnRdsC$2A06;lTt86vhnh&Xo&-Ggef!uD=59rAaAha>z>jh{k0#^(XH&*HuT7om)2?#mpkN(aywdRtx8"
        "lPMW5K{l2hc^|hMd$L=|cGuhMvaYUde{A|K0ui8_C*ewF*IX`>nyI9;$#o@fFJ^hUTNbF)k~x#O!)6KTZ*jPV*sY~pVCEdJ^zgh5"
        "xvQ(MN7eP<^%<uc)Q7_Bv&Czt%`4Ofvs_GV^B4;cwS*hd`qK5RAJ08L%B$0!uT~*Wh#qHO+x_xk_HhLN9{<Mj{kwldG-p~pFzC5E"
        "D(`n#_ddlx-6!*GJ3cQl_dNV%&z3A0I!0`N05eTQb^"
    )
)


def test_an_arrow_file_whose_lengths_are_wrong(tmp_path):
    assert "Dictionary array invalid" in refused(tmp_path, "t.arrow", BEYOND)
