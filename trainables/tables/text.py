"""GloVe and word2vec text tables: one word and its vector a line.

Shapes: N rows, D columns.

The file is read in blocks of whole lines. Words are cut off in Python, which is cheap; the numbers, which are not, go to
Arrow's CSV parser as one long column: it rounds every value to the nearest float32.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from quantizers.errors import InputError, counted
from quantizers.table import Table

_LOG = logging.getLogger(__name__)
_BLOCK_BYTES = 1 << 22  # the lines of a block take up to 80 times its bytes
_MAX_LINE_BYTES = 1 << 23
_MAX_HEADER_DIGITS = 18
_PEEK_LINES = 100
_BOM = b"\xef\xbb\xbf"


def read_text(stream: IO[bytes], source: str, rows: int | None = None) -> tuple[np.ndarray, list[str]]:
    """Read a text table.

    A first line of two whole numbers is a word2vec header if the next line has as many values as it says. A line with more
    fields than the table has columns holds a word with spaces: the last D fields are its vector. Empty lines and spaces at
    the end of a line are ignored. A word that comes twice keeps its rows; bytes that are not UTF-8 are kept as surrogate
    escapes; the log says how many there were, and whether the last line has no end.

    Args:
        stream: where the bytes come from.
        source: what to call it in messages.
        rows: read the first rows only.

    Returns:
        Vectors (N, D) float32 and N words.

    Raises:
        InputError: a line with too few or too many values, a value that is not a finite number, or a header that disagrees
            with the rows; the message gives the line.
    """
    return _TextReader(stream, source, rows).read()


class _TextReader:
    def __init__(self, stream: IO[bytes], source: str, rows: int | None) -> None:
        self.stream, self.source, self.limit = stream, source, rows
        self.dim = 0
        self.promised: int | None = None  # rows, as a word2vec header has them
        self.vectors = np.empty((0, 0), dtype=np.float32)
        self.words: list[str] = []
        self.lines: list[int] = []  # line number of every row
        self.not_utf8 = 0

    def read(self) -> tuple[np.ndarray, list[str]]:
        number = 1
        for block in _whole_lines(self.stream, self.source):
            if number > 1 and not block.strip():
                number += block.count(b"\n")  # gigabytes of line breaks are no work
                continue
            open_ended = not block.endswith(b"\n")
            lines = (block + b"\n" if open_ended else block).replace(b"\t", b" ").split(b"\n")
            if number == 1:
                if b"\0" in lines[0]:
                    raise InputError(f"{self.source}: binary data, not a text table (a word2vec binary file ends in .bin).")
                lines[0] = lines[0].removeprefix(_BOM)
            if max(map(len, lines)) > _MAX_LINE_BYTES:
                raise _too_long(self.source)
            numbered = [(number + i, text) for i, line in enumerate(lines) if (text := line.rstrip(b" \r"))]
            number += len(lines) - 1
            if not self.dim and numbered:
                numbered = self._begin(numbered)
            if self.limit is not None:
                numbered = numbered[: self.limit - len(self.words)]
            if numbered:
                self._add(numbered)
            if len(self.words) == self.limit:
                break
            if open_ended and numbered:
                _LOG.warning(
                    "%s:%d: the last line has no line break. If the file was cut off there, the last value of %s is too "
                    "short: compare the file's size with the original's.",
                    self.source,
                    numbered[-1][0],
                    _show(self.words[-1].encode(errors="surrogateescape")),
                )
        if not self.words:
            raise InputError(f"{self.source}: no table in it: " + ("the file is empty." if number == 1 else "no rows."))
        if self.promised not in (None, len(self.words)) and len(self.words) != self.limit:
            raise InputError(
                f"{self.source}:1: the header says {counted(self.promised or 0, 'row')}, the file holds {len(self.words)}: "
                "it was cut off, or the header is wrong."
            )
        if self.not_utf8:
            _LOG.warning("%s: words that are not UTF-8: %d; their bytes are kept as they are.", self.source, self.not_utf8)
        note_repeated(self.words, self.lines, self.source)
        return self.vectors, self.words

    def _begin(self, numbered: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Find D, and the header where there is one; returns the lines that are rows."""
        first = numbered[0][1].split(b" ")
        peek = [line for _, line in numbered[:_PEEK_LINES]]
        widths = [_trailing_numbers(line) for line in peek]
        if len(first) == 2 and all(field.isdigit() and len(field) <= _MAX_HEADER_DIGITS for field in first):
            promised, dim = int(first[0]), int(first[1])
            if len(widths) < 2:
                raise InputError(f"{self.source}:1: the header says {counted(promised, 'row')}, the file holds none.")
            # A GloVe table of one column may begin with a number, "2000 1": there every line has two fields.
            if widths[1] == dim or widths[1] != 1:
                if widths[1] != dim:
                    line = numbered[1][0]
                    raise InputError(
                        f"{self.source}:{line}: {counted(widths[1], 'value')}, the header in line 1 says "
                        f"{counted(dim, 'column')}."
                    )
                self.promised, self.dim = promised, dim
                return numbered[1:]
        self.dim = Counter(widths).most_common(1)[0][0]
        if len(numbered) > 1 and all(b"." in line.split(b" ")[0] and _is_number(line.split(b" ")[0]) for line in peek):
            raise InputError(f"{self.source}: every line begins with a decimal number; expected a word and its vector.")
        if not self.dim:
            line, text = numbered[0]
            raise InputError(f"{self.source}:{line}: no numbers: {_show(text)}. Expected a word and its vector.")
        return numbered

    def _add(self, numbered: list[tuple[int, bytes]]) -> None:
        """Parse rows and put them behind those that are there."""
        words, tails = [], []
        for number, line in numbered:
            spaces = line.count(b" ")
            if spaces == self.dim:
                word, _, tail = line.partition(b" ")
            else:
                word, tail = self._odd_line(number, line, spaces)
            words.append(word)
            tails.append(tail)
        values = _numbers(b"\n".join(tails))
        if values is None or values.size != len(words) * self.dim:
            raise self._bad_value(numbered, words, tails)
        part = values.reshape(-1, self.dim)
        finite = np.isfinite(part).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            raise InputError(f"{self.source}:{numbered[row][0]}: NaN or infinity in the vector of {_show(words[row])}.")
        done = len(self.words)
        # Grown in place (realloc): the array is never held twice, as a list of blocks and their concatenation would be.
        self.vectors.resize((done + len(part), self.dim), refcheck=False)
        self.vectors[done:] = part
        self.words.extend(self._decode(words))
        self.lines.extend(number for number, _ in numbered)

    def _odd_line(self, number: int, line: bytes, spaces: int) -> tuple[bytes, bytes]:
        """A line without exactly D spaces: a word with spaces in it, or an error."""
        word, *values = line.rsplit(b" ", self.dim)
        later = word.split(b" ")[1:]
        if spaces < self.dim or any(_is_number(field) for field in later):
            first, _, _ = line.partition(b" ")
            raise InputError(f"{self.source}:{number}: {counted(spaces, 'value')} for {_show(first)}, expected {self.dim}.")
        return word, b" ".join(values)

    def _bad_value(self, numbered: Sequence[tuple[int, bytes]], words: list[bytes], tails: list[bytes]) -> InputError:
        """The error of the first value that is not a number."""
        row = next(row for row, tail in enumerate(tails) if not _holds(tail, self.dim))
        fields = tails[row].split(b" ")
        at = next((at for at, field in enumerate(fields) if not _holds(field, 1)), 0)
        what = f"value {at + 1} of {_show(words[row])} is not a number: {_show(fields[at])}"
        return InputError(f"{self.source}:{numbered[row][0]}: {what}.")

    def _decode(self, words: list[bytes]) -> list[str]:
        try:
            return b"\n".join(words).decode().split("\n")
        except UnicodeDecodeError:
            decoded = [word.decode(errors="surrogateescape") for word in words]
            self.not_utf8 += sum(text.encode(errors="ignore") != word for text, word in zip(decoded, words, strict=True))
            return decoded


