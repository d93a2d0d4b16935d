"""Fetches published data into the data folder: downloads that go on where they were cut, checksums, unpacking.

Nothing appears in the data folder before its archive is whole and has the published checksum, and every file appears at
once. What is under way is in ``.downloads`` there; a file that is there already is never touched.
"""

from __future__ import annotations

import contextlib
import fnmatch
import gzip
import logging
import os
import re
import shutil
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast
from urllib.parse import urlsplit

import pooch
import requests
import urllib3

from quantizers.errors import InputError
from trainables.published.catalogue import Archive, PublishedData

Report = Callable[[str, int, int | None], None]
"""Called with what is being done, how far it is and where it ends (None: unknown)."""

_FOLDER = ".downloads"
_CHUNK_BYTES = 1 << 18
_TIMEOUT_SECONDS = 30
_ATTEMPTS = 5  # in a row that bring nothing; a connection that is cut again and again still gets there
_PAUSE_SECONDS = 1.0


class _Cut(Exception):
    """The connection ended before the file did, or could not be made; worth another attempt."""


class ResumingDownloader:
    """A downloader for pooch that goes on where the last attempt, or the last run of the program, was cut.

    Args:
        part: where what has come so far is kept; it becomes the output file when it is whole.
        report: told the bytes that have come, and how many there will be.
    """

    def __init__(self, part: Path, report: Report) -> None:
        self.part, self.report = part, report

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Download ``url``; pooch checks the checksum of ``output_file`` afterwards.

        Raises:
            InputError: the server refuses, or the connection keeps failing.
        """
        left, most = _ATTEMPTS, self._size()
        while True:
            try:
                self._continue(url)
                break
            except _Cut as error:
                left = left - 1 if self._size() <= most else _ATTEMPTS
                most = max(most, self._size())
                if left == 0:
                    kept = (
                        f"; {self._size():,} bytes are kept, and the same command goes on from there" if self._size() else ""
                    )
                    raise InputError(f"{url}: {error}{kept}.") from None
                time.sleep(_PAUSE_SECONDS * (_ATTEMPTS - left))
        os.replace(self.part, output_file)

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _continue(self, url: str) -> None:
        have = self._size()
        total: int | None = None
        # "identity": a .gz is wanted as it is, though servers like to declare it an encoding of its text.
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
        try:
            with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS) as response:
                have, total = self._accept(response, have)
                if response.status_code == 416:  # nothing is left to come
                    return
                with self.part.open("ab") as file:
                    file.truncate(have)
                    for block in response.raw.stream(_CHUNK_BYTES, decode_content=False):
                        file.write(block)
                        have += len(block)
                        self.report("downloading", have, total)
        except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
            lost = (
                "no connection; a mirror can be named with --base-url"
                if total is None
                else f"the connection ended after {have:,} of {total:,} bytes"
            )
            raise _Cut(f"{lost} ({type(error).__name__})") from None
        except requests.RequestException as error:
            raise InputError(f"{url}: {error}.") from None

    def _accept(self, response: requests.Response, have: int) -> tuple[int, int | None]:
        """From which byte on the answer goes, and how many the file has."""
        span = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
        if response.status_code == 206 and span and span[1] is not None and int(span[1]) == have:
            return have, None if span[2] == "*" else int(span[2])
        if response.status_code == 416 and span and span[2] == str(have):
            return have, have
        if response.status_code in (206, 416):  # what is here is no beginning of the file that is there
            self.part.unlink(missing_ok=True)
            raise _Cut("the server has another file than the one that was begun")
        if response.status_code >= 500 or response.status_code == 429:
            raise _Cut(f"the server answers {response.status_code} {response.reason}")
        if response.status_code != 200:
            raise InputError(f"{response.url}: the server answers {response.status_code} {response.reason}.")
        length = response.headers.get("Content-Length")
        return 0, None if length is None else int(length)


def mirrored(url: str, base_url: str | None) -> str:
    """``url`` with ``base_url`` in the place of the publisher's host.

    Raises:
        InputError: ``base_url`` is no http or https address.
    """
    if base_url is None:
        return url
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InputError(f"--base-url {base_url}: expected an address such as https://mirror.example/data.")
    return base_url.rstrip("/") + urlsplit(url).path


def fetch(data: PublishedData, data_dir: Path, report: Report, *, base_url: str | None = None) -> list[Path]:
    """Download what is missing of a data set and unpack it.

    Args:
        data: what to fetch.
        data_dir: the data folder; it is made if need be.
        report: told how far it is.
        base_url: takes the place of the publisher's host.

    Returns:
        The files that are new. None are if the data set was complete.

    Raises:
        InputError: no connection, a wrong checksum, an archive that is not as expected, or no room.
    """
    if data.is_complete(data_dir):
        return []
    downloads = data_dir / _FOLDER
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(data_dir).free
        if free < data.disk_bytes:
            raise InputError(f"{data_dir}: {data.name} needs about {data.disk_bytes:,} bytes, and {free:,} are free there.")
        new: list[Path] = []
        for archive in data.archives:
            path = _download(archive, data, downloads, report, base_url)
            new += _unpack(path, archive, data_dir, report)
            path.unlink()
    except OSError as error:
        raise InputError(f"{data.name}: cannot write {error.filename or data_dir} ({error.strerror or error}).") from None
    finally:
        with contextlib.suppress(OSError):  # not empty: what has come so far is in it
            downloads.rmdir()
    if not data.is_complete(data_dir):
        raise InputError(f"{data.name}: the archive has not all of {', '.join(data.files)}.")
    return new


def _download(archive: Archive, data: PublishedData, downloads: Path, report: Report, base_url: str | None) -> Path:
    url = mirrored(archive.url, base_url)
    name = f"{data.name}-{PurePosixPath(urlsplit(archive.url).path).name}"
    pooch.get_logger().setLevel(logging.WARNING)  # the caller tells people what is fetched
    downloader = ResumingDownloader(downloads / f"{name}.part", report)
    try:
        return Path(pooch.retrieve(url, archive.checksum, fname=name, path=downloads, downloader=downloader))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{data.name}: {url}: {error}") from None


def _unpack(path: Path, archive: Archive, data_dir: Path, report: Report) -> list[Path]:
    new = []
    temporary = path.with_name(f"{path.name}.unpacking")
    try:
        for number, (name, stream) in enumerate(_members(path, archive), start=1):
            folder = next(folder for pattern, folder in archive.members.items() if fnmatch.fnmatchcase(name, pattern))
            target = data_dir / folder / PurePosixPath(name).name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                with temporary.open("wb") as file:
                    shutil.copyfileobj(stream, file, _CHUNK_BYTES)
                temporary.replace(target)
                new.append(target)
            report("unpacking", number, None)
    finally:
        temporary.unlink(missing_ok=True)
    return new


def _members(path: Path, archive: Archive) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of the files in an archive that are wanted."""

    def wanted(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in archive.members)

    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as bundle:
            for name in filter(wanted, bundle.namelist()):
                with bundle.open(name) as stream:
                    yield name, stream
    elif path.name.endswith((".tar.gz", ".tgz")):
        with tarfile.open(path, "r|gz") as tape:
            for member in tape:
                name = member.name.removeprefix("./")
                content = tape.extractfile(member) if member.isfile() and wanted(name) else None
                if content is not None:
                    yield name, content
    else:
        with gzip.open(path) as text:
            yield PurePosixPath(urlsplit(archive.url).path).stem, cast(IO[bytes], text)
