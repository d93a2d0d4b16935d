"""Where a run keeps its files: a folder, an ``s3://`` bucket, or a folder of the driver's node."""

from __future__ import annotations

from sweeps.storage.base import Storage, is_remote, join, split
from sweeps.storage.folder import Folder
from sweeps.storage.temporary import scratch
from trainables.tables.credentials import refuse_credentials

__all__ = ["Folder", "Storage", "is_remote", "join", "open_storage", "scratch", "split"]


def open_storage(location: str) -> Storage:
    """The storage at ``location``, as this process sees it.

    Raises:
        InputError: an ``s3://`` address that says nothing of a bucket, or has credentials in it.
    """
    if is_remote(location):
        refuse_credentials("s3", location)
        from sweeps.storage.s3 import Bucket

        return Bucket(location)
    return Folder(location)
