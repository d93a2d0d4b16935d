"""Binary tables: ``.npy`` with its words beside it, ``.safetensors``, and word2vec's ``.bin``.

Shapes: N rows, D columns.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from quantizers.errors import InputError, unknown_name
from quantizers.table import Table, decode_words, encode_words
from trainables.tables.text import keep_first

WORD_SUFFIXES = (".word", ".words", ".words.txt")
COUNTS_SUFFIX = ".counts.npy"
_BLOCK_BYTES = 1 << 24


def read_npy(path: Path, rows: int | None) -> Table:
    """``X.npy``: a (N, D) float array; words in ``X.word``, ``X.words`` or ``X.words.txt``, counts in ``X.counts.npy``."""
    array = _load_npy(path)
    if array.ndim != 2 or array.dtype.kind != "f":
        raise InputError(f"{path}: expected a two-dimensional array of floats, not {array.dtype} of shape {array.shape}.")
    vectors = torch.from_numpy(np.array(array[:rows], dtype=np.float32))
    words = None
    found = [place for suffix in WORD_SUFFIXES if (place := path.with_suffix(suffix)).is_file()]
    if len(found) > 1:
        raise InputError(f"{path}: words in {found[0].name} and in {found[1].name}: keep one of them.")
    if found:
        lines = decode_words(found[0].read_bytes().removesuffix(b"\n"))
        words = _words([line.removesuffix("\r") for line in lines], str(found[0]), len(array))
    counts_path, counts = path.with_suffix(COUNTS_SUFFIX), None
    if counts_path.is_file():
        counts = _counts(torch.from_numpy(np.array(_load_npy(counts_path))), str(counts_path), len(array))
    return Table(vectors, words and words[:rows], None if counts is None else counts[:rows], path.stem)


def read_safetensors(path: Path, name: str | None, rows: int | None) -> Table:
    """The two-dimensional float tensor ``name`` of a safetensors file (default: the only one there is).

    A uint8 tensor ``words`` (UTF-8, one a line) and a tensor ``counts`` go with a table of as many rows.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            slices = {key: handle.get_slice(key) for key in handle.keys()}
            tables = [key for key, part in slices.items() if len(part.get_shape()) == 2 and _is_float(part.get_dtype())]
            if name is None:
                if len(tables) != 1:
                    raise InputError(
                        f"{path}: {len(tables)} two-dimensional float tensors in it: {', '.join(tables) or 'none'}; "
                        f"name one: {path}#NAME."
                    )
                name = tables[0]
            elif name not in tables:
                raise unknown_name(f"two-dimensional float tensor of {path}", name, tables)
            num_rows = slices[name].get_shape()[0]
            vectors = slices[name][:rows].to(torch.float32)
            words, counts = None, None
            if "words" in slices and slices["words"].get_dtype() == "U8":
                words = decode_words(handle.get_tensor("words").numpy().tobytes())
                words = _words(words, f"{path}#words", num_rows)[:rows]
            if "counts" in slices:
                counts = _counts(handle.get_tensor("counts"), f"{path}#counts", num_rows)[:rows]
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a complete safetensors file ({error}).") from None
    return Table(vectors, words, counts, path.stem if len(tables) == 1 else f"{path.stem}#{name}")


def read_word2vec_bin(stream: IO[bytes], source: str, rows: int | None) -> tuple[np.ndarray, list[str]]:
    """word2vec's binary format: a line ``N D``, then each word, a space, and D little-endian float32."""
    header = stream.readline(64).split()
    if len(header) != 2 or not all(field.isdigit() for field in header) or not int(header[1]):
        raise InputError(f"{source}: not a word2vec binary file: expected its first line to be 'N D', two whole numbers.")
    promised, dim = int(header[0]), int(header[1])
    wanted = promised if rows is None else min(promised, rows)
    vectors = np.empty((0, dim), dtype=np.float32)
    words: list[bytes] = []
    rest = b""
    while len(words) < wanted and (chunk := stream.read(max(_BLOCK_BYTES, 8 * dim))):
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
        raise InputError(f"{source}: the header says {promised} rows, the file ends in row {len(words)}: it was cut off.")
    if wanted == promised and (rest + stream.read(64)).strip(b"\n"):
        raise InputError(f"{source}: more data than the {promised} rows of {dim} columns that the header says.")
    if not words:
        raise InputError(f"{source}: no table in it: the header says 0 rows.")
    decoded = [word.decode(errors="surrogateescape") for word in words]
    return keep_first(vectors, decoded, range(len(words)), source, "rows")


def write_npy(stream: IO[bytes], table: Table) -> None:
    """The vectors alone; words and counts are files of their own."""
    np.save(stream, table.vectors.cpu().numpy())


def write_safetensors(stream: IO[bytes], table: Table) -> None:
    """Tensors ``vectors``, and ``words`` and ``counts`` where the table has them."""
    tensors = {"vectors": table.vectors.cpu()}
    if table.words is not None:
        tensors["words"] = torch.from_numpy(np.frombuffer(encode_words(table.words), dtype=np.uint8).copy())
    if table.counts is not None:
        tensors["counts"] = table.counts.cpu()
    stream.write(safetensors_bytes(tensors))


def write_word2vec_bin(stream: IO[bytes], table: Table) -> None:
    """word2vec's binary format, with a line break after every vector, as word2vec itself writes it."""
    stream.write(f"{table.num_embeddings} {table.embedding_dim}\n".encode())
    for word, row in zip(table.words or (), table.vectors.cpu().numpy().astype("<f4", copy=False), strict=True):
        if " " in word or word.startswith("\n"):
            raise InputError(f"The word {word!r} cannot be written to a word2vec binary file: it ends at the first space.")
        stream.write(word.encode(errors="surrogateescape") + b" " + row.tobytes() + b"\n")


def _load_npy(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a complete .npy array of numbers ({error}).") from None
    return np.asarray(array)


def _is_float(dtype: str) -> bool:
    return dtype.startswith(("F", "BF"))


def _words(words: list[str], source: str, num_rows: int) -> list[str]:
    """``words`` if there is one a row, all different: row numbers mean something here, so none can be left out."""
    if len(words) != num_rows:
        raise InputError(f"{source}: {len(words)} words for {num_rows} rows.")
    if len(set(words)) != num_rows:
        seen: dict[str, int] = {}
        line, word = next((line, word) for line, word in enumerate(words, 1) if seen.setdefault(word, line) != line)
        raise InputError(f"{source}:{line}: the word {word!r} is in line {seen[word]} too.")
    return words


def _counts(counts: Tensor, source: str, num_rows: int) -> Tensor:
    if tuple(counts.shape) != (num_rows,):
        raise InputError(f"{source}: counts of shape {tuple(counts.shape)} for {num_rows} rows.")
    counts = counts.to(torch.float32)
    if not bool((torch.isfinite(counts) & (counts >= 0)).all()):
        raise InputError(f"{source}: counts must be finite and not negative.")
    return counts
