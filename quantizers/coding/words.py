"""The words of a table, in row order, as a file keeps them: UTF-8, one a line.

Python's strings take 60 bytes a word and more, of a table of 100 columns a sixth of its vectors. The text itself and where
each word begins take some 11.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np

from quantizers.errors import InputError

_AT_ONCE = 1 << 14  # words decoded at once


def encode_words(words: Sequence[str], name: str = "table") -> bytes:
    """See :meth:`Words.encode`, of any sequence of words."""
    return (words if isinstance(words, Words) else Words(words, name)).encode()


class Words(Sequence[str]):
    """N words in row order; equal to any sequence of the same words.

    Bytes that were not UTF-8 where the words were read (``surrogateescape``) are kept as they were.

    Args:
        words: at least one, none with a line break.
        name: of the table, for the message of an error.

    Raises:
        InputError: a word holds a line break, or cannot be encoded.
    """

    __slots__ = ("_starts", "_text")

    def __init__(self, words: Iterable[str], name: str = "table") -> None:
        words = list(words)
        text = "\n".join(words)
        if text.count("\n") != len(words) - 1:
            row, word = next((row, word) for row, word in enumerate(words) if "\n" in word)
            raise InputError(f"{name}: the word of row {row}, {word!r}, holds a line break; words are stored one a line.")
        try:
            self._keep(text.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError as error:
            row = text.count("\n", 0, error.start)
            raise InputError(f"{name}: the word of row {row}, {words[row]!r}, cannot be written as UTF-8.") from None

    @classmethod
    def decode(cls, data: bytes) -> Words:
        """The words whose :meth:`encode` is ``data``."""
        words = cls.__new__(cls)
        words._keep(bytes(data))
        return words

    def encode(self) -> bytes:
        """UTF-8, one word a line, without a line break at the end."""
        return self._text

    def _keep(self, text: bytes) -> None:
        ends = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == ord("\n"))
        self._text = text
        self._starts = np.empty(len(ends) + 2, dtype=np.int32 if len(text) < (1 << 31) - 1 else np.int64)
        self._starts[0], self._starts[-1] = 0, len(text) + 1
        self._starts[1:-1] = ends + 1

    def _lines(self, first: int, last: int) -> bytes:
        return self._text[self._starts[first] : self._starts[last] - 1]

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[str]: ...
    def __getitem__(self, row: int | slice) -> str | Sequence[str]:
        if isinstance(row, slice):
            first, last, step = row.indices(len(self))
            if step == 1 and first < last:
                return Words.decode(self._lines(first, last))
            return [self[each] for each in range(first, last, step)]
        row = operator.index(row)
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} words")
        row %= len(self)
        return self._lines(row, row + 1).decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _AT_ONCE):
            lines = self._lines(first, min(len(self), first + _AT_ONCE))
            yield from lines.decode("utf-8", "surrogateescape").split("\n")

    def __eq__(self, other: Any) -> bool:
        if isinstance(other, Words):
            return self._text == other._text
        if isinstance(other, Sequence) and not isinstance(other, str):
            return len(self) == len(other) and all(own == its for own, its in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(repr(word) for word in self[:3])
        return f"Words([{shown}{', ..' if len(self) > 3 else ''}], {len(self)} words)"
