"""A compressed file, read and verified, and the table in it.

Shapes: N rows, D columns, B batch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, deserialize

from embedding_frontier_reader.bits import Floats, Ints
from embedding_frontier_reader.methods import METHODS, Rows

FORMAT_VERSION = 1
_KEY = "embedding_frontier"
_CHUNK_VALUES = 1 << 20
_MOST_COLUMNS = 1 << 20  # of a file whose bytes are fewer still
# Types by safetensors' names: as NumPy reads them (bfloat16 as uint16), and as the digest names them.
_TYPES = {
    "F32": ("<f4", "torch.float32"),
    "F16": ("<f2", "torch.float16"),
    "BF16": ("<u2", "torch.bfloat16"),
    "U8": ("u1", "torch.uint8"),
    "I8": ("i1", "torch.int8"),
    "I16": ("<i2", "torch.int16"),
    "I32": ("<i4", "torch.int32"),
    "I64": ("<i8", "torch.int64"),
}


class ReadError(ValueError):
    """A file is missing, truncated, altered, of another program, or of a newer format; the message says which."""


class CompressedTable:
    """A compressed embedding table: rows are rebuilt when they are asked for.

    Attributes:
        method: name of the method.
        config: its parameters.
        shape: (N, D).
        words: the words in row order, or None. Of a word that comes twice a look-up finds the first row.
        payload_bytes: bytes of everything that rebuilds the rows, apart from the words.
        digest: of header and tensors, 32 hexadecimal digits.
    """

    def __init__(
        self, header: Mapping[str, Any], rows: Rows, words: list[str] | None, payload_bytes: int, shape: tuple[int, int]
    ) -> None:
        self.method: str = header["method"]
        self.config: Mapping[str, Any] = header["config"]
        self.digest: str = header["digest"]
        self.shape, self.words, self.payload_bytes = shape, words, payload_bytes
        self._rows = rows
        self._row_of: dict[str, int] | None = None

    def __len__(self) -> int:
        """N."""
        return self.shape[0]

    def __repr__(self) -> str:
        return f"CompressedTable({self.method}, {self.shape[0]} x {self.shape[1]}, payload_bytes={self.payload_bytes})"

    def __contains__(self, word: object) -> bool:
        """Whether the table has the word."""
        return word in self._index

    def __iter__(self) -> Iterator[Floats]:
        """The rows, one after another."""
        for start in range(0, len(self), 1024):
            yield from self[start : start + 1024]

    @property
    def _index(self) -> dict[str, int]:
        if self._row_of is None:
            self._row_of = {word: row for row, word in reversed(list(enumerate(self.words or ())))}
        return self._row_of

    def row_of(self, word: str) -> int:
        """The number of the word's row.

        Raises:
            KeyError: the table has no such word, or no words.
        """
        if self.words is None:
            raise KeyError(f"the table has no words; rows can be read by number (wanted: {word!r})")
        if word not in self._index:
            raise KeyError(f"{word!r} is no word of the table")
        return self._index[word]

    @overload
    def __getitem__(self, key: str | int) -> Floats: ...
    @overload
    def __getitem__(self, key: slice | Sequence[str] | Sequence[int] | NDArray[Any]) -> Floats: ...
    def __getitem__(self, key: Any) -> Floats:
        """Rows: ``table["dog"]`` and ``table[3]`` are (D,); lists of either, slices and arrays of ids (...) are (..., D).

        Raises:
            KeyError: a word that the table does not have.
            IndexError: a row number that is negative or not below N.
            TypeError: neither words nor whole numbers.
        """
        if isinstance(key, str):
            return self.rows(self.row_of(key))
        if isinstance(key, slice):
            return self.rows(np.arange(*key.indices(len(self))))
        if isinstance(key, (list, tuple)) and key and all(isinstance(one, str) for one in key):
            return self.rows([self.row_of(word) for word in key])
        return self.rows(key)

    def rows(self, ids: ArrayLike) -> Floats:
        """Rows by number.

        Args:
            ids: whole numbers of any shape (...).

        Returns:
            (..., D) float32.

        Raises:
            IndexError: an id is negative or not below N.
            TypeError: the ids are not whole numbers.
            ReadError: a row's codes point to nothing, which a file that was altered, digest and all, may have.
        """
        array = np.asarray(ids)
        if array.size and array.dtype.kind not in "iu":
            raise TypeError(f"ids must be whole numbers, not {array.dtype}")
        flat: Ints = array.reshape(-1).astype(np.int64)
        if flat.size and (flat.min() < 0 or flat.max() >= len(self)):
            raise IndexError(f"ids must be in [0, {len(self)}); found {flat.min()} to {flat.max()}")
        out = np.empty((len(flat), self.shape[1]), dtype=np.float32)
        step = max(1, _CHUNK_VALUES // self.shape[1])
        for start in range(0, len(flat), step):
            try:
                out[start : start + step] = self._rows(flat[start : start + step])
            except IndexError as error:  # the ids are in the table, so that the codes are at fault
                raise ReadError(
                    f"a {self.method} table of shape {self.shape} whose codes point to nothing ({error})."
                ) from None
        return out.reshape(*array.shape, self.shape[1])

    def to_dense(self) -> Floats:
        """The whole table: (N, D) float32."""
        return self.rows(np.arange(len(self)))


def load(path: str | os.PathLike[str]) -> CompressedTable:
    """Read a compressed file and verify it.

    Raises:
        ReadError: not there, truncated, altered, not a file of embedding-frontier, of a newer format, or of a method that
            this reader does not know.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ReadError(f"{path}: cannot be read: {error.strerror or error}.") from None
    header, tensors = _parsed(path, data)
    if header["format_version"] > FORMAT_VERSION:
        version = header["format_version"]
        raise ReadError(f"{path}: format {version} is newer than this reader knows ({FORMAT_VERSION}); update it.")
    if _digest(header, tensors) != header["digest"]:
        raise ReadError(f"{path}: the content does not match its digest: the file was altered or damaged.")
    method = METHODS.get(header["method"])
    if method is None:
        raise ReadError(f"{path}: made by {header['method']!r}; this reader knows {', '.join(METHODS)}.")
    shape = (int(header["num_embeddings"]), int(header["embedding_dim"]))
    if header["method"] != "cast" and any(kind == "torch.bfloat16" for _, kind in tensors.values()):
        raise ReadError(f"{path}: holds a tensor of type BF16, which no {header['method']} table has.")
    state = {name: array for name, (array, _) in tensors.items() if name != "words"}
    payload_bytes = sum(array.nbytes for array in state.values())
    if shape[1] > max(_MOST_COLUMNS, payload_bytes):
        raise ReadError(f"{path}: rows of {shape[1]} columns are not read from {payload_bytes} bytes.")
    if "words" in tensors and tensors["words"][0].dtype != np.uint8:
        raise ReadError(f"{path}: its words are {tensors['words'][0].dtype}, not uint8.")
    words = tensors["words"][0].tobytes().decode("utf-8", "surrogateescape").split("\n") if "words" in tensors else None
    if words is not None and len(words) != shape[0]:
        raise ReadError(f"{path}: {len(words)} words for {shape[0]} rows.")
    try:
        rows = method(state, header["config"], shape)
        if rows(np.array([0, shape[0] - 1])).shape != (2, shape[1]):
            raise ValueError("its rows have another length")
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError) as error:
        raise ReadError(f"{path}: what it holds is no {header['method']} table of {shape}: {error}.") from None
    return CompressedTable(header, rows, words, payload_bytes, shape)


