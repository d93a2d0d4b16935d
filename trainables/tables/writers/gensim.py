"""gensim's ``.kv``: a pickle of KeyedVectors, written without gensim.

The pickle names gensim's class and lists the attributes that ``KeyedVectors.save`` would; all is in one file.
"""

from __future__ import annotations

import pickle
from typing import IO, Any

import numpy as np

from quantizers.table import Table

_CLASS = b"gensim.models.keyedvectors\nKeyedVectors\n"


class _KeyedVectors:
    """Stands for gensim's class while its attributes are pickled."""


_InPython: Any = pickle._Pickler  # the one in C wants to import the class that it names


class _Pickler(_InPython):  # type: ignore[misc]
    def save_global(self, obj: Any, name: str | None = None) -> None:
        if obj is not _KeyedVectors:
            super().save_global(obj, name)
            return
        self.write(pickle.GLOBAL + _CLASS)
        self.memoize(obj)


def write_kv(stream: IO[bytes], table: Table) -> None:
    """Write words, vectors and counts. Of a word that comes twice gensim finds the first row, as everything here does.

    Args:
        stream: the file.
        table: a table with words.
    """
    words = list(table.words or ())
    model = _KeyedVectors()
    model.__dict__.update(
        {
            "vector_size": table.embedding_dim,
            "index_to_key": words,
            "next_index": len(words),
            "key_to_index": {word: row for row, word in reversed(list(enumerate(words)))},
            "vectors": table.vectors.cpu().numpy(),
            "norms": None,
            "expandos": {} if table.counts is None else {"count": table.counts.cpu().numpy().astype(np.int64)},
            "mapfile_path": None,
            **{f"__{name}": [] for name in ("numpys", "scipys", "ignoreds", "recursive_saveloads")},
        }
    )
    _Pickler(stream, protocol=4).dump(model)
