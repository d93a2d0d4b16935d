"""fastText's ``.bin``: the vectors of its words as ``get_word_vector`` gives them, subwords included.

Bojanowski, Grave, Joulin and Mikolov, "Enriching word vectors with subword information", TACL 2017: a word's vector is the
mean of its own row and of the rows of its character n-grams, which share ``bucket`` rows by a hash (FNV-1a). Subwords of
words that are not in the table are not kept.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import torch

from quantizers.errors import InputError, counted
from quantizers.table import Table
from trainables.tables.text import note_repeated

MAGIC = struct.pack("<i", 793_712_314)
_HEADER = struct.Struct("<ii12id3i2q")  # magic, version; settings; sampling threshold; sizes of the dictionary
_MAX_DICTIONARY_BYTES = 1 << 31
_END = b"</s>"  # the end of a sentence, which has no subwords
_BATCH = 20_000


def read_fasttext(path: Path, rows: int | None) -> Table:
    """Words, counts and vectors of a model that fastText saved.

    Raises:
        InputError: it is quantized or pruned, damaged, or cut off.
    """
    try:
        with path.open("rb") as stream:
            fields = _HEADER.unpack(stream.read(_HEADER.size))
            dim, bucket, shortest, longest = fields[2], fields[10], fields[11], fields[12]
            entries, num_words, _, _, pruned = fields[15:20]
            if fields[1] not in (11, 12) or min(dim, num_words) < 1 or entries < num_words or bucket < 0:
                raise _damaged(path, f"version {fields[1]}, {counted(num_words, 'word')} of {counted(dim, 'column')}")
            if pruned >= 0:
                raise _quantized(path)
            words, counts, start = _dictionary(stream, entries, num_words, path)
            stream.seek(start)
            if stream.read(1) != b"\0":
                raise _quantized(path)
            matrix_rows, columns = struct.unpack("<qq", stream.read(16))
            offset = stream.tell()
    except struct.error:
        raise _damaged(path, "it was cut off") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from None
    there = (path.stat().st_size - offset) // 4
    uses_grams = longest > 0 and bucket > 0
    if columns != dim or not num_words <= matrix_rows or matrix_rows * dim > there:
        raise _damaged(path, f"{counted(matrix_rows, 'row')} of {counted(columns, 'column')}, {counted(there, 'number')}")
    if uses_grams and matrix_rows < num_words + bucket:
        raise _damaged(
            path, f"{counted(matrix_rows, 'row')} for {counted(num_words, 'word')} and {counted(bucket, 'subword')}"
        )
    matrix = np.memmap(path, "<f4", "r", offset, (matrix_rows, dim))
    wanted = num_words if rows is None else min(rows, num_words)
    if uses_grams:
        vectors = _with_subwords(matrix, words[:wanted], num_words, bucket, shortest, longest)
    else:
        vectors = np.array(matrix[:wanted], dtype=np.float32)
    decoded = [word.decode("utf-8", "surrogateescape") for word in words[:wanted]]
    note_repeated(decoded, range(wanted), str(path), "rows")
    return Table(torch.from_numpy(vectors), decoded, torch.tensor(counts[:wanted], dtype=torch.float32), path.stem)


def _dictionary(stream: IO[bytes], entries: int, num_words: int, path: Path) -> tuple[list[bytes], list[int], int]:
    """Words and counts, in the order of the rows, and where what follows begins."""
    begin = stream.tell()
    text = stream.read(min(_MAX_DICTIONARY_BYTES, path.stat().st_size - begin, 300 * entries))
    words, counts, position = [], [], 0
    for entry in range(entries):
        end = text.find(b"\0", position)
        if end < 0 or end + 10 > len(text):
            raise _damaged(path, f"its dictionary ends in entry {entry} of {entries}")
        count, kind = struct.unpack_from("<qb", text, end + 1)
        if (kind == 0) != (entry < num_words) or count < 0:
            raise _damaged(path, f"entry {entry} of its dictionary")
        if kind == 0:
            words.append(text[position:end])
            counts.append(count)
        position = end + 10
    return words, counts, begin + position


def _with_subwords(
    matrix: np.ndarray, words: list[bytes], num_words: int, bucket: int, shortest: int, longest: int
) -> np.ndarray:
    """Means of the rows of each word and its n-grams, (N, D) float32."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        weight = torch.from_numpy(matrix)  # mapped: only the rows that are asked for are read
    vectors = np.empty((len(words), matrix.shape[1]), dtype=np.float32)
    for begin in range(0, len(words), _BATCH):
        part = words[begin : begin + _BATCH]
        owners = [np.arange(len(part))]
        found = [np.arange(begin, begin + len(part))]
        for owner, hashes in _grams(part, shortest, longest):
            owners.append(owner)
            found.append(num_words + (hashes % np.uint32(bucket)).astype(np.int64))
        owner = np.concatenate(owners)
        order = np.argsort(owner, kind="stable")
        sizes = np.bincount(owner, minlength=len(part))
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        places = torch.from_numpy(np.concatenate(found)[order])
        sums = torch.nn.functional.embedding_bag(places, weight, torch.from_numpy(starts), mode="sum")
        vectors[begin : begin + len(part)] = sums.numpy() * (1.0 / sizes).astype(np.float32)[:, None]
    return vectors


def _grams(words: list[bytes], shortest: int, longest: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each length and place, the words with an n-gram there and its hash: FNV-1a over bytes taken as signed."""
    marked = [b"" if word == _END else b"<" + word + b">" for word in words]
    text = np.frombuffer(b"".join(marked) + bytes(8), dtype=np.uint8)
    sizes = np.array([len(word) for word in marked])
    ends = np.cumsum(sizes)
    word_of_byte = np.repeat(np.arange(len(words)), sizes)
    begins = np.flatnonzero((text[: ends[-1]] & 0xC0) != 0x80)  # bytes that begin a character
    word_of = word_of_byte[begins]
    first, last = (ends - sizes)[word_of], ends[word_of]
    following = np.append(begins[1:], ends[-1])
    following = np.minimum(following, last)  # where the character ends
    hashes = np.full(len(begins), 2166136261, dtype=np.uint32)
    alive = np.arange(len(begins))  # places whose n-gram is still within its word
    for length in range(1, longest + 1):
        at = alive + length - 1  # the character that is added
        inside = (at < len(begins)) & (word_of[np.minimum(at, len(begins) - 1)] == word_of[alive])
        alive, at = alive[inside], at[inside]
        if not len(alive):
            return
        for byte in range(int((following[at] - begins[at]).max())):
            place = begins[at] + byte
            more = place < following[at]
            signed = text[place[more]].astype(np.int8).astype(np.uint32)
            hashes[alive[more]] = (hashes[alive[more]] ^ signed) * np.uint32(16777619)
        if length >= shortest:
            # A mark alone is no subword.
            kept = (begins[alive] != first[alive]) & (following[at] != last[alive]) if length == 1 else slice(None)
            yield word_of[alive[kept]], hashes[alive[kept]]


def _quantized(path: Path) -> InputError:
    return InputError(
        f"{path}: a quantized fastText model; its rows are compressed already. Take the .bin that it was made from, or "
        "write its words and vectors to a text table (fasttext print-word-vectors)."
    )


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path}: not a complete fastText model ({why}).")