def _parsed(path: Path, data: bytes) -> tuple[dict[str, Any], dict[str, tuple[NDArray[Any], str]]]:
    """The header, and every tensor with the name of its type as the digest has it."""
    try:
        found: Any = deserialize(data)  # type: ignore[no-untyped-call, unused-ignore]
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    except (SafetensorError, ValueError) as error:
        raise ReadError(f"{path}: not a complete safetensors file ({error}).") from None
    if _KEY not in metadata:
        raise ReadError(f"{path}: a safetensors file, but not a compressed table of embedding-frontier.")
    tensors = {}
    for name, tensor in found:
        if tensor["dtype"] not in _TYPES:
            raise ReadError(f"{path}: holds a tensor of type {tensor['dtype']}, which no compressed table has.")
        numpy_type, digest_type = _TYPES[tensor["dtype"]]
        tensors[name] = np.frombuffer(tensor["data"], dtype=numpy_type).reshape(tensor["shape"]), digest_type
    try:
        header = json.loads(metadata[_KEY])
        dict(header["config"]), str(header["digest"])
        if not isinstance(header["format_version"], int) or not isinstance(header["method"], str):
            raise TypeError("the version is a whole number, the method a name")
        if min(int(header["num_embeddings"]), int(header["embedding_dim"])) < 1:
            raise ValueError("a table has at least one row and one column")
        if max(int(header["num_embeddings"]), int(header["embedding_dim"])) >= 1 << 63:
            raise ValueError("a table has fewer than 2^63 rows and columns")
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise ReadError(f"{path}: the header is damaged ({error!r}).") from None
    return header, tensors


def _digest(header: Mapping[str, Any], tensors: Mapping[str, tuple[NDArray[Any], str]]) -> str:
    state = hashlib.blake2b(digest_size=16)
    state.update(json.dumps({k: v for k, v in header.items() if k != "digest"}, sort_keys=True).encode())
    for name in sorted(tensors):
        array, kind = tensors[name]
        state.update(f"{name}:{kind}:{tuple(array.shape)};".encode())
        state.update(array.tobytes())
    return state.hexdigest()
