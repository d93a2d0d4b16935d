"""Tables in columns: Parquet, Arrow and Feather files, and CSV and TSV with a header.

The vectors are one column of lists, or a column a dimension; words are in a column of text beside them.

Shapes: N rows, D columns.
"""

from __future__ import annotations

import csv
import io
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import torch

from quantizers.errors import InputError, counted, unknown_name
from quantizers.table import Table
from trainables.tables.arrays import checked_counts, checked_words
from trainables.tables.opening import limit_of, too_much
from trainables.tables.text import read_text

_LOG = logging.getLogger(__name__)
_WORD_NAMES = ("word", "words", "token", "tokens", "key", "term", "label", "__index_level_0__")
_ROW_NAMES = ("", "id", "idx", "index", "row")  # pandas writes an index without a name
_COUNT_NAMES = ("count", "counts", "freq", "frequency")
_HEAD_BYTES = 1 << 20
_HEAD_LINES = 50
_MAX_COLUMNS = 1 << 17


def read_parquet(path: Path, name: str | None, rows: int | None, max_unpacked: int | None) -> Table:
    """A Parquet file; ``name`` is the column of lists, where there are several."""

    def batches() -> tuple[Any, Iterable[Any]]:
        found = pq.ParquetFile(path)
        size = sum(found.metadata.row_group(group).total_byte_size for group in range(found.metadata.num_row_groups))
        if size > limit_of(path.stat().st_size, max_unpacked):
            raise too_much(path, limit_of(path.stat().st_size, max_unpacked))
        return found.schema_arrow, found.iter_batches(batch_size=1 << 14)

    return _read(path, name, rows, max_unpacked, batches)


def read_arrow(path: Path, name: str | None, rows: int | None, max_unpacked: int | None) -> Table:
    """An Arrow file or stream (``.arrow``), or a Feather file; ``name`` is the column of lists, where there are several."""

    def batches() -> tuple[Any, Iterable[Any]]:
        source = pa.memory_map(str(path))
        if source.read(6) == b"ARROW1":
            file = ipc.open_file(source)
            return file.schema, (file.get_batch(number) for number in range(file.num_record_batches))
        source.seek(0)
        stream = ipc.open_stream(source)
        return stream.schema, stream

    return _read(path, name, rows, max_unpacked, batches)


def read_separated(stream: IO[bytes], source: str, rows: int | None, separator: str, name: str) -> Table:
    """CSV or TSV with a header: a column a dimension, and one of words.

    A file whose first line is data is read too: CSV as if it had a header, TSV as a text table.

    Raises:
        InputError: a value is not a number, lines differ in length, or no column holds numbers.
    """
    head = stream.read(_HEAD_BYTES)
    try:
        text = head.decode("utf-8-sig", "replace" if len(head) == _HEAD_BYTES else "surrogateescape")
        lines = list(
            itertools.islice(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=False), _HEAD_LINES)
        )
    except csv.Error as error:
        raise InputError(f"{source}: not a table of values between {separator!r} ({error}).") from None
    lines = [line for line in lines if line]
    if len(lines) == _HEAD_LINES or (len(lines) > 2 and len(head) == _HEAD_BYTES):
        lines.pop()  # it may be cut
    rest = io.BufferedReader(_Chained(head, stream))
    if not lines:
        raise InputError(f"{source}: no table in it: the file is empty.")
    width = len(lines[0])
    if width > _MAX_COLUMNS:
        raise InputError(f"{source}: {width:,} columns, but at most {_MAX_COLUMNS:,} are read.")
    has_header = len(lines) > 1 and _is_header(lines)
    if not has_header and separator == "\t":
        vectors, words = read_text(rest, source, rows)
        return Table(torch.from_numpy(vectors), words, name=name)
    names = lines[0] if has_header else [str(at) for at in range(width)]
    if len(set(names)) < width:
        raise InputError(f"{source}:1: the column {next(one for one in names if names.count(one) > 1)!r} occurs twice.")
    body = lines[1:] if has_header else lines
    numeric = [all(at < len(line) and _number(line[at]) for line in body) for at in range(width)]
    kinds: dict[str, Any] = {}
    for at, one in enumerate(names):
        kinds[one] = pa.float32() if numeric[at] and one.lower() not in _WORD_NAMES else pa.string()
        if numeric[at] and one.lower() in _ROW_NAMES and all(line[at].isdecimal() for line in body):
            kinds[one] = pa.int64()  # numbers of rows are no dimension
            _LOG.warning(
                "%s: the column %r holds row numbers and is left out; rename it if it is a dimension.",
                source,
                one,
            )

    def batches() -> tuple[Any, Iterable[Any]]:
        found = pacsv.open_csv(
            rest,
            read_options=pacsv.ReadOptions(
                column_names=names, skip_rows=int(has_header), block_size=1 << 24, use_threads=False
            ),
            parse_options=pacsv.ParseOptions(delimiter=separator),
            convert_options=pacsv.ConvertOptions(column_types=kinds, null_values=[], strings_can_be_null=False),
        )
        return found.schema, found

    return _read(Path(source), None, rows, None, batches, name, unlimited=True)


def _is_header(lines: Sequence[Sequence[str]]) -> bool:
    """Whether the first line names columns: text above numbers, or numbers that count up."""
    numbers = [at for at in range(len(lines[0])) if all(at < len(line) and _number(line[at]) for line in lines[1:])]
    above = [lines[0][at] for at in numbers]
    if not all(_number(cell) for cell in above):
        return True
    counts_up = [str(at) for at in range(len(above))], [str(at + 1) for at in range(len(above))]
    return len(above) > 1 and above in counts_up


