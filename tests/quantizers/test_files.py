"""Files are written whole: the old one or the new one, also where writing fails or several write at the same time."""

import threading
from pathlib import Path

import pytest

from quantizers import files
from quantizers.errors import InputError
from quantizers.files import PART_SUFFIX, part_path, replacing, write_bytes, writing


def test_a_file_is_written_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"old")
    write_bytes(tmp_path / "a", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"new")]


def test_a_block_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(RuntimeError, match="half"), replacing(tmp_path / "a") as part:
        assert part.parent == tmp_path
        part.write_bytes(b"new")
        raise RuntimeError("half")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


def test_errors_of_others_pass_through_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError), replacing(tmp_path / "a"):
        raise ConnectionError("of a server, not of this disk")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no/a: cannot write it: No such file or directory\.$"):
        write_bytes(tmp_path / "no" / "a", b"")


def test_a_disk_that_cannot_flush_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    write_bytes(tmp_path / "a", b"old")
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"), writing(tmp_path / "a") as stream:
        stream.write(b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


def test_many_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    contents = [bytes([number]) * 100_000 for number in range(8)]
    threads = [threading.Thread(target=write_bytes, args=(tmp_path / "a", content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert len({part_path(tmp_path / "a") for _ in range(100)}) == 100
    assert part_path(tmp_path / "a").suffix == PART_SUFFIX
