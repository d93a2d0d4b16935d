"""Files of the driver that go along with the trials: task data, and tables on ``s3://``; no other node need have them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from quantizers.files import write_bytes
from sweeps.storage import scratch
from trainables.task import DownstreamTask


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
            write_bytes(path, content)
    return folder
