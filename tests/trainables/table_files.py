"""One table as every format has it, written by the libraries of the formats, or byte by byte."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet
import torch
from safetensors.torch import save_file

WORDS = ["the", "naïve", "cat", "1", "the"]  # one comes twice: ids are the user's
VECTORS = np.array([[0.5, -1.25], [3.1415927, 1e-7], [-0.0, 2.5], [1e30, 7.0], [8.0, 9.0]], dtype=np.float32)


def npy(path: Path) -> str:
    np.save(path / "t.npy", VECTORS)
    (path / "t.words").write_text("".join(f"{word}\n" for word in WORDS))
    return "t.npy"


def npz(path: Path) -> str:
    np.savez_compressed(path / "t.npz", vectors=np.asfortranarray(VECTORS), words=np.array(WORDS), more=np.zeros(3))
    return "t.npz"


def text(path: Path) -> str:
    rows = [f"{word} {' '.join(str(value) for value in row)}\n" for word, row in zip(WORDS, VECTORS, strict=True)]
    (path / "t.txt").write_text("".join(rows))
    (path / "t.vec.gz").write_bytes(gzip.compress(f"5 2\n{''.join(rows)}".encode()))
    return "t.txt"


def word2vec_text(path: Path) -> str:
    text(path)
    return "t.vec.gz"


def word2vec(path: Path) -> str:
    rows = [word.encode() + b" " + row.tobytes() + b"\n" for word, row in zip(WORDS, VECTORS, strict=True)]
    (path / "t.bin").write_bytes(b"5 2\n" + b"".join(rows))
    return "t.bin"


def state_dict(path: Path) -> str:
    torch.save({"model": {"embed.weight": torch.from_numpy(VECTORS)}, "words": WORDS, "epoch": 3}, path / "t.pt")
    return "t.pt"


def tensor(path: Path) -> str:
    torch.save(torch.from_numpy(VECTORS), path / "t.pth")
    return "t.pth"


def embedding(path: Path) -> str:
    torch.save(torch.nn.Embedding.from_pretrained(torch.from_numpy(VECTORS)), path / "t.pt")
    return "t.pt"


def _in_columns() -> pa.Table:
    columns = {"word": WORDS, "count": [5, 4, 3, 2, 1]}
    return pa.table({**columns, **{f"d{at}": VECTORS[:, at] for at in range(2)}})


def parquet_columns(path: Path) -> str:
    pyarrow.parquet.write_table(_in_columns(), path / "t.parquet", row_group_size=2)
    return "t.parquet"


def parquet_lists(path: Path) -> str:
    table = pa.table({"id": range(5), "embedding": VECTORS.tolist(), "token": WORDS})
    table = table.set_column(1, "embedding", table["embedding"].cast(pa.list_(pa.float32())))
    pyarrow.parquet.write_table(table, path / "t.parquet", row_group_size=2)
    return "t.parquet"


def feather(path: Path) -> str:
    pyarrow.feather.write_feather(_in_columns(), path / "t.feather", compression="zstd")
    return "t.feather"


def arrow(path: Path) -> str:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.reshape(-1)), 2)
    table = pa.table({"vector": lists, "word": pa.array(WORDS).dictionary_encode()})
    with pa.OSFile(str(path / "t.arrow"), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return "t.arrow"


def comma(path: Path) -> str:
    pyarrow.csv.write_csv(_in_columns(), path / "t.csv")
    return "t.csv"


def tabs(path: Path) -> str:
    rows = [f"{word}\t{row[0]}\t{row[1]}\n" for word, row in zip(WORDS, VECTORS, strict=True)]
    (path / "t.tsv.gz").write_bytes(gzip.compress(("word\t0\t1\n" + "".join(rows)).encode()))
    return "t.tsv.gz"


class _Pickled:
    """Something to pickle under a name of gensim's."""


def kv(path: Path, beside: bool = False) -> str:
    module = types.ModuleType("gensim.models.keyedvectors")
    _Pickled.__module__, _Pickled.__qualname__, _Pickled.__name__ = module.__name__, "KeyedVectors", "KeyedVectors"
    module.KeyedVectors = _Pickled  # type: ignore[attr-defined]
    holder = _Pickled()
    holder.__dict__.update(
        {"vector_size": 2, "index_to_key": WORDS, "vectors": None if beside else VECTORS, "next_index": 5, "expandos": {}},
        __numpys=["vectors"] if beside else [],
    )
    names = ("gensim", "gensim.models", "gensim.models.keyedvectors")
    kept = {name: sys.modules.get(name) for name in names}
    sys.modules.update({name: module for name in names})
    try:
        (path / "t.kv").write_bytes(pickle.dumps(holder, protocol=4))
    finally:
        for name, one in kept.items():
            sys.modules.pop(name) if one is None else sys.modules.update({name: one})
    if beside:
        np.save(path / "t.kv.vectors.npy", VECTORS)
    return "t.kv"


def kv_beside(path: Path) -> str:
    return kv(path, beside=True)


