"""Arrays in files: ``.npy`` with its words beside it, and word2vec's ``.bin``.

Shapes: N rows, D columns.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from quantizers.coding.words import Words
from quantizers.errors import InputError, counted
from quantizers.table import Table
from trainables.tables.text import note_repeated

WORD_SUFFIXES = (".word", ".words", ".words.txt")
COUNTS_SUFFIX = ".counts.npy"
_BLOCK_BYTES = 1 << 24
_MAX_ROW_BYTES = 1 << 26
_MAX_WORD_BYTES = 1 << 20
NPY_HEADER_BYTES = 1 << 16


def read_npy(path: Path, rows: int | None) -> Table:
    """``X.npy``: a (N, D) float array; words in ``X.word``, ``X.words`` or ``X.words.txt``, counts in ``X.counts.npy``."""
    array = load_npy(path)
    vectors = as_vectors(array, str(path), rows)
    words = None
    found = [place for suffix in WORD_SUFFIXES if (place := path.with_suffix(suffix)).is_file()]
    if len(found) > 1:
        raise InputError(f"{path}: words in {found[0].name} and in {found[1].name}: keep one of them.")
    if found:
        lines = Words.decode(found[0].read_bytes().removesuffix(b"\n"))
        words = checked_words([line.removesuffix("\r") for line in lines], str(found[0]), len(array), lines=True)
    counts_path, counts = path.with_suffix(COUNTS_SUFFIX), None
    if counts_path.is_file():
        counts = checked_counts(load_npy(counts_path), str(counts_path), len(array))
    return Table(vectors, words and words[:rows], None if counts is None else counts[:rows], path.stem)


def load_npy(path: Path) -> np.ndarray:
    """The numbers of an ``.npy`` file, mapped: nothing is read before it is looked at.

    Raises:
        InputError: it is not a complete file of real numbers.
    """
    try:
        with path.open("rb") as stream:
            shape, in_columns, dtype, start = npy_header(stream.read(NPY_HEADER_BYTES), str(path))
        needed, there = math.prod(shape) * dtype.itemsize, path.stat().st_size - start
        if needed > there:
            raise InputError(
                f"{path}: not a complete .npy array: {dtype} of shape {shape} takes {needed:,} bytes, {there:,} are there."
            )
        if not needed:
            return np.empty(0, dtype)
        return np.memmap(path, dtype, "r", start, shape, "F" if in_columns else "C")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from None


def npy_header(data: bytes, source: str, kinds: str = "fiub") -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether columns lie together, type, and where the numbers begin, from the first 64 KiB of an ``.npy`` file.

    Args:
        data: those bytes.
        source: what to call the file in messages.
        kinds: NumPy's letters of the types that are wanted; by default of real numbers.

    Raises:
        InputError: it is no such header, or of another type.
    """
    stream = io.BytesIO(data)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape, in_columns, dtype = readers[np.lib.format.read_magic(stream)](stream)
    except Exception as error:  # NumPy reads the header as a Python literal: a damaged one can fail in any way that code can
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{source}: not a complete .npy array of numbers ({reason}).") from None
    if not all(type(size) is int and size >= 0 for size in shape):
        raise InputError(f"{source}: not a complete .npy array of numbers (its shape is {str(shape)[:200]}).")
    if dtype.kind not in kinds:
        raise InputError(f"{source}: not a complete .npy array of numbers (it holds {str(dtype)[:200]}).")
    return shape, in_columns, dtype, stream.tell()


def as_vectors(array: np.ndarray, source: str, rows: int | None) -> Tensor:
    """The first ``rows`` rows of a two-dimensional array of floats, as float32.

    Raises:
        InputError: it is not one.
    """
    if array.ndim != 2 or array.dtype.kind != "f" or not array.size:
        raise InputError(f"{source}: expected a two-dimensional array of floats, not {array.dtype} of shape {array.shape}.")
    with np.errstate(over="ignore"):  # infinity is refused where tables are made
        return torch.from_numpy(np.array(array[:rows], dtype=np.float32, order="C"))


