"""NumPy's ``.npz``: an archive of named arrays, one of them the table, perhaps with words and counts beside it.

Shapes: N rows, D columns.
"""

from __future__ import annotations

import logging
import math
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from quantizers.coding.words import Words
from quantizers.errors import InputError
from quantizers.table import Table
from trainables.tables.arrays import NPY_HEADER_BYTES, as_vectors, checked_counts, checked_words, npy_header
from trainables.tables.opening import archive, damaged, inside, limited
from trainables.tables.tensors import choose

_LOG = logging.getLogger(__name__)
WORD_NAMES = ("words", "word", "vocab", "vocabulary", "tokens", "token", "keys", "labels", "itos")


def read_npz(path: Path, name: str | None, rows: int | None, max_unpacked: int | None) -> Table:
    """The two-dimensional float array ``name`` of an ``.npz``; without a name, the only one there is, or the usual one.

    An array of text of N entries that is called ``words``, ``vocab``, ``tokens`` or alike holds the words; so do bytes
    (uint8) with one word a line. ``counts`` holds the counts.
    """
    try:
        with archive(path) as files:
            members = {info.filename.removesuffix(".npy"): info for info in files.infolist() if not info.is_dir()}
            heads = {}
            for key, info in members.items():
                with inside(files, info, path) as stream:
                    first = limited(stream, path, info.compress_size, max_unpacked).read(NPY_HEADER_BYTES)
                heads[key] = npy_header(first, f"{path}#{key}", "fiubcSUOmMV")
            shapes = {
                key: (shape[0], shape[1])
                for key, (shape, _, kind, _) in heads.items()
                if len(shape) == 2 and kind.kind == "f"
            }
            table = choose({key: shape for key, shape in shapes.items() if 0 not in shape}, name, str(path))

            def read(key: str) -> np.ndarray:
                return _array(files, members[key], path, heads[key], max_unpacked)

            vectors = as_vectors(read(table), f"{path}#{table}", rows)
            num_rows = shapes[table][0]
            words, counts = None, None
            for key in [key for key in WORD_NAMES if key in heads][:1]:
                kind = heads[key][2]
                if kind.hasobject:
                    _LOG.warning("%s: the words in %s are pickled, which can run code, and left out; save them with "
                                 "np.savez(..., words=np.array(words, dtype=str)).", path, key)  # fmt: skip
                elif kind.kind in "US" or kind == np.uint8:
                    words = checked_words(_words(read(key), path), f"{path}#{key}", num_rows)[:rows]
            if "counts" in heads and heads["counts"][2].kind in "fiu":
                counts = checked_counts(read("counts"), f"{path}#counts", num_rows)[:rows]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from None
    return Table(vectors, words, counts, path.stem if len(shapes) == 1 else f"{path.stem}#{table}")


def _array(
    files: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    path: Path,
    head: tuple[tuple[int, ...], bool, np.dtype, int],
    max_unpacked: int | None,
) -> np.ndarray:
    shape, in_columns, dtype, start = head
    needed = math.prod(shape) * dtype.itemsize
    if needed > info.file_size:
        raise damaged(path, ValueError(f"{info.filename}: {dtype} of shape {shape} takes {needed:,} bytes"))
    with inside(files, info, path) as packed:
        stream = limited(packed, path, info.compress_size, max_unpacked)
        stream.read(start)
        data = bytearray()
        while len(data) < needed and (part := stream.read(min(1 << 24, needed - len(data)))):
            data += part
    if len(data) < needed:
        raise damaged(path, ValueError(f"{info.filename} ends after {len(data):,} of {needed:,} bytes"))
    if not needed:
        return np.empty(shape if 0 in shape and math.prod(size or 1 for size in shape) < 1 << 30 else 0, dtype)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if in_columns else "C")


def _words(array: np.ndarray, path: Path) -> Sequence[str]:
    if array.dtype.kind == "u":
        return Words.decode(array.tobytes())
    if array.dtype.kind == "S":
        return [word.decode("utf-8", "surrogateescape") for word in array.reshape(-1).tolist()]
    letters = np.frombuffer(array.tobytes(), np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
    if len(letters) and int(letters.max()) > sys.maxunicode:
        raise damaged(path, ValueError(f"{int(letters.max())} is no character"))
    return [str(word) for word in array.reshape(-1).tolist()]
