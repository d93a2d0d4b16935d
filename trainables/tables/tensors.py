"""Tables among named tensors: ``.safetensors``, alone or in shards with an index, and the choice of one tensor of several.

Shapes: N rows, D columns.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from quantizers.coding.words import Words, encode_words
from quantizers.errors import InputError, unknown_name
from quantizers.table import Table
from trainables.tables.arrays import checked_counts, checked_words

_LOG = logging.getLogger(__name__)
INDEX_ENDING = ".safetensors.index.json"
# safetensors' names of what torch turns into float32.
_FLOATS = ("F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64")
_NUMBERS = (*_FLOATS, "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64")
# How models call the table of their tokens: Llama and most after it, BERT, GPT-2, T5, model2vec, Sentence Transformers.
_GUESSES = ("embed_tokens", "word_embeddings", "wte", "shared", "embeddings", "embedding")
_SHOWN = 10
_OTHERS_SHOWN = 3
_SHOWN_LETTERS = 100
_MAX_INDEX_BYTES = 1 << 26


def choose(shapes: Mapping[str, Sequence[int]], name: str | None, source: str) -> str:
    """Which of the two-dimensional float tensors of a file is the table; what was chosen without being named is logged.

    Args:
        shapes: what the file holds, each (N, D).
        name: the one that is asked for; None for the only one there is, or the one that is called as models call theirs.
        source: the file or folder, as it is named to read it, for messages.

    Raises:
        InputError: there is none, or no way to tell which; the message lists ten at most.
    """
    if name is not None:
        if name not in shapes:
            raise unknown_name(f"two-dimensional float tensor of {source}", name, _largest(shapes))
        return name
    if len(shapes) == 1:
        return next(iter(shapes))
    for guess in _GUESSES:
        found = [key for key in shapes if guess in key.split(".")]
        if len(found) == 1:
            others = {key: shape for key, shape in shapes.items() if key != found[0]}
            more = ", ..." if len(others) > _OTHERS_SHOWN else ""
            _say_once(
                f"{source}: of {len(shapes)} two-dimensional float tensors this one is read: {_sized(found, shapes)}. "
                f"To read another: {source}#NAME ({_sized(_largest(others)[:_OTHERS_SHOWN], shapes)}{more})."
            )
            return found[0]
    listed = _sized(_largest(shapes), shapes)
    more = f", and {len(shapes) - _SHOWN} more" if len(shapes) > _SHOWN else ""
    if not shapes:
        raise InputError(f"{source}: no two-dimensional float tensor in it, so nothing that can be a table.")
    raise InputError(
        f"{source}: it has {len(shapes)} two-dimensional float tensors: {listed}{more}; name one: {source}#NAME."
    )


@functools.cache  # a sweep looks at its table more than once
def _say_once(message: str) -> None:
    _LOG.warning("%s", message)


def _sized(names: Sequence[str], shapes: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{name[:_SHOWN_LETTERS]} {shapes[name][0]} x {shapes[name][1]}" for name in names)


def _largest(shapes: Mapping[str, Sequence[int]]) -> list[str]:
    return sorted(shapes, key=lambda key: (-shapes[key][0] * shapes[key][1], key))[:_SHOWN]


def read_safetensors(path: Path, name: str | None, rows: int | None, source: str | None = None) -> Table:
    """The two-dimensional float tensor ``name`` of a safetensors file; without a name, what :func:`choose` takes.

    ``source`` is what is read, where that is not the file itself: the model's folder.

    A uint8 tensor ``words`` (UTF-8, one a line) and a tensor ``counts`` go with a table of as many rows.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            slices = {key: handle.get_slice(key) for key in handle.keys()}
            shapes = _tables(slices, path)
            name = choose(shapes, name, source or str(path))
            num_rows = shapes[name][0]
            vectors = _float32(slices[name], rows)
            words: Sequence[str] | None = None
            counts = None
            if "words" in slices and slices["words"].get_dtype() == "U8":
                words = Words.decode(handle.get_tensor("words").numpy().tobytes())
                words = checked_words(words, f"{path}#words", num_rows)[:rows]
            if "counts" in slices and slices["counts"].get_dtype() in _NUMBERS:
                counts = checked_counts(handle.get_tensor("counts").to(torch.float32).numpy(), f"{path}#counts", num_rows)
                counts = counts[:rows]
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a complete safetensors file ({error}).") from None
    return Table(vectors, words, counts, path.stem if len(shapes) == 1 else f"{path.stem}#{name}")


