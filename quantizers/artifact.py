"""The compressed file: one safetensors file with a versioned, checksummed header. Never pickle.

The file holds the state's tensors under their own names, the words (UTF-8, one a line) as the uint8 tensor ``words``, and
one metadata entry with method, configuration, shape and a digest of everything else. The same state gives the same
bytes: no time or machine is written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as safetensors_tensors
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from quantizers.base import Quantizer, StorageCost
from quantizers.coding.words import Words, encode_words
from quantizers.embedding import CompressedEmbedding
from quantizers.errors import ArtifactError, InputError
from quantizers.files import write_bytes
from quantizers.registry import get, list_methods, make_config

FORMAT_VERSION = 1
_KEY = "embedding_frontier"
_WORDS = "words"
# A row may be this wide in a file of any size. Methods that make rows of few values would else rebuild ones of any width.
_MOST_COLUMNS = 1 << 20


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A compressed file, read and verified."""

    quantizer: Quantizer
    header: Mapping[str, Any]
    storage: StorageCost
    vocab_bytes: int
    file_bytes: int

    @property
    def digest(self) -> str:
        """Digest of header and tensors (32 hexadecimal digits)."""
        return str(self.header["digest"])


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    state = hashlib.blake2b(digest_size=16)
    state.update(json.dumps({k: v for k, v in header.items() if k != "digest"}, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        state.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        if tensor.numel():
            state.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def save(quantizer: Quantizer, path: str | Path) -> int:
    """Write ``quantizer`` to ``path``, atomically.

    Returns:
        The file's size in bytes.

    Raises:
        InputError: the folder does not exist, there is no space, or a word holds a line break.
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in quantizer.state().items()}
    if _WORDS in tensors:
        raise ValueError(f"{quantizer.name}: no state tensor may be called {_WORDS!r}")
    if quantizer.words is not None:
        if len(quantizer.words) != quantizer.num_embeddings:
            raise InputError(f"{path}: {len(quantizer.words)} words for {quantizer.num_embeddings} rows.")
        tensors[_WORDS] = torch.from_numpy(np.frombuffer(encode_words(quantizer.words), dtype=np.uint8).copy())
    header: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "method": quantizer.name,
        "config": quantizer.config.model_dump(mode="json"),
        "num_embeddings": quantizer.num_embeddings,
        "embedding_dim": quantizer.embedding_dim,
    }
    header["digest"] = _digest(header, tensors)
    data = safetensors_bytes(tensors, metadata={_KEY: json.dumps(header, sort_keys=True)})
    write_bytes(path, data, "the compressed file")
    return len(data)


def read(path: str | Path) -> Artifact:
    """Read a compressed file and verify it.

    Raises:
        ArtifactError: not there, truncated, altered, not a file of this program, or of a newer format.
    """
    path = Path(path)
    try:
        # Read, not mapped: what happens to the file later must not change, or take away, the tensors.
        data = path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file.") from None
    except IsADirectoryError:
        raise ArtifactError(f"{path}: is a folder; expected a compressed file.") from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}.") from None
    try:
        tensors = safetensors_tensors(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    except (SafetensorError, ValueError, LookupError, RuntimeError, AssertionError) as error:
        raise ArtifactError(f"{path}: no compressed table: not a complete safetensors file ({error}).") from None
    if _KEY not in metadata:
        raise ArtifactError(f"{path}: a safetensors file, but not a compressed embedding table of this program.")
    try:
        header = json.loads(metadata[_KEY])
        version, method, digest = int(header["format_version"]), str(header["method"]), header["digest"]
        shape = (int(header["num_embeddings"]), int(header["embedding_dim"]))
        parameters = dict(header["config"])
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise ArtifactError(f"{path}: the header is damaged ({error!r}).") from None
    if version > FORMAT_VERSION:
        raise ArtifactError(f"{path}: format {version} is newer than this program reads ({FORMAT_VERSION}).")
    try:
        found = _digest(header, tensors)
    except (RuntimeError, ValueError, TypeError) as error:  # numbers of less than a byte, which no file of ours has
        raise ArtifactError(f"{path}: its tensors are of a kind that this program does not write ({error}).") from None
    if found != digest:
        raise ArtifactError(f"{path}: the content does not match its digest: the file was altered or damaged.")
    if method not in list_methods():
        raise ArtifactError(f"{path}: made by quantizer {method!r}, which is not installed here.")
    words_bytes = tensors.pop(_WORDS, None)
    try:
        _check_shape(shape, tensors)
        words = None
        if words_bytes is not None:
            if words_bytes.dtype != torch.uint8:
                raise InputError(f"its words are {words_bytes.dtype}, not {torch.uint8}")
            words = Words.decode(words_bytes.numpy().tobytes())
            if len(words) != shape[0]:
                raise InputError(f"{len(words)} words for {shape[0]} rows")
        quantizer = _rebuild(get(method), make_config(method, parameters), tensors, shape)
        quantizer.words = words
    except Exception as error:  # a method, also one of other people, may trip over wrong tensors in any way
        raise ArtifactError(f"{path}: what it holds is no {method} table of shape {shape}: {error}.") from error
    vocab_bytes = 0 if words_bytes is None else words_bytes.numel()
    return Artifact(quantizer, header, quantizer.measured_storage(), vocab_bytes, len(data))


def _check_shape(shape: tuple[int, int], tensors: Mapping[str, Tensor]) -> None:
    """Refuse what no table has, before anything is made that is as large."""
    if min(shape) < 1 or max(shape) >= 1 << 63:
        raise InputError("a table has at least one row and one column, and fewer than 2^63")
    stored = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if shape[1] > max(_MOST_COLUMNS, stored):
        raise InputError(f"rows of more than {_MOST_COLUMNS:,} columns are not read from {stored:,} bytes")


def _rebuild(cls: type[Quantizer], config: Any, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> Quantizer:
    """The quantizer that ``tensors`` are the state of; they are checked against what ``config`` says they must be."""
    unknown = sorted(set(tensors) - set(cls.state_roles))
    if unknown:
        raise InputError(f"the method has no tensors called {', '.join(unknown)}")
    quantizer = cls.from_state(config, tensors, shape=shape)
    expected, found = cls.storage(config, shape), quantizer.measured_storage()
    if found.payload_bytes > expected.payload_bytes or (expected.exact and found != expected):
        raise InputError(f"its tensors should take {expected}, and take {found}")
    quantizer.verify()
    with torch.no_grad():
        ends = quantizer.reconstruct(torch.tensor([0, shape[0] - 1]))
    if tuple(ends.shape) != (2, shape[1]) or ends.dtype != torch.float32:
        raise InputError(f"its rows come out as {tuple(ends.shape)} {ends.dtype}")
    return quantizer


def load(path: str | Path) -> CompressedEmbedding:
    """Read a compressed file as a drop-in module: ``e(ids)``, ``e.to_dense()``, ``e.words``, ``e.payload_bytes``.

    Raises:
        ArtifactError: see :func:`read`.
    """
    return read(path).quantizer.module()
