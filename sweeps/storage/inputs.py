"""Tables on ``s3://`` that a sweep reads: copies of them on this machine."""

from __future__ import annotations

from pathlib import Path

from quantizers.errors import InputError
from sweeps.storage import is_remote, open_storage, split
from trainables.tables.arrays import COUNTS_SUFFIX, WORD_SUFFIXES
from trainables.tables.readers.gensim import VECTORS_SUFFIX


def brought(spec: str) -> str:
    """``spec``, or, where it is a file on ``s3://``, a copy of it on this machine (and of the words and counts beside it).

    Raises:
        InputError: there is no such file.
    """
    if not is_remote(spec):
        return spec
    location, hash_mark, part = spec.partition("#")
    folder, name = split(location)
    storage = open_storage(folder)
    storage.local(name).unlink(missing_ok=True)  # of an earlier time: it may have changed since
    found = storage.fetch(name)
    if found is None:
        raise InputError(f"{location}: no such file.")
    if found.suffix == ".npy":
        for suffix in (*WORD_SUFFIXES, COUNTS_SUFFIX):
            beside = Path(name).with_suffix(suffix).name
            storage.local(beside).unlink(missing_ok=True)
            storage.fetch(beside)
    if found.suffix == ".kv":
        storage.local(name + VECTORS_SUFFIX).unlink(missing_ok=True)
        storage.fetch(name + VECTORS_SUFFIX)
    return str(found) + hash_mark + part
