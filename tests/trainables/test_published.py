"""``frontier data``: downloads from a server of the test's own that cuts connections and serves wrong files."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import sweeps.commands.data  # noqa: F401 - adds its commands
from sweeps.commands import application
from trainables.corpora import CORPORA
from trainables.published import catalogue as published
from trainables.published import fetching
from trainables.published.catalogue import PUBLISHED, Archive, PublishedData
from trainables.tables.formats import read_table


class Publisher:
    """What a server has, and how it misbehaves.

    Attributes:
        files: content by path.
        cuts: for every request to come, after how many bytes the connection ends (None: never).
        ranges: whether it can begin in the middle.
        statuses: answers to the requests to come, instead of the file.
        asked: (path, Range header) of every request.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cuts: list[int | None] = []
        self.ranges = True
        self.statuses: list[int] = []
        self.asked: list[tuple[str, str | None]] = []
        publisher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.asked.append((handler.path, wanted))
        content = self.files.get(handler.path)
        status = self.statuses.pop(0) if self.statuses else 200 if content is not None else 404
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if status != 200 or content is None:
            handler.send_error(status)
            return
        if start and start >= len(content):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(content)}")
            handler.send_header("Content-Length", "9")
            handler.end_headers()
            handler.wfile.write(b"no range!")
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if handler.path.endswith(".gz"):
            handler.send_header("Content-Encoding", "gzip")  # as web servers do with files of this name
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        cut = self.cuts.pop(0) if self.cuts else None
        handler.wfile.write(content[start : None if cut is None else start + cut])


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    monkeypatch.setattr(fetching, "_PAUSE_SECONDS", 0.0)
    one = Publisher()
    thread = threading.Thread(target=one.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield one
    one.server.shutdown()
    one.server.server_close()
    thread.join()


@pytest.fixture
def small(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> dict[str, PublishedData]:
    """The catalogue with small archives of the same layout, which the server has, and their checksums."""
    rng = np.random.default_rng(0)
    reviews = {
        f"aclImdb/{split}/{kind}/{number}_7.txt": f"A {kind} film.".encode()
        for split in ("train", "test")
        for kind in ("pos", "neg", "unsup")
        for number in range(5)
    }
    vectors = {
        f"glove.6B.{dim}d.txt": "".join(
            f"w{row} {' '.join(f'{x:.4f}' for x in rng.standard_normal(dim))}\n" for row in range(50)
        )
        for dim in (50, 100, 200, 300)
    }
    trees = {f"trees/{split}.txt": b"(3 (2 so) (4 good))\n" for split in ("train", "dev", "test")}
    chunks = b"He PRP B-NP\n. . O\n\n" * 20
    ptb = {
        f"./simple-examples/data/{name}": b"a b c\n"
        for name in ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt", "ptb.char.txt")
    }
    contents = {
        "glove.6B.zip": zipped({name: text.encode() for name, text in vectors.items()}),
        "trainDevTestTrees_PTB.zip": zipped({**trees, "__MACOSX/trees/._train.txt": b"\0"}),
        "train.txt.gz": gzip.compress(chunks),
        "test.txt.gz": gzip.compress(chunks[:19]),
        "aclImdb_v1.tar.gz": tarred({**reviews, "aclImdb/README": b"", "../evil.txt": b"", "/evil.txt": b""}),
        "snli_1.0.zip": zipped({f"snli_1.0/snli_1.0_{split}.jsonl": b"{}\n" for split in ("train", "dev", "test")}),
        "simple-examples.tgz": tarred(ptb),
        "wikitext-2-v1.zip": zipped({f"wikitext-2/wiki.{split}.tokens": b"a b\n" for split in ("train", "valid", "test")}),
    }
    contents |= {
        f"{split}.{language}.gz": gzip.compress(f"{split} {language}\n".encode())
        for split in ("train", "val", "test_2016_flickr")
        for language in ("de", "en")
    }
    catalogue = {}
    for name, one in PUBLISHED.items():
        archives = []
        for archive in one.archives:
            path = urlsplit(archive.url).path
            content = publisher.files[path] = contents[path.rsplit("/", 1)[-1]]
            archives.append(Archive(archive.url, f"sha256:{hashlib.sha256(content).hexdigest()}", archive.members))
        files = {pattern: min(number, 5) for pattern, number in one.files.items()}
        sizes = (one.download_bytes, 1_000_000)
        catalogue[name] = PublishedData(name, one.about, one.licence, one.page, *sizes, tuple(archives), files)
    monkeypatch.setattr(published, "PUBLISHED", catalogue)
    return catalogue


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)
    return stream.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as bundle:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            bundle.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def data(*words: object, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(application(), ["data", *map(str, words)], env={"COLUMNS": "200", **(env or {})})


def here(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def refused(result: Result) -> str:
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    return lines[0]


def test_everything_lands_where_it_is_read(publisher: Publisher, small: dict[str, PublishedData], tmp_path: Path) -> None:
    done = data("fetch", *small, "--data", tmp_path, "--base-url", publisher.url + "/")
    assert done.exit_code == 0, done.output
    assert f"Use it with: --data {tmp_path}" in done.stdout
    for name in ("sst5", "sst2", "conll2000", "imdb", "multi30k", "ptb", "wikitext2"):
        assert len(CORPORA[name].read(tmp_path).train) > 0
    assert read_table("glove.6B.200d.txt", data_dir=tmp_path).vectors.shape == (50, 200)
    found = here(tmp_path)
    assert [name for name in found if name.startswith(("ptb", "snli", "sst"))] == [
        *(f"ptb/ptb.{split}.txt" for split in ("test", "train", "valid")),
        *(f"snli/snli_1.0_{split}.jsonl" for split in ("dev", "test", "train")),
        *(f"sst/trees/{split}.txt" for split in ("dev", "test", "train")),
    ]
    assert not [name for name in found if "unsup" in name or "evil" in name or "download" in name]
    assert len(found) == 12 + 4 + 2 + 20 + 6
    assert not (tmp_path / ".downloads").exists() and not (tmp_path.parent / "evil.txt").exists()


def test_licence_and_source_are_shown_first(publisher: Publisher, small: dict[str, PublishedData], tmp_path: Path) -> None:
    publisher.files.clear()
    failed = data("fetch", "snli", "--data", tmp_path, "--base-url", publisher.url)
    assert "licence: CC BY-SA 4.0; from https://nlp.stanford.edu/projects/snli/" in failed.stdout
    assert "the server answers 404" in refused(failed) and f"{publisher.url}/projects/snli/snli_1.0.zip" in refused(failed)
    assert len(publisher.asked) == 1  # a file that is not there is not asked for again


def test_what_is_there_is_not_downloaded(publisher: Publisher, small: dict[str, PublishedData], tmp_path: Path) -> None:
    own = tmp_path / "glove.6B.50d.txt"
    own.write_text("mine 1\n")
    first = data("fetch", "glove.6B", "--data", tmp_path, env={"FRONTIER_DATA_MIRROR": publisher.url})
    assert first.exit_code == 0 and own.read_text() == "mine 1\n"  # no file is overwritten
    assert len(publisher.asked) == 1
    again = data("fetch", "glove.6B", env={"FRONTIER_DATA_MIRROR": publisher.url, "FRONTIER_DATA": str(tmp_path)})
    assert again.exit_code == 0 and "already present; nothing downloaded" in again.stdout
    assert len(publisher.asked) == 1


def test_cut_connections_are_resumed(publisher: Publisher, small: dict[str, PublishedData], tmp_path: Path) -> None:
    publisher.cuts = [1000, 2000, 0, 500]
    done = data("fetch", "glove.6B", "--data", tmp_path, "--base-url", publisher.url)
    assert done.exit_code == 0, done.output
    assert [span for _, span in publisher.asked] == [None, "bytes=1000-", "bytes=3000-", "bytes=3000-", "bytes=3500-"]
    assert len(here(tmp_path)) == 4


def test_the_next_run_goes_on(publisher: Publisher, small: dict[str, PublishedData], tmp_path: Path) -> None:
    command = ("fetch", "glove.6B", "--data", tmp_path, "--base-url", publisher.url)
    publisher.cuts = [1000, *[0] * 5]
    message = refused(data(*command))
    assert "the connection ended after 1,000 of" in message and "1,000 bytes are kept" in message
    assert here(tmp_path) == [".downloads/glove.6B-glove.6B.zip.part"]
    publisher.asked.clear()
    assert data(*command).exit_code == 0
    assert [span for _, span in publisher.asked] == ["bytes=1000-"]
    assert len(here(tmp_path)) == 4


@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_of_another_file(publisher: Publisher, small: dict[str, PublishedData], tmp_path: Path, ranges: bool) -> None:
    """One that is longer than the file, and a server that cannot begin in the middle: it starts anew."""
    publisher.ranges = ranges
    part = tmp_path / ".downloads/sst-trainDevTestTrees_PTB.zip.part"
    part.parent.mkdir()
    part.write_bytes(b"x" * 10_000)
    done = data("fetch", "sst", "--data", tmp_path, "--base-url", publisher.url)
    assert done.exit_code == 0, done.output
    assert len(here(tmp_path)) == 3


def test_a_part_that_was_whole(publisher: Publisher, small: dict[str, PublishedData], tmp_path: Path) -> None:
    part = tmp_path / ".downloads/sst-trainDevTestTrees_PTB.zip.part"
    part.parent.mkdir()
    part.write_bytes(publisher.files["/sentiment/trainDevTestTrees_PTB.zip"])
    done = data("fetch", "sst", "--data", tmp_path, "--base-url", publisher.url)
    assert done.exit_code == 0, done.output
    assert len(here(tmp_path)) == 3 and len(publisher.asked) == 1


def test_a_server_that_is_busy_is_asked_again(publisher: Publisher, small: dict[str, PublishedData], tmp_path: Path) -> None:
    publisher.statuses = [503, 429]
    assert data("fetch", "sst", "--data", tmp_path, "--base-url", publisher.url).exit_code == 0
    publisher.statuses = [503] * 5
    assert "the server answers 503" in refused(data("fetch", "ptb", "--data", tmp_path, "--base-url", publisher.url))


@pytest.mark.parametrize(
    "change", [lambda content: content[:-1] + b"?", lambda content: content + b"?", lambda content: content[:99]]
)
def test_wrong_checksums_leave_nothing(
    publisher: Publisher, small: dict[str, PublishedData], tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    path = "/sentiment/trainDevTestTrees_PTB.zip"
    good = publisher.files[path]
    publisher.files[path] = change(good)
    message = refused(data("fetch", "sst", "--data", tmp_path, "--base-url", publisher.url))
    assert "SHA256" in message and hashlib.sha256(good).hexdigest() in message
    assert hashlib.sha256(change(good)).hexdigest() in message
    assert here(tmp_path) == []
    publisher.files[path] = good
    assert data("fetch", "sst", "--data", tmp_path, "--base-url", publisher.url).exit_code == 0


def test_an_archive_without_its_files(
    publisher: Publisher, small: dict[str, PublishedData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(small, "ptb", PublishedData("ptb", "", "", "", 0, 0, small["sst"].archives, small["ptb"].files))
    message = refused(data("fetch", "ptb", "--data", tmp_path, "--base-url", publisher.url))
    assert "ptb: the archive has not all of ptb/ptb.train.txt" in message


def test_wrong_input(publisher: Publisher, tmp_path: Path) -> None:
    assert "Did you mean 'conll2000'?" in refused(data("fetch", "sst", "conll200", "--data", tmp_path))
    assert "expected an address such as" in refused(data("fetch", "sst", "--data", tmp_path, "--base-url", "file:///tmp"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused(data("fetch", "sst", "--data", tmp_path / "file", "--base-url", publisher.url))
    publisher.server.server_close()
    assert "no connection" in refused(data("fetch", "sst", "--data", tmp_path / "new", "--base-url", publisher.url))
    assert list((tmp_path / "new").iterdir()) == []


def test_no_room(publisher: Publisher, small: dict[str, PublishedData], tmp_path: Path) -> None:
    one = small["sst"]
    huge = PublishedData("sst", "", "", "", 0, 10**18, one.archives, one.files)
    small["sst"] = huge
    assert "1,000,000,000,000,000,000 bytes" in refused(
        data("fetch", "sst", "--data", tmp_path, "--base-url", publisher.url)
    )
    assert publisher.asked == []


def test_list(publisher: Publisher, small: dict[str, PublishedData], tmp_path: Path) -> None:
    assert data("list", "--names").stdout.split() == [
        "glove.6B",
        "sst",
        "conll2000",
        "imdb",
        "snli",
        "multi30k",
        "ptb",
        "wikitext2",
    ]
    assert data("fetch", "sst", "--data", tmp_path, "--base-url", publisher.url).exit_code == 0
    lines = data("list", "--data", tmp_path).stdout.splitlines()
    assert lines[0].startswith("glove.6B") and "862.2 MB" in lines[0]
    assert lines[1:3] == [
        "    licence: PDDL 1.0; from https://nlp.stanford.edu/projects/glove/",
        f"    incomplete under {tmp_path}",
    ]
    assert lines[5] == f"    complete under {tmp_path}"
