"""What a text corpus is: splits of tokenized texts with labels or tags, read from a publisher's own files."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantizers.errors import InputError
from trainables.tables.opening import limit_of

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Examples:
    """One split.

    Attributes:
        tokens: of every text, in order.
        labels: one a text (classification): its place in the classes.
        tags: one a token (tagging).
        hypotheses: tokens of the second sentence of every pair, where a text is one of two.
        translations: tokens of every text's translation, where there is one.
        references: the same translations as they are written.
    """

    tokens: tuple[tuple[str, ...], ...]
    labels: tuple[int, ...] | None = None
    tags: tuple[tuple[str, ...], ...] | None = None
    hypotheses: tuple[tuple[str, ...], ...] | None = None
    translations: tuple[tuple[str, ...], ...] | None = None
    references: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Splits:
    """A corpus as it is read.

    Attributes:
        train: texts to train on.
        dev: texts to choose by.
        test: texts to report on.
        classes: the names of the labels, or the tags, in a fixed order.
    """

    train: Examples
    dev: Examples
    test: Examples
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """A published data set: where its files are under the data folder, and how they are read.

    Attributes:
        name: what people type.
        source: where people get it, in one phrase.
        licence: as the publisher states it.
        layouts: patterns of the files below the data folder, one tuple for every way they may lie; the first layout that
            is complete is read.
        parse: makes the splits of the files, which come in the order of the patterns, and by name within one.
    """

    name: str
    source: str
    licence: str
    layouts: tuple[tuple[str, ...], ...]
    parse: Callable[[Sequence[Path]], Splits]

    def files(self, data_dir: Path | None) -> list[Path]:
        """The files that are read.

        Args:
            data_dir: the data folder, or None where none was given.

        Raises:
            InputError: one is missing; the message says which, where it was looked for and where it comes from.
        """
        if data_dir is None:
            raise InputError(f"{self.name} is read from the data folder, and none was given: pass --data DIR.")
        incomplete = []
        for layout in self.layouts:
            found = {pattern: sorted(data_dir.glob(pattern)) for pattern in layout}
            missing = [pattern for pattern, paths in found.items() if not paths]
            if not missing:
                return [path for paths in found.values() for path in paths]
            incomplete.append((len(missing) - len(layout), missing[0]))
        nearest = min(incomplete, key=lambda one: one[0])[
            1
        ]  # of the layout that most files are there of, the first in doubt
        places = " or ".join(layout[0] for layout in self.layouts if layout[0] != nearest)
        also = f" (read too: {places})" if places else ""
        raise InputError(f"Corpus {self.name}: {nearest} is missing under {data_dir}{also}; it comes from {self.source}.")

    def read(self, data_dir: Path | None) -> Splits:
        """Read the splits.

        Args:
            data_dir: the data folder.

        Raises:
            InputError: a file is missing, or something in it is wrong; the message gives the file and the line.
        """
        return self.parse(self.files(data_dir))


def read_lines(path: Path) -> list[str]:
    """The lines of a text file (``.gz`` too), without their ends.

    Raises:
        InputError: it is empty, is not UTF-8 or is not what its name says.
    """
    return read_text(path).replace("\r\n", "\n").split("\n")


def read_text(path: Path) -> str:
    """The text of a file (``.gz`` too).

    Raises:
        InputError: it is empty, is not UTF-8 or is not what its name says.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from None
    if path.suffix == ".gz":
        limit = limit_of(len(data), None)
        try:
            with gzip.open(io.BytesIO(data)) as stream:
                data = stream.read(limit + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path}: not a whole gzip file ({error}).") from None
        if len(data) > limit:
            raise InputError(f"{path}: unpacks to more than {limit:,} bytes. If that is right, unpack it first.")
    data = data.removeprefix(_BOM)
    if not data.strip():
        raise InputError(f"{path}: the file is empty.")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: expected UTF-8, found the byte {data[error.start]:#04x}.") from None
