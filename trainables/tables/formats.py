"""Embedding tables in: from any file or the package, and between processes.

The formats have modules of their own; this one finds the file and chooses by the name's ending.
"""

from __future__ import annotations

import difflib
import io
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quantizers.coding.words import Words, encode_words
from quantizers.errors import InputError
from quantizers.table import Table
from trainables.tables import arrays as array_tables
from trainables.tables import builtin, tensors
from trainables.tables import text as text_tables
from trainables.tables.credentials import refuse_credentials
from trainables.tables.opening import opened
from trainables.tables.readers.checkpoint import read_checkpoint
from trainables.tables.readers.columns import read_arrow, read_parquet, read_separated
from trainables.tables.readers.fasttext import MAGIC, read_fasttext
from trainables.tables.readers.folder import read_folder
from trainables.tables.readers.gensim import read_kv
from trainables.tables.readers.npz import read_npz

# By ending; each takes a path, the part behind "#", the rows that are wanted, and the most bytes to unpack.
_READERS: Mapping[str, Callable[[Path, str | None, int | None, int | None], Table]] = {
    ".npy": lambda path, part, rows, limit: array_tables.read_npy(path, rows),
    ".npz": read_npz,
    ".safetensors": lambda path, part, rows, limit: tensors.read_safetensors(path, part, rows),
    tensors.INDEX_ENDING: lambda path, part, rows, limit: tensors.read_shards(path, part, rows),
    ".pt": lambda path, part, rows, limit: read_checkpoint(path, part, rows),
    ".pth": lambda path, part, rows, limit: read_checkpoint(path, part, rows),
    ".kv": lambda path, part, rows, limit: read_kv(path, rows),
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
}
_REFUSED = {
    ".pkl": "a pickle can run code and is not read. Save its array with numpy.save, or its tensor with torch.save.",
    ".pickle": "a pickle can run code and is not read. Save its array with numpy.save, or its tensor with torch.save.",
    ".model": "a whole model of gensim. Save its vectors: model.wv.save('X.kv').",
    ".ckpt": "a pickle of a training. In Python: torch.save(torch.load(FILE)['state_dict'], 'model.pt').",
    ".gguf": "not read. Take the model's safetensors, from which it was made.",
    ".onnx": "not read. Take the model's safetensors or its state_dict.",
    ".h5": "not read. Save its array with numpy.save.",
}


def read_table(
    spec: str, *, data_dir: Path | None = None, rows: int | None = None, max_unpacked: int | None = None
) -> Table:
    """Read an embedding table.

    Args:
        spec: ``builtin:NAME``, or a path: absolute, below the working directory, or below ``data_dir``.

            - ``X.npy``: words in ``X.word``, ``X.words`` or ``X.words.txt``, counts in ``X.counts.npy``, where they are;
            - ``X.npz``, ``X.safetensors``, ``X.safetensors.index.json`` (shards), ``X.pt``, ``X.pth``: an array or tensor;
              ``X.pt#tensor`` where it holds several and none is called as models call their tables;
            - ``X.parquet``, ``X.arrow``, ``X.feather``: a column of lists (``#column``) or a column a dimension;
            - ``X.bin``: word2vec's binary format, or fastText's;
            - ``X.kv``: gensim's KeyedVectors;
            - a folder: a Hugging Face model, a model2vec model, Sentence Transformers' ``StaticEmbedding``;
            - ``X.csv``, ``X.tsv``: with a header;
            - anything else: GloVe's or word2vec's text format.

            The last two and word2vec's also as ``.gz``, ``.xz`` or ``.zip`` (``X.zip#member`` where several are in it).
        data_dir: where tables are looked for too.
        rows: read the first rows only (at most as many as there are).
        max_unpacked: the most bytes that a compressed file may unpack to. By default 30 times its size, or 16 MiB where
            that is more.

    Raises:
        InputError: no such table, or it is not what it says it is; the message gives file and line.
    """
    if rows is not None and rows < 1:
        raise InputError(f"rows must be at least 1, not {rows}.")
    rows = None if rows is None else min(rows, sys.maxsize)
    refuse_credentials("the table", spec)
    if spec.startswith("builtin:"):
        return builtin.read(spec.removeprefix("builtin:"), rows=rows)
    path, part = _find(spec, data_dir)
    try:
        return _read(path, part, rows, max_unpacked)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from None
    except MemoryError:
        raise InputError(
            f"{path}: needs more memory than is available; its first rows may fit (--rows, or rows in a sweep)."
        ) from None


