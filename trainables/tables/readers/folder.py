"""Folders of models: Hugging Face, ``model2vec``, ``StaticEmbedding`` of Sentence Transformers, ``staticvectors``.

The table is the one of the model's tokens, the words are the tokenizer's vocabulary.

Shapes: N rows, D columns.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from quantizers.errors import InputError, counted
from quantizers.table import Table
from trainables.tables.readers.checkpoint import read_checkpoint
from trainables.tables.tensors import INDEX_ENDING, read_safetensors, read_shards
from trainables.tables.text import note_repeated

_LOG = logging.getLogger(__name__)
_WEIGHTS = ("model.safetensors", f"model{INDEX_ENDING}", "pytorch_model.bin")
_TOKENS = ("tokenizer.json", "vocab.txt", "vocab.json")
_MAX_JSON_BYTES = 1 << 28


def holds_model(path: Path) -> bool:
    """Whether a folder is that of a model, as :func:`read_folder` reads them."""
    return any((path / file).is_file() for file in (*_WEIGHTS, "modules.json"))


def read_folder(path: Path, name: str | None, rows: int | None) -> Table:
    """The table of a model's folder; ``name`` is the tensor, where none is called as models call theirs.

    Rows without a token (models pad their tables) are called ``[row N]``, a line break in a token becomes backslash and n.

    Raises:
        InputError: it is no such folder, or incomplete.
    """
    place = _module(path)
    weights = next((place / file for file in _WEIGHTS if (place / file).is_file()), None)
    if weights is None:
        if (place / "pytorch_model.bin.index.json").is_file():
            raise InputError(
                f"{path}: a model in shards of torch.save. In Python: AutoModel.from_pretrained({str(path)!r})"
                ".save_pretrained('model') writes safetensors, which are read."
            )
        others = sorted(file.name for file in place.glob("*.safetensors"))
        hint = f" To read one file in it: {place / others[0]}." if others else ""
        raise InputError(f"{path}: a folder without a model; expected {', '.join(_WEIGHTS)} in it.{hint}")
    if weights.name.endswith(INDEX_ENDING):
        table = read_shards(weights, name, rows, str(path))
    elif weights.suffix == ".bin":
        table = read_checkpoint(weights, name, rows, str(path))
    else:
        table = read_safetensors(weights, name, rows, str(path))
        if _config(place).get("model_type") == "model2vec" and name is None:
            table = _of_model2vec(weights, table, rows)
    words = (
        table.words
        if table.words is not None
        else _words(place if any((place / file).is_file() for file in _TOKENS) else path)
    )
    tensor = name or table.name.partition("#")[2]  # the reader's choice of several
    title = f"{path.resolve().name}{'#' + tensor if tensor else ''}"
    if words is None:
        return Table(table.vectors, None, table.counts, title)
    return Table(table.vectors, _fitted(list(words), table.num_embeddings, rows, path), table.counts, title)


def _module(path: Path) -> Path:
    """Where the weights are: Sentence Transformers keeps each of its modules in a folder."""
    if not (path / "modules.json").is_file():
        return path
    modules = _json(path / "modules.json")
    if not isinstance(modules, list):
        raise InputError(f"{path / 'modules.json'}: not a list of modules.")
    for module in modules:
        inside = str(module.get("path", "")) if isinstance(module, dict) else ""
        if Path(inside).is_absolute() or ".." in Path(inside).parts:
            raise InputError(f"{path / 'modules.json'}: names a folder outside its own: {inside}.")
        if any((path / inside / file).is_file() for file in _WEIGHTS):
            return path / inside
    return path


def _of_model2vec(weights: Path, table: Table, rows: int | None) -> Table:
    """model2vec may share a row between tokens (``mapping``) and scale each token (``weights``): as it looks them up."""
    tensors = load_file(weights)
    mapping, scales = tensors.get("mapping"), tensors.get("weights")
    if mapping is None and scales is None:
        return table
    vectors = tensors["embeddings"].to(torch.float32)
    try:
        vectors = vectors if mapping is None else vectors[mapping.to(torch.int64)]
        vectors = vectors if scales is None else vectors * scales.to(torch.float32).reshape(-1, 1)
    except (IndexError, RuntimeError) as error:
        raise InputError(f"{weights}: mapping or weights do not fit embeddings ({error}).") from None
    return dataclasses.replace(table, vectors=vectors[:rows], words=None, counts=None)


def _words(place: Path) -> list[str] | None:
    """The tokens by row, of the first file that has them; None where there is none."""
    file = next((place / name for name in _TOKENS if (place / name).is_file()), None)
    if file is None:
        return None
    if file.suffix == ".txt":
        lines = file.read_bytes().decode("utf-8", "surrogateescape").split("\n")
        return [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
    found = _json(file)
    try:
        if file.name == "vocab.json":
            inner = found.get("tokens")  # staticvectors has it so
            return _by_row(inner if isinstance(inner, Mapping) else found, file)
        vocabulary = found["model"]["vocab"]
        if isinstance(vocabulary, list):  # of Unigram: pairs of token and score
            vocabulary = {str(pair[0]): row for row, pair in enumerate(vocabulary)}
        added = {str(token["content"]): int(token["id"]) for token in found.get("added_tokens") or ()}
        return _by_row({**vocabulary, **added}, file)
    except InputError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise InputError(f"{file}: not a tokenizer's vocabulary ({type(error).__name__}: {error}).") from None


def _by_row(rows: Mapping[str, Any], file: Path) -> list[str]:
    highest = max(rows.values(), default=-1)
    if not all(type(row) is int and 0 <= row < 10 * len(rows) + 1000 for row in rows.values()):
        raise InputError(
            f"{file}: not a tokenizer's vocabulary: its rows are not whole numbers from 0, about as many as tokens."
        )
    words = [f"[row {row}]" for row in range(highest + 1)]
    for word, row in rows.items():
        words[row] = word
    return words


def _fitted(words: list[str], num_rows: int, rows: int | None, path: Path) -> list[str]:
    """One word a row."""
    if len(words) > num_rows and rows is None:
        _LOG.warning(
            "%s: %s for %s; the last %d have no row.",
            path,
            counted(len(words), "token"),
            counted(num_rows, "row"),
            len(words) - num_rows,
        )
    elif len(words) < num_rows:
        _LOG.warning(
            "%s: %s for %s; the others are called [row %d] and so on.",
            path,
            counted(len(words), "token"),
            counted(num_rows, "row"),
            len(words),
        )
    fitted = [word.replace("\n", "\\n") for word in words[:num_rows]]
    fitted += [f"[row {row}]" for row in range(len(fitted), num_rows)]
    note_repeated(fitted, range(num_rows), str(path), "rows")
    return fitted


def _config(place: Path) -> dict[str, Any]:
    found = _json(place / "config.json") if (place / "config.json").is_file() else {}
    return found if isinstance(found, dict) else {}


def _json(file: Path) -> Any:
    try:
        if file.stat().st_size > _MAX_JSON_BYTES:
            raise InputError(f"{file}: larger than {_MAX_JSON_BYTES >> 20} MiB; not read.")
        return json.loads(file.read_bytes())
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not valid JSON ({error}).") from None
