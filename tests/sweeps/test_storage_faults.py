"""A storage that fails for a moment is waited for: it is not taken for empty."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantizers.errors import InputError
from sweeps.record.artifacts import fetch_copy
from sweeps.spec.config import build
from sweeps.storage import Folder, base
from sweeps.tune import worker
from trainables.trial import TrialResult


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(base.tenacity, "wait_exponential", lambda **_: base.tenacity.wait_none())
    storage = Folder(str(tmp_path))
    storage.write("results/a.json", b"content")
    return storage


def failing(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, code: int, times: int) -> list[int]:
    """Have ``owner.name`` fail so many times; the list that is returned has what is left of them."""
    true: Callable[..., Any] = getattr(owner, name)
    left = [times]

    def call(*arguments: Any, **options: Any) -> Any:
        if left[0] and str(arguments[0]).endswith(("results", "a.json")):
            left[0] -= 1
            raise OSError(code, os.strerror(code))
        return true(*arguments, **options)

    monkeypatch.setattr(owner, name, call)
    return left


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EACCES])
def test_an_error_of_the_mount_is_not_absence(folder: Folder, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    left = failing(monkeypatch, Path, "read_bytes", code, 2)
    assert folder.read("results/a.json") == b"content" and left == [0]
    for look in (folder.exists, folder.fetch, folder.version):
        left = failing(monkeypatch, Path, "stat", code, 2)
        assert look("results/a.json") and left == [0]
    left = failing(monkeypatch, os, "listdir", code, 2)
    assert folder.names("results") == ["a.json"] and left == [0]


def test_an_error_that_stays_is_raised(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "RETRY_SECONDS", 0.0)
    failing(monkeypatch, Path, "read_bytes", errno.ESTALE, 1_000_000)
    with pytest.raises(OSError, match="Stale"):
        folder.read("results/a.json")


def test_absence_is_told_at_once(folder: Folder) -> None:
    assert folder.read("results/b.json") is None and folder.read("results/a.json/below") is None
    assert not folder.exists("results/a.json/below") and folder.fetch("none/b") is None
    assert folder.version("b") is None and folder.names("none") == [] and folder.read("results") is None


def test_a_full_disk_is_said_at_once(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"a\.json: cannot write it: No space left"):
        folder.write("results/a.json", b"new")
    assert folder.read("results/a.json") == b"content" and folder.names("results") == ["a.json"]


def test_a_file_of_another_run_is_copied_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"file")
    config = build({"name": "n", "table": "t", "quantizers": ["pq"], "output": str(tmp_path), "keep_artifacts": "frontier"})
    known = TrialResult({"trial_key": "k"}, artifact=str(other))

    def half(_: Path, target: Path) -> None:
        Path(target).write_bytes(b"fi")
        raise OSError(errno.EIO, "half")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="half"):
        patch.setattr("shutil.copyfile", half)
        fetch_copy(known, "k", config)
    assert list((tmp_path / "n" / "artifacts").iterdir()) == []
    assert fetch_copy(known, "k", config)
    assert (tmp_path / "n" / "artifacts" / "k.safetensors").read_bytes() == b"file"
    assert not fetch_copy(TrialResult({"trial_key": "l"}, artifact=str(tmp_path / "gone")), "l", config)


def test_a_worker_waits_for_longer_than_a_driver_may_be_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker._UNHEARD_SECONDS >= base.RETRY_SECONDS + 60
    set_to: list[float] = []

    class Timer:
        def __init__(self, seconds: float, _: Any) -> None:
            set_to.append(seconds)

        def start(self) -> None: ...

        def cancel(self) -> None:
            set_to.append(0.0)

    monkeypatch.setattr(worker.threading, "Timer", Timer)
    monkeypatch.setattr("ray.tune.report", lambda message: None)
    worker._tell({"phase": "done"})
    assert set_to == [worker._UNHEARD_SECONDS, 0.0]
