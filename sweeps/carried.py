"""Files of the driver that go along with the trials: task data, and tables on ``s3://``; no other node need have them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from quantizers.errors import InputError
from sweeps.storage import is_remote, open_storage, scratch, split
from trainables.array_tables import COUNTS_SUFFIX, WORD_SUFFIXES
from trainables.tasks.base import DownstreamTask


def pack(tasks: Sequence[DownstreamTask], data_dir: Path | None) -> dict[str, bytes]:
    """The tasks' data files by path below ``data_dir``, for Ray's object store."""
    return {str(path.relative_to(data_dir)): path.read_bytes() for task in tasks for path in task.data_files() if data_dir}


def unpack(files: Mapping[str, bytes]) -> Path:
    """A folder on this node with ``files`` in it, made once."""
    state = hashlib.blake2b(digest_size=8)
    for name in sorted(files):
        state.update(f"{name} {len(files[name])} ".encode())
        state.update(files[name])
    folder = scratch(f"data {state.hexdigest()}")
    for name, content in files.items():
        path = folder / name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.{os.getpid()}.part")
            part.write_bytes(content)
            part.replace(path)
    return folder


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
    return str(found) + hash_mark + part