def read_shards(path: Path, name: str | None, rows: int | None, source: str | None = None) -> Table:
    """A tensor of a model in several safetensors files, by their index ``X.safetensors.index.json``.

    ``source`` is as in :func:`read_safetensors`.
    """
    try:
        if path.stat().st_size > _MAX_INDEX_BYTES:
            raise InputError(f"{path}: larger than {_MAX_INDEX_BYTES >> 20} MiB: not the index of safetensors files.")
        places = json.loads(path.read_bytes())["weight_map"]
        if not all(isinstance(place, str) for place in places.values()):
            raise TypeError("a tensor is in no file")
        files = set(places.values())
    except InputError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not the index of safetensors files ({type(error).__name__}: {error}).") from None
    if any(Path(file).name != file for file in files):
        raise InputError(f"{path}: names files outside its own folder.")
    shapes: dict[str, tuple[int, int]] = {}
    for file in sorted(files):
        if (path.parent / file).is_file():
            shapes.update(_shapes_of(path.parent / file))
        else:  # of models too large to fetch whole, one file may be all that is wanted; its own tensors can be asked for
            shapes.update({key: (0, 0) for key, place in places.items() if place == file})
    complete = {key: shape for key, shape in shapes.items() if shape != (0, 0)}
    # What lies in a missing file has no shape to be told apart by: it counts where it is named, or called like a table.
    missing = [key for key, shape in shapes.items() if shape == (0, 0) and any(part in _GUESSES for part in key.split("."))]
    if name in shapes and name not in complete or (name is None and missing):
        wanted = name or missing[0]
        raise InputError(
            f"{path.parent / places[wanted]}: no such file; the index says that {wanted} is in it: fetch it too."
        )
    name = choose(complete, name, source or str(path))
    shard = path.parent / places.get(name, "")
    table = read_safetensors(shard, name, rows)
    return Table(table.vectors, None, None, f"{path.name.removesuffix(INDEX_ENDING)}#{name}")


def write_safetensors(stream: IO[bytes], table: Table) -> None:
    """Tensors ``vectors``, and ``words`` and ``counts`` where the table has them."""
    tensors = {"vectors": table.vectors.cpu()}
    if table.words is not None:
        tensors["words"] = torch.from_numpy(np.frombuffer(encode_words(table.words), dtype=np.uint8).copy())
    if table.counts is not None:
        tensors["counts"] = table.counts.cpu()
    stream.write(safetensors_bytes(tensors))


def _shapes_of(path: Path) -> dict[str, tuple[int, int]]:
    try:
        with safe_open(path, framework="pt") as handle:
            return _tables({key: handle.get_slice(key) for key in handle.keys()}, path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a complete safetensors file ({error}).") from None


def _tables(slices: Mapping[str, Any], path: Path) -> dict[str, tuple[int, int]]:
    """Shapes of the tensors that can be tables."""
    flat = {key: part for key, part in slices.items() if len(part.get_shape()) == 2}
    found = {key: part for key, part in flat.items() if part.get_dtype() in _FLOATS and 0 not in part.get_shape()}
    if flat and not found:
        kinds = ", ".join(sorted({part.get_dtype() for part in flat.values()}))
        raise InputError(
            f"{path}: its two-dimensional tensors are {kinds}; expected F16, BF16, F32 or F64: convert them first."
        )
    return {key: (part.get_shape()[0], part.get_shape()[1]) for key, part in found.items()}


def _float32(part: Any, rows: int | None) -> Tensor:
    vectors: Tensor = part[: min(rows, part.get_shape()[0])] if rows is not None else part[:]
    return vectors.to(torch.float32)
