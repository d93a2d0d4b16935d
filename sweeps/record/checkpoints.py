"""Checkpoints of a trial on its run's storage: ``checkpoints/<trial key>.<training>``, until the trial has ended well."""

from __future__ import annotations

import contextlib
import hashlib
import io
from typing import Any

import torch

from quantizers.fitting.checkpoint import Saver
from sweeps.storage import Storage
from sweeps.storage.layout import CHECKPOINTS

SECONDS = 30.0  # between two checkpoints of a trial: what a lost worker costs at the most
FOLDER = CHECKPOINTS
_DIGEST_BYTES = 16


class Checkpoints(Saver):
    """The checkpoints of one trial.

    Args:
        files: the run's storage.
        key: the trial's.
        seconds: see :class:`~quantizers.fitting.checkpoint.Saver`.
    """

    def __init__(self, files: Storage, key: str, seconds: float | None = None) -> None:
        super().__init__(SECONDS if seconds is None else seconds)
        self._files, self._key = files, key
        self._there: set[str] = set()

    def _file(self, name: str) -> str:
        return f"{FOLDER}/{self._key}.{name}"

    def load(self, name: str) -> dict[str, Any] | None:
        """See :class:`~quantizers.fitting.checkpoint.Saver`. What cannot be read is as good as not there."""
        with contextlib.suppress(Exception):
            content = self._files.read(self._file(name))
            if content is None:
                return None
            self._there.add(self._file(name))
            # torch does not notice a byte that has changed.
            if content[:_DIGEST_BYTES] == _digest(content[_DIGEST_BYTES:]):
                found: dict[str, Any] = torch.load(
                    io.BytesIO(content[_DIGEST_BYTES:]), map_location="cpu", weights_only=True
                )
                return found
        return None

    def save(self, name: str, state: dict[str, Any]) -> None:
        """See :class:`~quantizers.fitting.checkpoint.Saver`. A full storage or memory fails no trial."""
        with contextlib.suppress(Exception):
            stream = io.BytesIO()
            torch.save(state, stream)
            content = stream.getvalue()
            self._there.add(self._file(name))
            self._files.write(self._file(name), _digest(content) + content)

    def delete(self) -> None:
        """Delete those that this run of the trial has made or found."""
        with contextlib.suppress(Exception):  # the sweep's end deletes what is left
            for name in self._there:
                self._files.delete(name)


def delete_all(files: Storage) -> None:
    """Delete the checkpoints of all trials: of those that were stopped, that failed, or that another trial spared."""
    for name in files.names(FOLDER):
        files.delete(f"{FOLDER}/{name}")


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
