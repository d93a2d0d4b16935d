"""Embedding tables out: to any file, or to the folder of another package; :mod:`trainables.tables.formats` takes them in."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from quantizers.coding.words import encode_words
from quantizers.errors import InputError, unknown_name
from quantizers.files import writing
from quantizers.table import Table
from trainables.tables import arrays as array_tables
from trainables.tables import tensors
from trainables.tables import text as text_tables
from trainables.tables.writers import folders
from trainables.tables.writers.gensim import write_kv

_WRITERS: Mapping[str, Callable[[IO[bytes], Table], None]] = {
    ".npy": array_tables.write_npy,
    ".safetensors": tensors.write_safetensors,
    ".txt": functools.partial(text_tables.write_text, header=False),
    ".vec": functools.partial(text_tables.write_text, header=True),
    ".bin": array_tables.write_word2vec_bin,
    ".kv": write_kv,
}
_FOLDER_WRITERS: Mapping[str, Callable[[Table, Path], None]] = {
    "model2vec": folders.write_model2vec,
    "sentence-transformers": folders.write_sentence_transformers,
    "staticvectors": folders.write_staticvectors,
}
_WITH_WORDS = (".txt", ".vec", ".bin", ".kv")


def write_table(table: Table, path: str | Path, kind: str | None = None) -> None:
    """Write a table, atomically, in the format of the name's ending.

    Args:
        table: what to write.
        path: ``X.npy`` (words beside it in ``X.words``, counts in ``X.counts.npy``), ``X.safetensors`` (``vectors``,
            ``words``, ``counts``), ``X.txt`` (GloVe), ``X.vec`` (word2vec text), ``X.bin`` (word2vec), ``X.kv`` (gensim).
        kind: a folder instead: ``model2vec``, ``sentence-transformers`` or ``staticvectors``.

    Raises:
        InputError: another ending, a format that needs words for a table that has none, a word that the format cannot hold,
            or a file that cannot be written.
    """
    path = Path(path)
    if kind is not None:
        if kind not in _FOLDER_WRITERS:
            raise unknown_name("format of a folder", kind, _FOLDER_WRITERS)
        if table.words is None:
            raise InputError(f"{path}: a {kind} model needs words, and {table.name} has none: use .npy or .safetensors.")
        _FOLDER_WRITERS[kind](table, path)
        return
    if path.suffix not in _WRITERS:
        raise unknown_name("ending of a table's file", path.suffix, _WRITERS)
    if table.words is None and path.suffix in _WITH_WORDS:
        raise InputError(f"{path}: a {path.suffix} table needs words, and {table.name} has none: use .npy or .safetensors.")
    files = _companions(table, path) if path.suffix == ".npy" else {}
    files[path] = lambda stream: _WRITERS[path.suffix](stream, table)
    with contextlib.ExitStack() as written:  # all are there before the first gets its name: what does not fit leaves none
        for place, write in files.items():
            stream = written.enter_context(writing(place, "the table"))
            write(stream)
            stream.flush()


def _companions(table: Table, path: Path) -> dict[Path, Callable[[IO[bytes]], Any]]:
    """Words and counts beside an ``.npy`` file; files of another table that would be taken for them are refused."""
    found: dict[Path, Callable[[IO[bytes]], Any]] = {}
    words = path.with_suffix(".words") if table.words is not None else None
    counts = path.with_suffix(array_tables.COUNTS_SUFFIX) if table.counts is not None else None
    for suffix in (*array_tables.WORD_SUFFIXES, array_tables.COUNTS_SUFFIX):
        place = path.with_suffix(suffix)
        if place.exists() and place not in (words, counts):
            raise InputError(
                f"{path}: {place.name} is in the same folder and would be read as a part of it; move it away first."
            )
    if words is not None and table.words is not None:
        text = encode_words(table.words)
        if b"\r\n" in text + b"\n":
            raise InputError(f"{path}: a word ends in a carriage return, which would be taken for a Windows line end.")
        found[words] = lambda stream: stream.write(text + b"\n")
    if counts is not None and table.counts is not None:
        array = table.counts.cpu().numpy()
        found[counts] = lambda stream: np.save(stream, array)
    return found