def _read(path: Path, part: str | None, rows: int | None, max_unpacked: int | None) -> Table:
    if path.is_dir():
        return read_folder(path, part, rows)
    read_whole = _READERS.get(tensors.INDEX_ENDING if path.name.endswith(tensors.INDEX_ENDING) else path.suffix)
    if read_whole is not None:
        return read_whole(path, part, rows, max_unpacked)
    if path.suffix in _REFUSED:
        raise InputError(f"{path}: {_REFUSED[path.suffix]}")
    with opened(path, part, max_unpacked) as (stream, name):
        title = Path(name).stem
        if name.endswith((".csv", ".tsv")):
            return read_separated(stream, str(path), rows, "," if name.endswith(".csv") else "\t", title)
        if name.endswith(".bin"):
            start = stream.peek(4)[:4] if isinstance(stream, io.BufferedReader) else b""
            if start == MAGIC:
                if path.suffix != ".bin":
                    raise InputError(f"{path}: a compressed fastText model: unpack it first.")
                return read_fasttext(path, rows)
            if start == b"PK\x03\x04":
                return read_checkpoint(path, part, rows)
            vectors, words = array_tables.read_word2vec_bin(stream, str(path), rows)
        else:
            vectors, words = text_tables.read_text(stream, str(path), rows)
    return Table(torch.from_numpy(vectors), words, name=title)


def to_shared(table: Table) -> dict[str, Any]:
    """A table as NumPy arrays and text, which Ray's object store hands to every process of a node without a copy.

    The digest goes along, so that nobody computes it again.
    """
    shared: dict[str, Any] = {"name": table.name, "digest": table.digest, "vectors": table.vectors.cpu().numpy()}
    if table.words is not None:
        shared["words"] = np.frombuffer(encode_words(table.words), dtype=np.uint8)
    if table.counts is not None:
        shared["counts"] = table.counts.cpu().numpy()
    return shared


def from_shared(shared: Mapping[str, Any]) -> Table:
    """Undo :func:`to_shared`. The vectors are a view of the shared array: they must not be written to."""
    words, counts = shared.get("words"), shared.get("counts")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        vectors = torch.from_numpy(shared["vectors"])
    table = Table(
        vectors,
        None if words is None else Words.decode(words.tobytes()),
        None if counts is None else torch.from_numpy(counts.copy()),
        shared["name"],
    )
    table.__dict__["digest"] = shared["digest"]  # where functools.cached_property looks
    return table


def _find(spec: str, data_dir: Path | None) -> tuple[Path, str | None]:
    """The file or folder, and what stands behind ``#`` (part of the name, where there is such a file)."""
    name, _, part = spec.rpartition("#")
    places = []
    for text, inner in ((spec, None), (name, part)):
        if not text:
            continue
        path = Path(text).expanduser()
        here = [path] if data_dir is None or path.is_absolute() else [path, data_dir / path]
        for place in (*filter(Path.is_file, here), *filter(Path.is_dir, here)):
            return place, inner
        places = here
    near = [difflib.get_close_matches(place.name, _listing(place.parent), n=1) for place in places]
    hint = next((f" Did you mean {names[0]!r}?" for names in near if names), "")
    raise InputError(f"No table {spec!r}.{hint} Looked for {' and '.join(str(place) for place in places)}.")


def _listing(folder: Path) -> list[str]:
    return [place.name for place in folder.iterdir()] if folder.is_dir() else []
