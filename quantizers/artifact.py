"""The compressed file: one safetensors file with a versioned, checksummed header. Never pickle.

The file holds the state's tensors under their own names, the words (UTF-8, one a line) as the uint8 tensor ``words``, and
one metadata entry with method, configuration, shape and a digest of everything else. The same state gives the same
bytes: no time or machine is written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from quantizers.base import Quantizer, StorageCost
from quantizers.embedding import CompressedEmbedding
from quantizers.errors import ArtifactError, InputError
from quantizers.registry import get, make_config, methods

FORMAT_VERSION = 1
_KEY = "embedding_frontier"
_WORDS = "words"


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


def _words_tensor(words: Any) -> Tensor:
    text = "\n".join(words)
    if text.count("\n") != len(words) - 1:
        raise InputError("A word holds a line break; words are stored one a line.")
    return torch.from_numpy(np.frombuffer(text.encode("utf-8", "surrogateescape"), dtype=np.uint8).copy())


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
        tensors[_WORDS] = _words_tensor(quantizer.words)
    header: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "method": quantizer.name,
        "config": quantizer.config.model_dump(mode="json"),
        "num_embeddings": quantizer.num_embeddings,
        "embedding_dim": quantizer.embedding_dim,
    }
    header["digest"] = _digest(header, tensors)
    data = safetensors_bytes(tensors, metadata={_KEY: json.dumps(header, sort_keys=True)})
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot write the compressed file: {error.strerror or error}.") from error
    return len(data)


def read(path: str | Path) -> Artifact:
    """Read a compressed file and verify it.

    Raises:
        ArtifactError: not there, truncated, altered, not a file of this program, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file.")
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path}: not a complete safetensors file ({error}).") from None
    if _KEY not in metadata:
        raise ArtifactError(f"{path}: a safetensors file, but not a compressed embedding table of this program.")
    try:
        header = json.loads(metadata[_KEY])
        version, method, digest = header["format_version"], header["method"], header["digest"]
        shape = (int(header["num_embeddings"]), int(header["embedding_dim"]))
        parameters = dict(header["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: the header is damaged ({error!r}).") from None
    if version > FORMAT_VERSION:
        raise ArtifactError(f"{path}: format {version} is newer than this program reads ({FORMAT_VERSION}).")
    if _digest(header, tensors) != digest:
        raise ArtifactError(f"{path}: the content does not match its digest: the file was altered or damaged.")
    if method not in methods():
        raise ArtifactError(f"{path}: made by quantizer {method!r}, which is not installed here.")
    words_bytes = tensors.pop(_WORDS, None)
    quantizer = get(method).from_state(make_config(method, parameters), tensors, shape=shape)
    if words_bytes is not None:
        quantizer.words = words_bytes.numpy().tobytes().decode("utf-8", "surrogateescape").split("\n")
    vocab_bytes = 0 if words_bytes is None else words_bytes.numel()
    return Artifact(quantizer, header, quantizer.measured_storage(), vocab_bytes, path.stat().st_size)


def load(path: str | Path) -> CompressedEmbedding:
    """Read a compressed file as a drop-in module: ``e(ids)``, ``e.to_dense()``, ``e.words``, ``e.payload_bytes``.

    Raises:
        ArtifactError: see :func:`read`.
    """
    return read(path).quantizer.module()