def fasttext(path: Path, subwords: bool = False) -> str:
    """A model without subwords (maxn 0), whose vectors are its rows; with them, see the test of fastText."""
    shortest, longest, bucket = (2, 3, 7) if subwords else (0, 0, 0)
    data = struct.pack("<ii", 793712314, 12) + struct.pack("<12i", 2, 5, 5, 1, 5, 1, 2, 2, bucket, shortest, longest, 100)
    data += struct.pack("<d", 1e-4) + struct.pack("<3i2q", 5, 5, 0, 15, -1)
    data += b"".join(word.encode() + b"\0" + struct.pack("<qb", 9 - row, 0) for row, word in enumerate(WORDS))
    rows = np.concatenate([VECTORS, np.arange(14, dtype=np.float32).reshape(7, 2)]) if subwords else VECTORS
    data += b"\0" + struct.pack("<qq", *rows.shape) + rows.tobytes()
    (path / "t.bin").write_bytes(data + b"\0" + struct.pack("<qq", 5, 2) + bytes(40))
    return "t.bin"


def safetensors(path: Path) -> str:
    coded = torch.tensor(list("\n".join(WORDS).encode()), dtype=torch.uint8)
    save_file({"emb": torch.from_numpy(VECTORS), "words": coded}, path / "t.safetensors")
    return "t.safetensors"


def shards(path: Path) -> str:
    save_file({"model.embed_tokens.weight": torch.from_numpy(VECTORS), "bias": torch.zeros(2)}, path / "m-1.safetensors")
    save_file({"lm_head.weight": torch.zeros(5, 2)}, path / "m-2.safetensors")
    places = {"model.embed_tokens.weight": "m-1.safetensors", "bias": "m-1.safetensors", "lm_head.weight": "m-2.safetensors"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return "model.safetensors.index.json"


def _folder(path: Path, name: str) -> Path:
    (path / name).mkdir(exist_ok=True, parents=True)
    return path / name


# A vocabulary maps a token to one row, so that a word that comes twice can be in none but vocab.txt.
ONCE = [*WORDS[:4], "the\\n"]


def hugging_face(path: Path) -> str:
    folder = _folder(path, "bert")
    tensors = {"embeddings.word_embeddings.weight": VECTORS, "embeddings.position_embeddings.weight": VECTORS[:3]}
    save_file({name: torch.from_numpy(part.copy()) for name, part in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
    return "bert"


def hugging_face_shards(path: Path) -> str:
    folder = _folder(path, "llama")
    shards(folder)
    tokens = {word.replace("\\n", "\n"): row for row, word in enumerate(ONCE)}
    added = [{"id": 3, "content": "1"}]
    tokens.pop("1")
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": tokens}, "added_tokens": added}))
    return "llama"


def hugging_face_checkpoint(path: Path) -> str:
    folder = _folder(path, "gpt2")
    tensors = {"wte.weight": torch.from_numpy(VECTORS), "wpe.weight": torch.zeros(3, 2)}
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "vocab.json").write_text(json.dumps({word.replace("\\n", "\n"): row for row, word in enumerate(ONCE)}))
    return "gpt2"


def model2vec(path: Path) -> str:
    folder = _folder(path, "potion")
    save_file({"embeddings": torch.from_numpy(VECTORS)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec"}))
    _unigram(folder)
    return "potion"


def _unigram(folder: Path) -> None:
    pairs = [[word.replace("\\n", "\n"), -1.0] for word in ONCE]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram", "vocab": pairs}, "added_tokens": []}))


def static_embedding(path: Path) -> str:
    folder = _folder(path, "static/0_StaticEmbedding")
    save_file({"embedding.weight": torch.from_numpy(VECTORS)}, folder / "model.safetensors")
    _unigram(folder)
    modules = [{"idx": 0, "name": "0", "path": "0_StaticEmbedding", "type": "sentence_transformers.models.StaticEmbedding"}]
    (folder.parent / "modules.json").write_text(json.dumps(modules))
    return "static"


def zipped(path: Path) -> str:
    with zipfile.ZipFile(path / "t.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        text(path)
        archive.write(path / "t.txt", "t.txt")
    return "t.zip"


ALL_WORDS: dict[Callable[[Path], str], list[str] | None] = {
    **dict.fromkeys(
        [
            npy,
            npz,
            text,
            word2vec_text,
            word2vec,
            state_dict,
            parquet_columns,
            parquet_lists,
            feather,
            arrow,
            comma,
            tabs,
            kv,
        ]
        + [kv_beside, fasttext, safetensors, hugging_face, zipped],
        WORDS,
    ),
    **dict.fromkeys([tensor, embedding, shards]),
    **dict.fromkeys([hugging_face_shards, hugging_face_checkpoint, model2vec, static_embedding], ONCE),
}


def archive_of(members: dict[str, bytes]) -> bytes:
    store = io.BytesIO()
    with zipfile.ZipFile(store, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return store.getvalue()