def _number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return any(digit in cell for digit in "0123456789")


class _Chained(io.RawIOBase):
    """Bytes that were read already, then the rest of a stream."""

    def __init__(self, head: bytes, stream: IO[bytes]) -> None:
        self._head, self._stream = memoryview(head), stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data: Any = self._head[: len(buffer)]
        self._head = self._head[len(data) :]
        data = data or self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _read(
    path: Path,
    name: str | None,
    rows: int | None,
    max_unpacked: int | None,
    batches: Callable[[], tuple[Any, Iterable[Any]]],
    title: str | None = None,
    *,
    unlimited: bool = False,
) -> Table:
    """Words, counts and vectors of record batches, read until there are enough."""
    parts: list[np.ndarray] = []
    words: list[Any] = []
    counts: list[np.ndarray] = []
    done = size = 0
    try:
        schema, found = batches()
        vectors, word, count = _choose(schema, name, str(path))
        limit = None if unlimited else limit_of(path.stat().st_size, max_unpacked)
        for batch in found:
            batch.validate(full=True)  # before all else: what is not valid makes Arrow read beyond its memory
            size += batch.nbytes
            if limit is not None and size > limit:
                raise too_much(path, limit)
            parts.append(_vectors(batch, vectors, str(path), done))
            if word is not None:
                words += batch.column(word).cast(pa.string()).to_pylist()
            if count is not None:
                counts.append(batch.column(count).cast(pa.float32()).to_numpy(zero_copy_only=False))
            done += batch.num_rows
            if rows is not None and done >= rows:
                break
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: damaged, or cut off ({' '.join(str(error).split())[:200]}).") from None
    except Exception as error:  # Arrow raises errors of its own and Python's, by what is damaged
        raise InputError(
            f"{path}: not a table in columns ({' '.join(str(error).split())[:200] or type(error).__name__})."
        ) from None
    if None in words:
        raise InputError(f"{path}: row {words.index(None)}: there is no word.")
    if not done:
        raise InputError(f"{path}: no table in it: no rows.")
    table = np.concatenate(parts)[:rows]
    checked = checked_words(words, str(path), done)[:rows] if word is not None else None
    frequencies = (
        checked_counts(np.concatenate(counts), f"{path}#{schema.field(count).name}", done)[:rows] if counts else None
    )
    return Table(torch.from_numpy(table), checked, frequencies, title or path.stem)


def _choose(schema: Any, name: str | None, source: str) -> tuple[list[int], int | None, int | None]:
    """Which columns hold the vectors, the words and the counts."""
    fields = list(enumerate(schema))

    def is_list(kind: Any) -> bool:
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        return bool(lists and pa.types.is_floating(kind.value_type))

    def is_text(kind: Any) -> bool:
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))

    texts = [at for at, field in fields if is_text(field.type)]
    named = [at for at in texts if schema.field(at).name.lower() in _WORD_NAMES]
    word = named[0] if named else texts[0] if len(texts) == 1 else None
    if word is None and texts:
        names = ", ".join(schema.field(at).name for at in texts[:10])
        raise InputError(
            f"{source}: {len(texts)} columns of text: {names}; name the one with the words 'word', or keep only that one."
        )
    count = next(
        (at for at, field in fields if field.name.lower() in _COUNT_NAMES and pa.types.is_primitive(field.type)), None
    )
    lists = {field.name: at for at, field in fields if is_list(field.type)}
    if name is not None:
        if name not in lists:
            raise unknown_name(f"column of lists of numbers in {source}", name, lists)
        return [lists[name]], word, count
    if len(lists) > 1:
        raise InputError(f"{source}: {len(lists)} columns of lists: {', '.join(list(lists)[:10])}; name one: {source}#NAME.")
    numbers = [at for at, field in fields if pa.types.is_floating(field.type) and at != count]
    if not lists and not numbers:
        kinds = ", ".join(f"{field.name} ({field.type})" for _, field in fields[:10])
        raise InputError(f"{source}: no column of lists of floats, and none of floats: {kinds or 'no columns'}.")
    return list(lists.values()) or numbers, word, count


def _vectors(batch: Any, columns: Sequence[int], source: str, done: int) -> np.ndarray:
    """The vectors of a batch, (N, D) float32."""
    with np.errstate(over="ignore"):
        first = batch.column(columns[0])
        if first.null_count:
            row = done + first.is_null().to_pylist().index(True)
            raise InputError(f"{source}: row {row}: there is no vector.")
        if not hasattr(first, "flatten") or pa.types.is_floating(first.type):
            return np.stack([_floats(batch.column(at)) for at in columns], axis=1)
        values = _floats(first.flatten())
        if not batch.num_rows:
            return np.empty((0, 0), np.float32)
        dim, left = divmod(len(values), batch.num_rows)
        if not pa.types.is_fixed_size_list(first.type):
            lengths = np.diff(first.offsets.to_numpy())
            if (lengths != lengths[0]).any():
                row = int(np.argmax(lengths != lengths[0]))
                raise InputError(f"{source}: row {done + row}: {counted(lengths[row], 'value')}, expected {lengths[0]}.")
        return values.reshape(batch.num_rows, dim) if not left else values.reshape(batch.num_rows, -1)


def _floats(values: Any) -> np.ndarray:
    return np.asarray(values.to_numpy(zero_copy_only=False)).astype(np.float32)
