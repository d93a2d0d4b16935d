"""PyTorch's ``.pt`` and ``.pth``: a tensor, a ``state_dict`` or an ``nn.Embedding``. No code that a file carries is run.

Shapes: N rows, D columns.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantizers.errors import InputError
from quantizers.table import Table
from trainables.tables.arrays import checked_counts, checked_words
from trainables.tables.opening import archive
from trainables.tables.readers.npz import WORD_NAMES
from trainables.tables.tensors import choose

_DEPTH = 4  # of mappings within a checkpoint: {"model": {"state_dict": {...}}}
_ROW_NAMES = ("stoi", "vocab", "word2idx", "word_to_index", "token2id")  # mappings from a word to its row


def read_checkpoint(path: Path, name: str | None, rows: int | None, source: str | None = None) -> Table:
    """A table in a file of ``torch.save``: the tensor itself, or the one called ``name``, or the usual one.

    Words lie beside it as a list (``words``, ``vocab``, ``itos``), or as a mapping from words to rows (``stoi``, ``vocab``).
    ``source`` is what is read, where that is not the file itself: the model's folder.

    Raises:
        InputError: it holds objects of other classes, several tables, or none.
    """
    found = _load(path)
    tensors = dict(_tensors(found, "", _DEPTH))
    shapes = {key: (int(part.shape[0]), int(part.shape[1])) for key, part in tensors.items()}
    key = choose(shapes, name, source or str(path))
    chosen = tensors[key].detach()
    vectors = chosen[:rows].to(torch.float32, copy=True).contiguous()
    words, counts = _words(found, path, len(chosen)), None
    if isinstance(found, Mapping) and isinstance(found.get("counts"), Tensor) and _whole(found["counts"]):
        counts = checked_counts(found["counts"].detach().to(torch.float32).numpy(), f"{path}#counts", len(chosen))[:rows]
    return Table(vectors, words and words[:rows], counts, path.stem if len(tensors) == 1 else f"{path.stem}#{key}")


def _load(path: Path) -> Any:
    with path.open("rb") as stream:
        packed = stream.read(4) == b"PK\x03\x04"  # as PyTorch tells its two formats apart
    if packed:
        with archive(path) as files:
            if any(info.compress_type != zipfile.ZIP_STORED for info in files.infolist()):
                raise InputError(f"{path}: a compressed archive, not a file of torch.save; unpack it first.")
    try:
        # Reading an nn.Embedding sets its attributes and no more; it is never called.
        with torch.serialization.safe_globals([torch.nn.modules.sparse.Embedding]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=packed)
    except Exception as error:  # what a damaged pickle trips over can be anything
        known = re.search(r"GLOBAL ([\w.]+)", str(error))
        if known:
            raise InputError(
                f"{path}: holds an object of the class {known[1]}, and reading one can run code. In Python: "
                "torch.save(model.state_dict(), 'model.pt'), or its table alone: torch.save(embedding.weight, 'table.pt')."
            ) from None
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: not a complete file of torch.save ({reason}).") from None


def _tensors(found: Any, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    """Two-dimensional float tensors, by their dotted names."""
    if isinstance(found, torch.nn.Embedding):
        found = found.__dict__.get("_parameters", {})
    if isinstance(found, Tensor):
        if found.ndim == 2 and found.is_floating_point() and _whole(found):
            yield prefix or "tensor", found
    elif isinstance(found, Mapping) and depth:
        for key, inner in found.items():
            yield from _tensors(inner, f"{prefix}.{key}" if prefix else str(key), depth - 1)


def _whole(tensor: Tensor) -> bool:
    """Whether each of its numbers is in the file: one that is repeated by a stride of 0 could fill any memory."""
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.numel() > 0
    return plain and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _words(found: Any, path: Path, num_rows: int) -> Sequence[str] | None:
    if not isinstance(found, Mapping):
        return None
    for key in (*WORD_NAMES, *_ROW_NAMES):
        words = found.get(key)
        if isinstance(words, Mapping) and key in _ROW_NAMES and set(words.values()) == set(range(num_rows)):
            words = sorted(words, key=lambda word, places=words: places[word])  # type: ignore[misc]
        if isinstance(words, (list, tuple)) and words and all(isinstance(word, str) for word in words):
            return checked_words(list(words), f"{path}#{key}", num_rows)
    return None
