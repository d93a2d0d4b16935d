"""Models as folders: model2vec, Sentence Transformers' ``StaticEmbedding``, staticvectors.

Shapes: N rows, D columns, M blocks of columns, K codewords of a block.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from quantizers.base import Quantizer
from quantizers.errors import InputError
from quantizers.files import part_path
from quantizers.methods.dpq import DPQ
from quantizers.methods.pq import PQ
from quantizers.table import Table
from trainables.tables.writers.tokenizer import word_tokenizer

_TYPES = "sentence_transformers.models."
_MODEL2VEC = ("config.json", "model.safetensors", "modules.json", "tokenizer.json")
_SENTENCE = ("0_StaticEmbedding/model.safetensors", "0_StaticEmbedding/tokenizer.json")
_STATICVECTORS = ("config.json", "model.safetensors", "vocab.json")
# All files of a folder of each format.
FILES: Mapping[str, tuple[str, ...]] = {
    "model2vec": _MODEL2VEC,
    "sentence-transformers": ("config_sentence_transformers.json", "modules.json", *_SENTENCE),
    "staticvectors": _STATICVECTORS,
}


def write_model2vec(table: Table, folder: Path) -> None:
    """Write a folder that model2vec's ``StaticModel.from_pretrained`` loads, and ``SentenceTransformer`` too.

    Raises:
        InputError: a word cannot be written, the folder holds other files, or it cannot be written.
    """
    tokenizer, vectors = _with_unknown(table)
    with _replacing(folder, "model2vec") as place:
        (place / "model.safetensors").write_bytes(save({"embeddings": vectors}))
        _json(place / "tokenizer.json", tokenizer)
        _json(place / "config.json", {"normalize": False, "embedding_dtype": "float32"})
        _json(place / "modules.json", [{"idx": 0, "name": "0", "path": ".", "type": f"{_TYPES}StaticEmbedding"}])


def write_sentence_transformers(table: Table, folder: Path) -> None:
    """Write a folder that ``SentenceTransformer`` loads: one ``StaticEmbedding``, the mean of a text's words.

    Raises:
        InputError: as :func:`write_model2vec`.
    """
    tokenizer, vectors = _with_unknown(table)
    module = {"idx": 0, "name": "0", "path": "0_StaticEmbedding", "type": f"{_TYPES}StaticEmbedding"}
    with _replacing(folder, "sentence-transformers") as place:
        (place / "0_StaticEmbedding").mkdir()
        (place / "0_StaticEmbedding/model.safetensors").write_bytes(save({"embedding.weight": vectors}))
        _json(place / "0_StaticEmbedding/tokenizer.json", tokenizer)
        _json(place / "modules.json", [module])
        _json(place / "config_sentence_transformers.json", {"model_type": "SentenceTransformer", "prompts": {}})


def write_staticvectors(table: Table, folder: Path) -> None:
    """Write a folder that ``StaticVectors`` loads.

    Raises:
        InputError: as :func:`write_model2vec`.
    """
    _staticvectors(table.words, table.shape, table.name, {"vectors": table.vectors.cpu().numpy()}, folder)


def product_codes(quantizer: Quantizer) -> dict[str, NDArray[Any]] | None:
    """Codes and codewords as staticvectors keeps them, which knows product quantization of blocks of one width.

    Returns:
        ``vectors``: (N, M) codes of 1 or 2 bytes, ``pq``: D / M and M, ``codewords``: (M, K, D / M), float32 where they are
        stored in int8; None for other methods and for blocks that differ in width.
    """
    dim = quantizer.embedding_dim
    if type(quantizer) not in (PQ, DPQ):
        return None
    assert isinstance(quantizer, (PQ, DPQ))
    count = quantizer.num_codes(quantizer.config, dim)
    if dim % count:
        return None
    stored = quantizer.state()["codebooks"]
    books = (stored if stored.is_floating_point() else quantizer.codebooks).cpu().numpy()
    kind = np.uint8 if len(books) <= 256 else np.uint16
    return {
        "vectors": quantizer.codes().cpu().numpy().astype(kind),
        "pq": np.array([dim // count, count]),
        "codewords": np.ascontiguousarray(books.reshape(len(books), count, dim // count).transpose(1, 0, 2)),
    }


def write_staticvectors_codes(quantizer: Quantizer, tensors: Mapping[str, NDArray[Any]], folder: Path) -> None:
    """Write a folder that ``StaticVectors`` loads, with the tensors of :func:`product_codes`.

    Raises:
        InputError: as :func:`write_model2vec`.
    """
    _staticvectors(quantizer.words, quantizer.shape, folder.name, tensors, folder)


def _staticvectors(words: Any, shape: tuple[int, int], name: str, tensors: Mapping[str, Any], folder: Path) -> None:
    tokens = {word: row for row, word in reversed(list(enumerate(words)))}
    about = {"model_type": "staticvectors", "storage": "safetensors", "format": "text", "source": name}
    with _replacing(folder, "staticvectors") as place:
        (place / "model.safetensors").write_bytes(save(dict(tensors)))
        _json(place / "config.json", {**about, "total": shape[0], "dim": shape[1]})
        _json(place / "vocab.json", {"tokens": tokens})


def _with_unknown(table: Table) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """The tokenizer, and the vectors, with a row of zeros for unknown words behind them where the table has none."""
    tokenizer, added = word_tokenizer(list(table.words or ()), table.name)
    return tokenizer, np.pad(table.vectors.cpu().numpy(), ((0, added), (0, 0)))


def _json(file: Path, content: Any) -> None:
    try:
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    except UnicodeEncodeError as error:
        word = error.object[max(0, error.start - 20) : error.end]
        raise InputError(f"{file.name}: holds words as text, and {word!r} is not valid UTF-8.") from None


@contextlib.contextmanager
def _replacing(folder: Path, kind: str) -> Iterator[Path]:
    """Where to write what becomes ``folder`` at the end of the block; an older model of the same format is replaced."""
    if folder.exists():
        found = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
        others = sorted(found - set(FILES[kind]))
        if others or not folder.is_dir():
            what = f"holds {others[0]}, which is no part of a {kind} model" if others else "is a file"
            raise InputError(f"{folder}: {what}; expected the path of a new folder.")
    part, old = part_path(folder), part_path(folder)
    try:
        part.mkdir()
        yield part
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot write the model: {error.strerror or error}.") from error
    finally:
        for rest in (part, old):
            shutil.rmtree(rest, ignore_errors=True)