def note_repeated(words: Sequence[str], places: Sequence[int], source: str, unit: str = "lines") -> None:
    """Say once in the log that words come more than once, how many, and where the first does. They keep their rows.

    Args:
        words: N words.
        places: where each of them is in ``source``, for the message.
        source: where the words are from.
        unit: what ``places`` counts.
    """
    distinct = len(set(words))
    if distinct == len(words):
        return
    seen: dict[str, int] = {}
    row = next(row for row, word in enumerate(words) if seen.setdefault(word, row) != row)
    _LOG.warning(
        "%s: %s more than once, the first of them %r in %s %d and %d; every row is kept, and a look-up finds the first.",
        source,
        f"{counted(len(words) - distinct, 'word')} {'occurs' if len(words) - distinct == 1 else 'occur'}",
        words[row],
        unit,
        places[seen[words[row]]],
        places[row],
    )


def write_text(stream: IO[bytes], table: Table, *, header: bool) -> None:
    """Write a text table, each value as the shortest decimal that reads back as the same float32.

    Args:
        stream: where the bytes go.
        table: a table with words.
        header: write word2vec's first line.

    Raises:
        InputError: a word that would not be read back.
    """
    num_rows, dim = table.shape
    vectors = table.vectors.cpu().numpy()
    encoded = [word.encode(errors="surrogateescape") for word in table.words or ()]
    for word in encoded:
        spoiled = any(byte in word for byte in b"\t\0") or word.startswith(_BOM)
        if spoiled or any(_is_number(field) for field in word.split(b" ")[1:]):
            raise InputError(f"The word {_show(word)} cannot be written to a text table: it would not be read back.")
    if header or (dim == 1 and encoded[0].isdigit()):  # "3 1" as a first row would be taken for a header
        stream.write(f"{num_rows} {dim}\n".encode())
    step = max(1, (1 << 20) // dim)
    for start in range(0, num_rows, step):
        part = vectors[start : start + step]
        digits = pc.cast(pa.array(part.reshape(-1)), pa.string()).cast(pa.binary())
        offsets = pa.array(np.arange(len(part) + 1, dtype=np.int32) * dim)
        rows = pc.binary_join(pa.ListArray.from_arrays(offsets, digits), b" ")
        lines = pc.binary_join_element_wise(pa.array(encoded[start : start + step], pa.binary()), rows, b" ")
        stream.write(b"\n".join(lines.to_pylist()) + b"\n")


def _whole_lines(stream: IO[bytes], source: str) -> Iterator[bytes]:
    """Blocks that end at a line's end, but for the last one where the file does not."""
    rest = b""
    while chunk := stream.read(_BLOCK_BYTES):
        end = chunk.rfind(b"\n") + 1
        if end:
            yield rest + chunk[:end]
            rest = chunk[end:]
        else:
            rest += chunk
            if len(rest) > _MAX_LINE_BYTES:
                raise _too_long(source)
    if rest:
        yield rest


def _too_long(source: str) -> InputError:
    return InputError(f"{source}: a line of more than {_MAX_LINE_BYTES >> 20} MiB: not a text table.")


def _numbers(text: bytes) -> np.ndarray | None:
    """The numbers in ``text``, between spaces or line breaks, or None if one of the fields is none."""
    if not text.strip():
        return None
    options = pacsv.ConvertOptions(column_types={"v": pa.float32()}, null_values=[], strings_can_be_null=False)
    try:
        table = pacsv.read_csv(
            pa.py_buffer(text.replace(b" ", b"\n")),
            read_options=pacsv.ReadOptions(column_names=["v"], use_threads=False, block_size=len(text) + 1),
            parse_options=pacsv.ParseOptions(quote_char=False),
            convert_options=options,
        )
    except pa.ArrowInvalid:
        return None
    return np.asarray(table["v"].to_numpy())


def _holds(text: bytes, count: int) -> bool:
    values = _numbers(text)
    return values is not None and values.size == count


def _is_number(field: bytes) -> bool:
    """Whether one field is a number with digits (so ``nan`` and ``inf`` are words here)."""
    try:
        float(field)
    except ValueError:
        return False
    return any(digit in field for digit in b"0123456789")


def _trailing_numbers(line: bytes) -> int:
    """How many fields at the end of the line, apart from its first, are numbers."""
    fields = line.split(b" ")[1:]
    return next((count for count, field in enumerate(reversed(fields)) if not _is_number(field)), len(fields))


def _show(text: bytes) -> str:
    shown = text.decode(errors="replace")
    return repr(shown if len(shown) <= 40 else shown[:40] + "...")
