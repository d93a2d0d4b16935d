"""Files of the driver that go along with the trials: task data, and tables on ``s3://``; no other node need have them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from quantizers.errors import InputError
from sweeps.storage import is_remote, open_storage, scratch, split
from trainables.array_tables import COUNTS_SUFFIX, WORD_SUFFIXES
from trainables.tasks.base import DownstreamTask


@dataclasses.dataclass(frozen=True)
class Carried:
    """Files by path below the data folder, and a digest of them: worked out once, not again for every trial."""

    files: Mapping[str, bytes]
    digest: str


def pack(tasks: Sequence[DownstreamTask], data_dir: Path | None) -> Carried:
    """The tasks' data files, for Ray's object store."""
    paths = {str(path.relative_to(data_dir)): path for task in tasks for path in task.data_files() if data_dir}
    files = {name: paths[name].read_bytes() for name in sorted(paths)}
    state = hashlib.blake2b(digest_size=8)
    for name, content in files.items():
        state.update(f"{name} {len(content)} ".encode())
        state.update(content)
    return Carried(files, state.hexdigest())


def unpack(carried: Carried) -> Path:
    """A folder on this node with these files in it, made once."""
    folder = scratch(f"data {carried.digest}")
    for name, content in carried.files.items():
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