def read_word2vec_bin(stream: IO[bytes], source: str, rows: int | None) -> tuple[np.ndarray, list[str]]:
    """word2vec's binary format: a line ``N D``, then each word, a space, and D little-endian float32."""
    header = stream.readline(64).split()
    if len(header) != 2 or not all(field.isdigit() for field in header) or not int(header[1]):
        raise InputError(f"{source}: not a word2vec binary file: expected its first line to be 'N D', two whole numbers.")
    promised, dim = int(header[0]), int(header[1])
    if 4 * dim > _MAX_ROW_BYTES:
        raise InputError(
            f"{source}: the header says {dim} columns, but at most {_MAX_ROW_BYTES // 4:,} are read: the file is damaged."
        )
    wanted = promised if rows is None else min(promised, rows)
    vectors = np.empty((0, dim), dtype=np.float32)
    words: list[bytes] = []
    rest = b""
    while len(words) < wanted and (chunk := stream.read(_BLOCK_BYTES)):
        block = rest + chunk
        pieces, position = [], 0
        while len(words) < wanted:
            space = block.find(b" ", position)
            end = space + 1 + 4 * dim
            if space < 0 or end > len(block):
                break
            words.append(block[position:space].lstrip(b"\n"))
            pieces.append(block[space + 1 : end])
            position = end
        rest = block[position:]
        if len(rest) > 4 * dim + _MAX_WORD_BYTES and len(words) < wanted:
            raise InputError(
                f"{source}: row {len(words)}: a word of more than {_MAX_WORD_BYTES >> 20} MiB: the file is damaged."
            )
        part = np.frombuffer(bytearray().join(pieces), dtype="<f4").reshape(-1, dim)
        finite = np.isfinite(part).all(axis=1)
        if not finite.all():
            row = len(vectors) + int(np.argmin(finite))
            word = words[row].decode(errors="replace")
            raise InputError(f"{source}: row {row}: NaN or infinity in the vector of {word!r}.")
        done = len(vectors)
        vectors.resize((done + len(part), dim), refcheck=False)
        vectors[done:] = part
    if len(words) < wanted:
        raise InputError(
            f"{source}: the header says {counted(promised, 'row')}, the file ends in row {len(words)}: it was cut off."
        )
    if wanted == promised and (rest + stream.read(64)).strip(b"\n"):
        raise InputError(
            f"{source}: more data than the {counted(promised, 'row')} of {counted(dim, 'column')} that the header says."
        )
    if not words:
        raise InputError(f"{source}: no table in it: the header says 0 rows.")
    decoded = [word.decode(errors="surrogateescape") for word in words]
    note_repeated(decoded, range(len(words)), source, "rows")
    return vectors, decoded


def write_npy(stream: IO[bytes], table: Table) -> None:
    """The vectors alone; words and counts are files of their own."""
    np.save(stream, table.vectors.cpu().numpy())


def write_word2vec_bin(stream: IO[bytes], table: Table) -> None:
    """word2vec's binary format, with a line break after every vector, as word2vec itself writes it."""
    stream.write(f"{table.num_embeddings} {table.embedding_dim}\n".encode())
    for word, row in zip(table.words or (), table.vectors.cpu().numpy().astype("<f4", copy=False), strict=True):
        if " " in word or word.startswith("\n"):
            raise InputError(f"The word {word!r} cannot be written to a word2vec binary file: it ends at the first space.")
        stream.write(word.encode(errors="surrogateescape") + b" " + row.tobytes() + b"\n")


def checked_words(words: Sequence[str], source: str, num_rows: int, *, lines: bool = False) -> Sequence[str]:
    """``words`` if there is one a row; those that come twice are said in the log, by their rows or ``lines``.

    Raises:
        InputError: there are more or fewer.
    """
    if len(words) != num_rows:
        raise InputError(f"{source}: {counted(len(words), 'word')} for {counted(num_rows, 'row')}.")
    note_repeated(words, range(lines, num_rows + lines), source, "lines" if lines else "rows")
    return words


def checked_counts(counts: np.ndarray, source: str, num_rows: int) -> Tensor:
    """Word frequencies (N,) as float32.

    Raises:
        InputError: they do not fit the rows, or are no frequencies.
    """
    if counts.shape != (num_rows,):
        raise InputError(f"{source}: counts of shape {counts.shape} for {counted(num_rows, 'row')}.")
    with np.errstate(over="ignore"):
        found = torch.from_numpy(np.array(counts, dtype=np.float32))
    if not bool((torch.isfinite(found) & (found >= 0)).all()):
        raise InputError(f"{source}: counts must be finite and not negative.")
    return found
