"""gensim's ``.kv``: a pickle of KeyedVectors, read without gensim and without running what a pickle can run.

Every class that the file names is replaced by a record of what it was given; numbers are taken from their bytes here. A file
that names anything else is refused.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from quantizers.errors import InputError
from quantizers.table import Table
from trainables.tables.arrays import as_vectors, checked_words, load_npy

VECTORS_SUFFIX = ".vectors.npy"
_MODULES = ("gensim.models.keyedvectors", "gensim.models.word2vec")
_FLOATS = ("f2", "f4", "f8")
_WORDS = ("index_to_key", "index2word", "index2entity")


def read_kv(path: Path, rows: int | None) -> Table:
    """Words and vectors of ``KeyedVectors.save``; large vectors lie beside it in ``X.kv.vectors.npy``.

    Raises:
        InputError: it is another object of gensim's, or damaged, or the file beside it is missing.
    """
    attributes = _unpickle(path)
    keys = next((found for name in _WORDS if isinstance(found := attributes.get(name), list)), None)
    beside = path.with_name(path.name + VECTORS_SUFFIX)
    if beside.is_file():
        array = load_npy(beside)
    elif isinstance(attributes.get("vectors"), np.ndarray):
        array = attributes["vectors"]
    elif "vectors" in attributes.get("__numpys", ()):
        raise InputError(f"{path}: its vectors are in {beside.name}, which is not beside it: copy it there.")
    else:
        raise _refused(path, "there are no vectors in it")
    if keys is None:
        raise _refused(path, "there are no words in it")
    words = checked_words([str(key) for key in keys], str(path), len(array) if array.ndim else 0)
    return Table(as_vectors(array, str(path), rows), words[:rows], None, path.stem)


def _unpickle(path: Path) -> dict[str, Any]:
    """The attributes of the one object in the file."""

    # These are made anew for every file: a pickle can set attributes of a class, too.
    class Record:
        pass

    class Kind:
        """A NumPy type: its name, and its byte order."""

        def __init__(self, name: str, *_: Any) -> None:
            self.name, self.order = name, "<"

        def __setstate__(self, state: tuple[Any, ...]) -> None:
            self.order = state[1]

    class Array:
        """A NumPy array: what NumPy itself would be told."""

        state: tuple[Any, ...] = ()

        def __setstate__(self, state: tuple[Any, ...]) -> None:
            self.state = state

    def array(*_: Any) -> Array:
        return Array()

    def array_of(data: Any, kind: Kind, shape: Any, order: str) -> Array:  # how pickles of protocol 5 write arrays
        found = Array()
        found.state = (1, shape, kind, order == "F", bytes(data))
        return found

    def encoded(text: str, _: str) -> bytes:  # how older pickles write bytes
        return text.encode("latin1")

    known: dict[str, Any] = {"numpy.ndarray": Array, "numpy.dtype": Kind, "_codecs.encode": encoded}
    known |= {"builtins.frozenset": frozenset, "__builtin__.frozenset": frozenset}
    known |= {f"{module}.numeric._frombuffer": array_of for module in ("numpy.core", "numpy._core")}
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        known |= {f"{module}._reconstruct": array, f"{module}.scalar": array}

    # In Python, not in C: there a place in the pickle's memory is an index, and one number can ask for gigabytes.
    class Restricted(pickle._Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if module in _MODULES:
                return Record
            if f"{module}.{name}" not in known:
                raise _refused(path, f"it names {module}.{name}")
            return known[f"{module}.{name}"]

    def numbers(found: Any) -> Any:
        if not isinstance(found, Array):
            return found
        _, shape, kind, in_columns, data = found.state
        if kind.name not in _FLOATS or kind.order not in "<>=" or not isinstance(data, bytes):
            return None
        flat = np.frombuffer(data, ("<" if kind.order == "=" else kind.order) + kind.name)
        return flat.reshape(tuple(int(size) for size in shape), order="F" if in_columns else "C")

    try:
        # From memory: a stream would make room for as many bytes as a damaged length says.
        found = Restricted(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        if not isinstance(found, Record):
            raise _refused(path, "it holds no KeyedVectors")
        return {str(name): numbers(value) for name, value in vars(found).items()}
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from None
    except Exception as error:  # a damaged pickle can fail in any way
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: not a complete file of gensim's KeyedVectors.save ({reason}).") from None


def _refused(path: Path, why: str) -> InputError:
    return InputError(
        f"{path}: not a file of gensim's KeyedVectors.save ({why}). With gensim: "
        f"KeyedVectors.load('{path.name}').save_word2vec_format('{path.stem}.bin', binary=True); of a whole model, model.wv."
    )
