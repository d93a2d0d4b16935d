"""What a compressed table can be exported to, and which method's table in which format.

A format either keeps a table compressed (:data:`COMPRESSED`), or holds all of its rows, rebuilt (:data:`REBUILT`), or cannot
carry a method's table and says why.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from quantizers.base import Quantizer
from quantizers.codes import CodeQuantizer
from quantizers.coding.words import encode_words
from quantizers.errors import InputError, unknown_name
from quantizers.exporting import codes, onnx
from quantizers.files import write_bytes
from quantizers.registry import get
from quantizers.table import Table
from trainables.tables.writers import folders
from trainables.tables.writing import write_table

COMPRESSED, REBUILT = "compressed", "rebuilt"


@dataclasses.dataclass(frozen=True)
class Output:
    """One format.

    Attributes:
        about: what it is, in a few words.
        write: writes a fitted quantizer to a path.
        carries: for a method's name, how the format has its table: :data:`COMPRESSED` or :data:`REBUILT`, or why it has not.
        needs_words: whether rows are found by words alone.
        beside: for a path, the files that are written beside it.
        is_folder: whether a folder is written.
    """

    about: str
    write: Callable[[Quantizer, Path], None]
    carries: Callable[[str], str] = lambda method: REBUILT
    needs_words: bool = False
    beside: Callable[[Path], tuple[Path, ...]] = lambda path: ()
    is_folder: bool = False


def carried(name: str, method: str) -> tuple[str | None, str | None]:
    """How format ``name`` has a table of ``method``: (:data:`COMPRESSED` or :data:`REBUILT`, None), or (None, why not).

    Raises:
        InputError: there is no such format, or no such method.
    """
    if name not in OUTPUTS:
        raise unknown_name("format", name, OUTPUTS)
    get(method)
    found = OUTPUTS[name].carries(method)
    return (found, None) if found in (COMPRESSED, REBUILT) else (None, found)


def export(quantizer: Quantizer, path: Path, name: str, *, force: bool = False) -> None:
    """Write a compressed table in format ``name``.

    Args:
        quantizer: a fitted quantizer.
        path: the file or folder to write.
        name: one of :data:`OUTPUTS`.
        force: whether a file that is there may be replaced.

    Raises:
        InputError: the format cannot carry the table, something is at ``path`` already, or it cannot be written.
    """
    reason = carried(name, quantizer.name)[1]
    if reason is not None:
        raise InputError(f"--format {name}: {quantizer.name} cannot be written in this format: {reason}.")
    if OUTPUTS[name].needs_words and quantizer.words is None:
        raise InputError(f"--format {name} finds rows by words, and this table has none: use safetensors, onnx or dense.")
    refuse_overwriting(path, name, force=force)
    OUTPUTS[name].write(quantizer, path)


def refuse_overwriting(path: Path, name: str, *, force: bool) -> None:
    """Refuse a place where something is, unless ``force`` is given.

    Raises:
        InputError: it is there, or a file is where a folder should be, or the other way round, or its own folder is missing.
    """
    output = OUTPUTS[name]
    if path.is_dir() != output.is_folder and path.exists() or not path.absolute().parent.is_dir():
        what = "folder" if output.is_folder else "file"
        raise InputError(f"{path}: expected the path of a {what} in an existing folder.")
    for place in (path, *output.beside(path)):
        if place.exists() and not force:
            raise InputError(f"{place}: already exists; --force replaces it.")


def _with(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _dense(quantizer: Quantizer, name: str) -> Table:
    return Table(quantizer.to_dense(), quantizer.words, name=name)


def _write_onnx(quantizer: Quantizer, path: Path) -> None:
    onnx.write_onnx(quantizer, path)
    if quantizer.words is not None:
        write_bytes(_with(path, onnx.WORDS_SUFFIX), encode_words(quantizer.words) + b"\n", "the words")


def _write_codes(quantizer: Quantizer, path: Path) -> None:
    assert isinstance(quantizer, CodeQuantizer)
    codes.write_codes(quantizer, path)
    codes.write_codebook(quantizer, _with(path, codes.CODEBOOK_SUFFIX))


def _write_staticvectors(quantizer: Quantizer, path: Path) -> None:
    tensors = folders.product_codes(quantizer)
    if tensors is None:
        write_table(_dense(quantizer, path.name), path, "staticvectors")
    else:
        folders.write_staticvectors_codes(quantizer, tensors, path)


OUTPUTS: Mapping[str, Output] = {
    "safetensors": Output(
        "the compressed file: PyTorch, the NumPy reader, the JavaScript reader",
        lambda quantizer, path: None if quantizer.save(path) else None,
        lambda method: COMPRESSED,
    ),
    "onnx": Output(
        "ONNX model: int64 ids of any shape in, rows out",
        _write_onnx,
        lambda method: onnx.refusal(method) or COMPRESSED,
        beside=lambda path: (_with(path, onnx.WORDS_SUFFIX),),
    ),
    "codes": Output(
        "text of words and codes, and a codebook as .npy: a row is the sum of its codewords",
        _write_codes,
        lambda method: codes.refusal(get(method)) or COMPRESSED,
        beside=lambda path: (_with(path, codes.CODEBOOK_SUFFIX),),
    ),
    "dense": Output(
        "uncompressed table, by the ending of its name: .npy, .safetensors, .txt, .vec, .bin, .kv",
        lambda quantizer, path: write_table(_dense(quantizer, path.stem), path),
        beside=lambda path: (path.with_suffix(".words"),) if path.suffix == ".npy" else (),
    ),
    "gensim": Output(
        "gensim's KeyedVectors.load, X.kv",
        lambda quantizer, path: write_table(_dense(quantizer, path.stem), _kv(path)),
        needs_words=True,
    ),
    "model2vec": Output(
        "folder for model2vec, and for Sentence Transformers",
        lambda quantizer, path: write_table(_dense(quantizer, path.name), path, "model2vec"),
        needs_words=True,
        is_folder=True,
    ),
    "sentence-transformers": Output(
        "folder for Sentence Transformers: a StaticEmbedding",
        lambda quantizer, path: write_table(_dense(quantizer, path.name), path, "sentence-transformers"),
        needs_words=True,
        is_folder=True,
    ),
    "staticvectors": Output(
        "folder for staticvectors; pq and dpq stay compressed where their blocks are of one width",
        _write_staticvectors,
        lambda method: COMPRESSED if method in ("pq", "dpq") else REBUILT,
        needs_words=True,
        is_folder=True,
    ),
}


def _kv(path: Path) -> Path:
    if path.suffix != ".kv":
        raise InputError(f"{path}: expected a name that ends in .kv, as gensim's files do.")
    return path
