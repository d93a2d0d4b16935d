"""The program's folder in the temporary directory: what processes that have ended used is cleared, all else stays."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantizers.errors import InputError
from sweeps.storage import scratch, temporary
from sweeps.storage.processes import is_gone, note
from sweeps.storage.temporary import leave, ray_folder


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # pytest's own is too long for sockets
        monkeypatch.setattr(tempfile, "tempdir", place)
        yield Path(place) / f"frontier-{os.getuid()}"


def ended() -> str:
    """The note of a process that has ended."""
    words = [sys.executable, "-c", "from sweeps.storage.processes import note; print(note())"]
    return subprocess.run(words, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]).stdout.strip()


def before_the_last_start() -> str:
    process, started, _boot, pids = note().split(" ", 3)
    return f"{process} {started} another-boot {pids}"


def left_by(base: Path, name: str, *notes: str) -> Path:
    folder = base / name
    folder.mkdir(parents=True)
    (folder / "copy").write_text("x")
    for number, left in enumerate(notes, start=100):
        (folder / f".used-by-{number}").write_text(left)
    return folder


def test_copies_go_with_the_last_process_that_used_them(base: Path) -> None:
    mine = scratch("s3://a/b")
    (mine / "copy").write_text("x")
    (mine / ".used-by-1").write_text(note())  # another process, at work
    assert scratch("s3://a/b") == mine and scratch("s3://a/c") != mine
    leave()
    assert [path.name for path in base.iterdir()] == [mine.name], "the other still uses one, and nobody the other"
    assert (scratch("s3://a/b") / "copy").is_file()
    (mine / ".used-by-1").unlink()
    leave()
    assert not base.exists()
    leave()
    assert not base.exists()


def test_what_killed_processes_used_is_cleared_by_the_next(base: Path) -> None:
    gone = ended()
    assert is_gone(gone) and not is_gone(note(), on_own_disk=True)
    killed = left_by(base, "killed", gone, before_the_last_start(), "no note")
    shared = left_by(base, "shared", gone, note())
    strange, old = left_by(base, "strange"), left_by(base, "old")
    os.utime(old, (time.time() - 90_000,) * 2)
    mine = scratch("s3://a/b")
    assert mine.is_dir() and shared.is_dir() and strange.is_dir()
    assert not killed.exists() and not old.exists()


def test_rays_folder_lasts_as_long_as_its_sweep(base: Path) -> None:
    killed = left_by(base, "ray-1", ended())
    with ray_folder() as folder:
        assert folder.parent == base and not killed.exists()
        (folder / "session").mkdir()
        temporary._clear(base)  # by another process
        assert (folder / "session").is_dir()
    assert not folder.exists()
    leave()
    assert not base.exists()


def test_rays_sockets_fit_below_a_long_temporary_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="a" * 18) as place:
        monkeypatch.setattr(tempfile, "tempdir", place)
        with ray_folder() as folder:
            assert folder.is_dir() and len(f"{folder}{temporary._SOCKET}") <= 107
        leave()
        assert not list(Path(place).iterdir())


def test_many_may_come_and_go_at_once(base: Path) -> None:
    """The folder itself is deleted and made again and again; nobody fails, and nobody's copy is deleted under them."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(40):
                with temporary._locked() as found:
                    mine = found / f"{number}-{turn}"
                    mine.mkdir()
                    mine.rmdir()
                leave()
        except BaseException as error:  # noqa: B036
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and not base.exists()


def test_a_folder_of_another_user_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base.mkdir()
    owner = os.getuid()
    monkeypatch.setattr(temporary, "_base", lambda: base)
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(InputError, match="another user"):
        scratch("s3://a/b")
    leave()
    assert base.is_dir()
